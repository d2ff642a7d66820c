"""A filter of system calls for runs: an io_uring is refused, as on a kernel that has none.

No image can hold an io_uring, and libraries open one without being asked (libuv does, so uvloop). All of them have to do
without it on older kernels, so they fall back when they are told ENOSYS: then the run can be frozen.

It is inherited by threads and children, can't be taken off, and travels in images. CRIU isn't bound by it. Filters that user
code sets are asked as well as this one. What else a run may not do is the business of isolation.
"""

import ctypes
import errno
import struct

from torpor.worker import namespaces

_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2
_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_LOAD_WORD = 0x20
_JUMP_IF_EQUAL = 0x15
_RETURN = 0x06
_IO_URING_SETUP = 425  # on every architecture, as all calls that are younger than 403


def refuse_io_uring() -> None:
    """Refuse it to this process, its threads-to-be and its children. Needs CAP_SYS_ADMIN, and one thread.

    Raises:
        OSError: this kernel has no filters, or we lack the capability.
    """
    instructions = b"".join(
        struct.pack("HBBI", code, if_true, if_false, value)
        for code, if_true, if_false, value in (
            (_LOAD_WORD, 0, 0, 0),  # the call's number is the first word that a filter sees
            (_JUMP_IF_EQUAL, 0, 1, _IO_URING_SETUP),
            (_RETURN, 0, 0, _ERRNO | errno.ENOSYS),
            (_RETURN, 0, 0, _ALLOW),
        )
    )
    code = ctypes.create_string_buffer(instructions, len(instructions))
    program = ctypes.create_string_buffer(struct.pack("HP", len(instructions) // 8, ctypes.addressof(code)))
    namespaces.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(program))
