"""What the filters of system calls refuse, and to whom; and that ordinary programs don't notice them."""

import ctypes
import errno
import mmap
import os
import platform
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pytest

from torpor.worker import namespaces, seccomp, syscalls

ARCHITECTURE = syscalls.here()
NUMBERS = ARCHITECTURE.numbers if ARCHITECTURE else {}
SIGCHLD = 17
NOT_REACHED = 250
CONDITIONAL = {"clone", "unshare", "socket", "socketpair", "ioctl", "seccomp"}
"""Calls that the table has for other reasons than to refuse them altogether."""

needs_a_table = pytest.mark.skipif(
    not sys.platform.startswith("linux") or not NUMBERS, reason="no numbers of system calls for this machine"
)
_libc = ctypes.CDLL(None, use_errno=True)


def answer(call: int | str, *arguments: int) -> int:
    """The error with which the kernel answers; 0 if it does as told. Arguments that are not given are of no use to any call."""
    number = NUMBERS[call] if isinstance(call, str) else call
    six = [*arguments, *([-1] * (6 - len(arguments)))]
    result = _libc.syscall(ctypes.c_long(number), *(ctypes.c_long(each) for each in six))
    return ctypes.get_errno() if result < 0 else 0


def in_a_child(act: Callable[[], int], refuse: Callable[[], None] = seccomp.refuse_dangerous) -> int:
    """What `act` returns in a process to which these calls are refused."""
    child = os.fork()
    if child == 0:
        status = NOT_REACHED
        try:
            refuse()
            status = act()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def in_one_child(acts: Mapping[str, Callable[[], int]]) -> dict[str, int]:
    """What each of them returns in a process to which these calls are refused; NOT_REACHED for those that were not reached."""
    reading, writing = os.pipe()

    def make_all() -> int:
        for act in acts.values():
            os.write(writing, bytes([act()]))
        return 0

    in_a_child(make_all)
    os.close(writing)
    with os.fdopen(reading, "rb") as told:
        answers = list(told.read())
    return dict(zip(acts, answers + [NOT_REACHED] * (len(acts) - len(answers)), strict=True))


@pytest.mark.skipif(not namespaces.may_unshare(), reason="needs root")
def test_an_io_uring_is_refused_to_the_process_its_threads_and_its_children() -> None:
    def everywhere() -> int:
        answers = [answer(425, 0, 0)]  # no kernel would make one without entries
        thread = threading.Thread(target=lambda: answers.append(answer(425, 0, 0)))
        thread.start()
        thread.join()
        grandchild = os.fork()
        if grandchild == 0:
            os._exit(answer(425, 0, 0) != errno.ENOSYS)
        return os.waitpid(grandchild, 0)[1] or answers != [errno.ENOSYS] * 2

    assert in_a_child(everywhere, seccomp.refuse_io_uring) == 0


@needs_a_table
def test_what_is_forbidden_is_answered_with_eperm() -> None:
    forbidden = [name for name in seccomp.FORBIDDEN if name in NUMBERS]
    answers = in_one_child({name: partial(answer, name) for name in forbidden})
    assert answers == dict.fromkeys(forbidden, errno.EPERM)


@needs_a_table
def test_what_has_a_substitute_does_not_exist() -> None:
    answers = in_one_child({name: partial(answer, name) for name in seccomp.UNKNOWN})
    assert answers == dict.fromkeys(seccomp.UNKNOWN, errno.ENOSYS)


@needs_a_table
def test_every_number_in_the_table_is_there_to_be_refused() -> None:
    assert set(NUMBERS) <= {*seccomp.FORBIDDEN, *seccomp.UNKNOWN, *seccomp.UNSUPPORTED, *CONDITIONAL}


@needs_a_table
def test_space_can_be_reserved_though_not_in_one_call(tmp_path: Path) -> None:
    """As the C library does it where a file system can't."""
    file = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)

    def reserve() -> int:
        if answer("fallocate", file, 0, 0, 1 << 20) != errno.EOPNOTSUPP:
            return 1
        os.posix_fallocate(file, 0, 1 << 20)
        return 0

    assert in_a_child(reserve) == 0
    assert os.fstat(file).st_blocks * 512 == 1 << 20
    os.close(file)


@needs_a_table
def test_calls_that_are_younger_than_the_table_do_not_exist() -> None:
    assert in_a_child(lambda: answer(syscalls.NEWEST + 1)) == errno.ENOSYS
    assert in_a_child(lambda: answer(10**6)) == errno.ENOSYS


@needs_a_table
@pytest.mark.skipif(platform.machine() != "x86_64", reason="x32 is of x86-64")
def test_calls_by_their_x32_numbers_do_not_exist() -> None:
    getpid, of_x32 = 39, 0x40000000
    assert in_a_child(lambda: answer(of_x32 | getpid)) == errno.ENOSYS
    assert in_a_child(lambda: answer(of_x32 | NUMBERS["ptrace"])) == errno.ENOSYS


@needs_a_table
@pytest.mark.skipif(platform.machine() != "x86_64", reason="machine code of x86-64")
def test_calls_of_32_bit_programs_do_not_exist() -> None:
    """By `int 0x80`, where 26 is ptrace."""
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(b"\x53\xb8\x1a\x00\x00\x00\xcd\x80\x5b\xc3")  # push rbx; mov eax, 26; int 0x80; pop rbx; ret
    call = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
    assert in_a_child(lambda: -call()) == errno.ENOSYS


NAMESPACES = {
    "mounts": 0x00020000,
    "cgroups": 0x02000000,
    "names": 0x04000000,
    "ipc": 0x08000000,
    "users": 0x10000000,
    "pids": 0x20000000,
    "network": 0x40000000,
}


@needs_a_table
@pytest.mark.parametrize("flag", NAMESPACES.values(), ids=NAMESPACES)
def test_no_namespace_is_made(flag: int) -> None:
    def by_clone() -> int:
        child = _libc.syscall(NUMBERS["clone"], ctypes.c_long(flag | SIGCHLD), None, None, None, None)
        if child == 0:
            os._exit(0)
        return ctypes.get_errno() if child < 0 else 0

    assert in_a_child(lambda: answer("unshare", flag)) == errno.EPERM
    # What is above the low half doesn't count for the kernel, and must not fool the filter.
    assert in_a_child(lambda: answer("unshare", flag | 1 << 40)) == errno.EPERM
    assert in_a_child(by_clone) == errno.EPERM


@needs_a_table
def test_no_namespace_of_time_is_made_though_a_signal_has_the_same_bit() -> None:
    assert in_a_child(lambda: answer("unshare", 0x80)) == errno.EPERM


@needs_a_table
def test_what_threads_share_may_be_unshared() -> None:
    files = 0x400
    assert in_a_child(lambda: answer("unshare", files)) == 0


@needs_a_table
def test_other_families_of_sockets_are_refused() -> None:
    acts: dict[str, Callable[[], int]] = {}
    for family in (n for n in range(3, 47) if n not in (socket.AF_INET6, 16)):
        acts[f"a socket of family {family}"] = partial(answer, "socket", family, socket.SOCK_RAW, 0)
        acts[f"a pair of family {family}"] = partial(answer, "socketpair", family, socket.SOCK_STREAM, 0)
    assert in_one_child(acts) == dict.fromkeys(acts, errno.EAFNOSUPPORT)


@needs_a_table
def test_the_kernel_is_asked_for_addresses_by_netlink_and_for_nothing_else() -> None:
    answers = in_one_child({str(n): partial(answer, "socket", 16, socket.SOCK_RAW, n) for n in range(23)})
    assert answers == {str(n): errno.EAFNOSUPPORT if n else 0 for n in range(23)}


@needs_a_table
def test_nobody_types_on_a_terminal_for_somebody_else() -> None:
    for request in (0x5412, 0x541C, 0x5412 | 1 << 40):
        assert in_a_child(lambda request=request: answer("ioctl", 0, request)) == errno.EPERM


@needs_a_table
def test_it_holds_for_threads_that_were_there_before_for_children_and_after_an_exec() -> None:
    script = """
        import ctypes, errno, os, subprocess, sys, threading
        from torpor.worker import seccomp
        libc = ctypes.CDLL(None, use_errno=True)
        refused, answers = threading.Event(), []
        def mount():
            libc.umount2(None, -1)
            answers.append(ctypes.get_errno())
        early = threading.Thread(target=lambda: (refused.wait(), mount()))
        early.start()
        seccomp.refuse_dangerous()
        refused.set()
        early.join()
        mount()
        again = "import ctypes; l = ctypes.CDLL(None, use_errno=True); l.umount2(None, -1); exit(ctypes.get_errno())"
        answers.append(subprocess.run([sys.executable, "-c", again]).returncode)
        assert answers == [errno.EPERM] * 3, answers
        status = open("/proc/self/status").read()
        assert "NoNewPrivs:\\t1" in status and "Seccomp:\\t2" in status
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True)


@needs_a_table
def test_it_is_set_without_a_privilege() -> None:
    def unprivileged() -> None:
        if os.geteuid() == 0:
            os.setresuid(65534, 65534, 65534)
        seccomp.refuse_dangerous()

    assert in_a_child(lambda: answer("mount"), unprivileged) == errno.EPERM


def test_on_an_unknown_architecture_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(OSError, match="architecture") as refused:
        seccomp.refuse_dangerous()
    assert refused.value.errno == errno.ENOTSUP


# -- what must not break ----------------------------------------------------------------------------------------------

PROGRAMS = {
    "threads": """
        import threading
        done = []
        threads = [threading.Thread(target=done.append, args=(n,)) for n in range(20)]
        [t.start() for t in threads]; [t.join() for t in threads]
        assert sorted(done) == list(range(20))
    """,
    "children": """
        import os, subprocess, sys
        assert subprocess.run(["/bin/sh", "-c", "echo hi | cat"], capture_output=True).stdout == b"hi\\n"
        child = os.posix_spawn("/bin/true", ["true"], {})
        assert os.waitpid(child, 0)[1] == 0
        assert os.system("true") == 0
        assert subprocess.run(["true"], start_new_session=True, close_fds=False).returncode == 0
    """,
    "pools": """
        import concurrent.futures, multiprocessing
        for way in ("fork", "spawn", "forkserver"):
            with concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context(way)) as pool:
                assert list(pool.map(abs, [-1, -2])) == [1, 2]
    """,
    "pipes_and_shared_memory": """
        import mmap, os, signal, tempfile
        from multiprocessing import shared_memory
        with tempfile.TemporaryDirectory() as place:
            os.mkfifo(place + "/fifo")
            if (child := os.fork()) == 0:
                open(place + "/fifo", "w").write("x"); os._exit(0)
            assert open(place + "/fifo").read() == "x"
            os.waitpid(child, 0)
        memory = shared_memory.SharedMemory(create=True, size=64); memory.close(); memory.unlink()
        mmap.mmap(-1, 4096).close()
        os.close(os.memfd_create("m")); os.close(os.eventfd(0)); os.close(os.pidfd_open(os.getpid()))
        signal.raise_signal(signal.SIGCHLD)
    """,
    "sockets": """
        import ipaddress, socket, ssl
        for family, place in ((socket.AF_INET, "127.0.0.1"), (socket.AF_UNIX, "\\0torpor-filter-test")):
            listening = socket.socket(family); listening.bind((place, 0) if family == socket.AF_INET else place)
            listening.listen(); client = socket.socket(family); client.connect(listening.getsockname())
        a, b = socket.socketpair(); a.send(b"x"); assert b.recv(1) == b"x"
        assert socket.getaddrinfo("127.0.0.1", 80) and socket.if_nameindex()
        context = ssl.create_default_context()
        ins, out = ssl.MemoryBIO(), ssl.MemoryBIO()
        try:
            context.wrap_bio(ins, out, server_hostname="x").do_handshake()
        except ssl.SSLWantReadError:
            assert out.pending
    """,
    "sqlite": """
        import sqlite3, tempfile
        with tempfile.TemporaryDirectory() as place:
            rows = sqlite3.connect(place + "/rows.db")
            rows.execute("pragma journal_mode=wal"); rows.execute("create table t (n)")
            rows.execute("insert into t values (1)"); rows.commit()
            assert rows.execute("select n from t").fetchall() == [(1,)]
    """,
    "asyncio_": """
        import asyncio
        async def main():
            process = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
            assert (await process.communicate(b"x"))[0] == b"x"
            assert await asyncio.to_thread(lambda: 1) == 1
            server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            assert await reader.read() == b""
        asyncio.run(main())
    """,
    "uvloop": """
        import asyncio, uvloop
        async def main():
            process = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
            assert (await process.communicate(b"x"))[0] == b"x"
            open_files = await asyncio.get_running_loop().run_in_executor(None, open, "/dev/null")
            open_files.close()
        uvloop.run(main())
    """,
    "numpy": """
        import numpy
        assert (numpy.ones((300, 300)) @ numpy.ones((300, 300))).sum() == 300 ** 3
    """,
    "torch": """
        import torch
        assert float(torch.ones(300, 300).matmul(torch.ones(300, 300)).sum()) == 300 ** 3
        loader = torch.utils.data.DataLoader(list(range(8)), num_workers=2, batch_size=4)
        assert [batch.tolist() for batch in loader] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    """,
}


@needs_a_table
@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_do_not_notice(program: str, tmp_path: Path) -> None:
    if program in ("uvloop", "numpy", "torch"):
        pytest.importorskip(program)
    head = "from torpor.worker import seccomp\nseccomp.refuse_dangerous()\n"
    # A file: what `multiprocessing` spawns imports it again.
    script = f"{head}if __name__ == '__main__':\n{textwrap.indent(textwrap.dedent(PROGRAMS[program]), '    ')}"
    file = tmp_path / "program.py"  # what `multiprocessing` spawns imports it again
    file.write_text(script)
    done = subprocess.run([sys.executable, file], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
