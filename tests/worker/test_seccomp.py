"""What the filter of system calls refuses, and to whom."""

import ctypes
import errno
import os
import threading

import pytest

from torpor.worker import namespaces, seccomp

SETUP = 425
NO_ENTRIES = 0


def answer() -> int:
    """How the kernel answers a request for an io_uring that no kernel would make."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.syscall(SETUP, NO_ENTRIES, 0) == -1
    return ctypes.get_errno()


@pytest.mark.skipif(not namespaces.may_unshare(), reason="needs root")
def test_an_io_uring_is_refused_to_the_process_its_threads_and_its_children() -> None:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            seccomp.refuse_io_uring()
            answers = [answer()]
            thread = threading.Thread(target=lambda: answers.append(answer()))
            thread.start()
            thread.join()
            grandchild = os.fork()
            if grandchild == 0:
                os._exit(answer() != errno.ENOSYS)
            status = os.waitpid(grandchild, 0)[1] or answers != [errno.ENOSYS] * 2
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
