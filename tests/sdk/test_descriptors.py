"""Files that are let go before a freeze and opened again after it; and what is refused."""

import contextlib
import fcntl
import mmap
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from torpor.sdk import descriptors

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux freezes")


@pytest.fixture
def run(tmp_path: Path) -> str:
    directory = tmp_path / "run"
    directory.mkdir()
    return str(directory)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    path = tmp_path / "outside.txt"
    path.write_text("one\ntwo\nthree\n")
    return path


@pytest.fixture
def others() -> set[int]:
    """What pytest itself has open is none of the test's business."""
    numbers = [int(name) for name in os.listdir("/proc/self/fd")]
    return {fd for fd in numbers if os.path.lexists(f"/proc/self/fd/{fd}")}  # without the one that listed them


def park(run: str, others: set[int]) -> list[descriptors.Parked]:
    """As `freeze` does it: all or nothing."""
    found = descriptors.look(run, others)
    assert found.could_change == []
    return descriptors.park(found.to_park)


def reasons(run: str, others: set[int]) -> list[str]:
    found = descriptors.look(run, others)
    return found.never + found.could_change


def test_an_outside_file_may_grow_while_the_run_is_away(run: str, outside: Path, others: set[int]) -> None:
    file = open(outside, "rb", buffering=0)  # noqa: SIM115
    assert file.read(4) == b"one\n"
    number = file.fileno()
    parked = park(run, others)
    assert [each.told for each in parked] == [f"fd {number} {outside}"]
    assert os.readlink(f"/proc/self/fd/{number}") == "/dev/null"
    outside.write_text("one\ntwo\nthree\nfour\n")
    assert descriptors.unpark(parked) == [f"fd {number} {outside}: changed while the run was away"]
    assert file.read() == b"two\nthree\nfour\n"
    assert not os.get_inheritable(number)
    file.close()


def test_a_log_that_grew_is_nothing_to_report(run: str, outside: Path, others: set[int]) -> None:
    with open(outside, "a") as log:
        parked = park(run, others)
        with open(outside, "a") as other:
            other.write("from outside\n")
        assert descriptors.unpark(parked) == []
        log.write("from inside\n")
    assert outside.read_text().endswith("three\nfrom outside\nfrom inside\n")


def test_a_file_that_was_opened_for_writing_is_not_emptied(run: str, outside: Path, others: set[int]) -> None:
    with open(outside, "w") as file:
        file.write("abc")
        file.flush()
        assert descriptors.unpark(park(run, others)) == []
        file.write("def")
    assert outside.read_text() == "abcdef"


def test_what_became_of_a_file_is_reported(run: str, outside: Path, tmp_path: Path, others: set[int]) -> None:
    gone, replaced, cut = (tmp_path / name for name in ("gone", "replaced", "cut"))
    files = []
    for path in (gone, replaced, cut):
        path.write_text("0123456789")
        files.append(open(path, "rb", buffering=0))  # noqa: SIM115
        files[-1].seek(5)
    parked = park(run, others)
    gone.unlink()
    outside.rename(replaced)
    cut.write_text("01")
    lost = descriptors.unpark(parked)
    assert [line.partition(": ")[2] for line in lost] == [
        "No such file or directory",
        "another file has taken its place",
        "cut short, from 10 to 2 bytes",
    ]
    assert files[0].read() == b""
    for file in files:
        file.close()


def test_duplicated_descriptors_share_their_offset_again(run: str, outside: Path, others: set[int]) -> None:
    first = os.open(outside, os.O_RDONLY)
    second, apart = os.dup(first), os.open(outside, os.O_RDONLY)
    parked = park(run, others)
    assert sorted(len(each.descriptors) for each in parked) == [1, 2]
    assert descriptors.unpark(parked) == []
    assert os.read(first, 4) == b"one\n"
    assert os.read(second, 4) == b"two\n"
    assert os.read(apart, 4) == b"one\n"
    for each in (first, second, apart):
        os.close(each)


def test_files_that_travel_are_left_open(run: str, tmp_path: Path, others: set[int]) -> None:
    inside = open(os.path.join(run, "data"), "w")  # noqa: SIM115
    deleted = open(tmp_path / "deleted", "w")  # noqa: SIM115
    os.unlink(deleted.name)
    fcntl.lockf(inside, fcntl.LOCK_EX)
    with inside, deleted:
        assert park(run, others) == []


def test_a_file_that_hangs_on_more_than_its_path_forbids_the_freeze(run: str, tmp_path: Path, others: set[int]) -> None:
    def made(name: str) -> str:
        (tmp_path / name).write_text("0123456789")
        return str(tmp_path / name)

    flocked = open(made("flocked"))  # noqa: SIM115
    fcntl.flock(flocked, fcntl.LOCK_EX)
    posix, posix_too = open(made("posix"), "r+"), open(tmp_path / "posix")  # noqa: SIM115
    fcntl.lockf(posix, fcntl.LOCK_EX)
    mapped = open(made("mapped"), "r+b")  # noqa: SIM115
    mapping = mmap.mmap(mapped.fileno(), 0)
    gone = open(made("gone"))  # noqa: SIM115
    os.link(gone.name, tmp_path / "other name")
    os.unlink(gone.name)
    moved = open(made("moved"))  # noqa: SIM115 - goes on under its new name
    os.rename(moved.name, tmp_path / "elsewhere")
    made("moved")
    log = open(made("log"), "a")  # noqa: SIM115
    fcntl.flock(log, fcntl.LOCK_EX)
    changing = "which could change while the run is frozen, and"
    found = descriptors.look(run, others)
    assert [each.path for each in found.to_park] == [str(tmp_path / "elsewhere")]
    assert found.could_change == [
        f"fd {flocked.fileno()} is open on {flocked.name}, {changing} this process holds a lock on it",
        f"fd {posix.fileno()} is open on {posix.name}, {changing} this process holds a lock on it",
        f"fd {posix_too.fileno()} is open on {posix.name}, {changing} this process holds a lock on it",
        # mmap has a descriptor of its own
        *(
            f"fd {fd} is open on {mapped.name}, {changing} it is mapped for writing"
            for fd in (mapped.fileno(), mapped.fileno() + 1)
        ),
        f"fd {gone.fileno()} is open on {gone.name} (deleted), {changing} it can't be opened again "
        "(No such file or directory)",
    ]
    probe = f"import fcntl; fcntl.lockf(open({posix.name!r}, 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    assert subprocess.run([sys.executable, "-c", probe], stderr=subprocess.DEVNULL).returncode != 0, "the lock is gone"
    mapping.close()
    for file in (flocked, posix, posix_too, mapped, gone, moved, log):
        file.close()


def test_a_file_that_is_only_mapped_forbids_the_freeze_too(run: str, outside: Path, others: set[int]) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype, libc.mmap.argtypes = (
        ctypes.c_void_p,
        [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long],
    )
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    with open(outside, "r+b") as file:
        address = libc.mmap(None, 4096, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, file.fileno(), 0)
    assert reasons(run, others) == [f"{outside} is mapped for writing, and could change while the run is frozen"]
    libc.munmap(address, 4096)
    assert reasons(run, others) == []


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_an_outside_sqlite_forbids_the_freeze_while_it_is_locked(
    run: str, tmp_path: Path, others: set[int], journal: str
) -> None:
    """In WAL mode always; else only within a transaction."""
    path = tmp_path / "rows.db"
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute(f"pragma journal_mode={journal}")
        db.execute("create table rows (n int)")
        db.commit()
        told = " ".join(reasons(run, others))
        if journal == "wal":
            assert f"{path}, " in told
            assert f"{path}-shm, " in told
        else:
            descriptors.unpark(park(run, others))
            db.execute("insert into rows values (1)")
            assert f"{path}, " in " ".join(reasons(run, others))
        db.rollback()
        db.execute("insert into rows values (2)")
        db.commit()
        assert db.execute("select n from rows").fetchall() == [(2,)]


def work(over: threading.Event) -> None:
    while not over.is_set():
        time.sleep(0.01)


def test_no_file_is_parked_under_a_thread_that_is_at_work(run: str, outside: Path, others: set[int]) -> None:
    gate = threading.Event()
    over = threading.Event()
    thread = threading.Thread(target=work, args=(over,), name="poller")
    sleeper = threading.Thread(target=gate.wait)
    log = open(f"{outside}.log", "a")  # noqa: SIM115
    code = open(pytest.__file__)  # noqa: SIM115
    state = open("/proc/self/stat")  # noqa: SIM115
    with open(outside) as file, log, code, state:
        sleeper.start()
        thread.start()
        assert reasons(run, others) == [
            f"fd {file.fileno()} is open on {outside}, which could change while the run is frozen, "
            "and the thread 'poller' may be using it"
        ]
        assert os.readlink(f"/proc/self/fd/{file.fileno()}") == str(outside)
        assert reasons(run, others | {file.fileno()}) == [], "a log, installed code and the kernel's files don't count"
        over.set()
        thread.join()
        parked = park(run, others)
        assert str(outside) in [each.path for each in parked]
        descriptors.unpark(parked)
        gate.set()
        sleeper.join()


def test_installed_code_that_is_open_for_writing_counts(run: str, others: set[int]) -> None:
    over = threading.Event()
    thread = threading.Thread(target=work, args=(over,))
    thread.start()
    with open(pytest.__file__, "r+") as file:
        (reason,) = reasons(run, others)
        assert reason.startswith(f"fd {file.fileno()} is open on {os.path.realpath(pytest.__file__)}, ")
    over.set()
    thread.join()


def test_a_thread_that_sleeps_with_a_timeout_is_at_work(run: str, outside: Path, others: set[int]) -> None:
    """It wakes by itself, perhaps just after a restore, while its files are still parked."""
    gate = threading.Event()
    poller = threading.Thread(target=gate.wait, args=(30,), name="poller")
    with open(outside):
        poller.start()
        assert "'poller'" in reasons(run, others)[0]
        gate.set()
        poller.join()
        assert reasons(run, others) == []


def test_redirected_output_is_parked_as_well(run: str, outside: Path, others: set[int]) -> None:
    kept = os.dup(2)
    with open(outside, "w") as file:
        os.dup2(file.fileno(), 2)
        try:
            parked = park(run, (others | {kept}) - {2})
            assert [sorted(fd for fd, _ in each.descriptors) for each in parked] == [[2, file.fileno()]]
            assert descriptors.unpark(parked) == []
            assert os.readlink("/proc/self/fd/2") == str(outside)
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def test_a_unix_socket_of_another_process_is_named(run: str, tmp_path: Path, others: set[int]) -> None:
    path = str(tmp_path / "other.sock")
    script = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.settimeout(60); s.listen();"
        "print('ready', flush=True); c = s.accept(); sys.stdin.read()"
    )
    # Its parent ends at once, so it is nobody's child of ours.
    launcher = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {script!r}, {path!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", launcher], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.wait()
        ours = {process.stdout.fileno(), process.stdin.fileno()} if process.stdin else set()
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(path)
            (reason,) = reasons(run, others | ours)
            assert reason == f"fd {connection.fileno()} is a unix socket connected to another process ({path})"


def test_sockets_within_the_run_are_no_obstacle(run: str, tmp_path: Path, others: set[int]) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(str(tmp_path / "own.sock"))
        listener.listen()
        client.connect(str(tmp_path / "own.sock"))
        server, _ = listener.accept()
        left, right = socket.socketpair()
        with server, left, right, socket.socket() as inet:
            inet.bind(("127.0.0.1", 0))
            assert reasons(run, others) == []


def test_an_io_uring_is_named(run: str, others: set[int]) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(425, 4, ctypes.create_string_buffer(120))  # io_uring_setup
    if fd < 0:
        pytest.skip("this kernel allows no io_uring")
    try:
        assert reasons(run, others) == [f"fd {fd} is an io_uring"]
    finally:
        os.close(fd)
