"""Files that are let go before a freeze and opened again after it; and what is refused."""

import fcntl
import mmap
import os
import socket
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
    return descriptors.park(run, others)


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


def test_files_that_travel_or_hang_on_more_than_a_path_are_left(
    run: str, outside: Path, tmp_path: Path, others: set[int]
) -> None:
    def made(name: str) -> str:
        (tmp_path / name).write_text("0123456789")
        return str(tmp_path / name)

    inside = open(os.path.join(run, "data"), "w")  # noqa: SIM115
    deleted = open(made("deleted"))  # noqa: SIM115
    os.unlink(deleted.name)
    flocked = open(made("flocked"))  # noqa: SIM115
    fcntl.flock(flocked, fcntl.LOCK_EX)
    posix, posix_too = open(made("posix"), "r+"), open(tmp_path / "posix")  # noqa: SIM115
    fcntl.lockf(posix, fcntl.LOCK_EX)
    mapped = open(made("mapped"), "r+b")  # noqa: SIM115
    mapping = mmap.mmap(mapped.fileno(), 0)
    moved = open(made("moved"))  # noqa: SIM115
    os.rename(moved.name, tmp_path / "elsewhere")
    made("moved")
    assert [each.path for each in park(run, others)] == [str(tmp_path / "elsewhere")]
    probe = f"import fcntl; fcntl.lockf(open({posix.name!r}, 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    assert subprocess.run([sys.executable, "-c", probe], stderr=subprocess.DEVNULL).returncode != 0, "the lock is gone"
    mapping.close()
    for file in (inside, deleted, flocked, posix, posix_too, mapped, moved):
        file.close()


def test_nothing_is_parked_under_a_thread_that_is_at_work(run: str, outside: Path, others: set[int]) -> None:
    thread = threading.Thread(target=time.sleep, args=(0.5,))
    resting = threading.Event()
    sleeper = threading.Thread(target=resting.wait)
    with open(outside) as file:
        sleeper.start()
        parked = park(run, others | {file.fileno()})
        assert parked == []
        thread.start()
        assert park(run, others) == []
        thread.join()
        parked = park(run, others)
        assert len(parked) == 1
        descriptors.unpark(parked)
        resting.set()
        sleeper.join()


def test_a_unix_socket_of_another_process_is_named(tmp_path: Path, others: set[int]) -> None:
    path = str(tmp_path / "other.sock")
    script = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.settimeout(10); s.listen();"
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
            (reason,) = descriptors.unfreezable(others | ours)
            assert reason == f"fd {connection.fileno()} is a unix socket connected to another process ({path})"


def test_sockets_within_the_run_are_no_obstacle(tmp_path: Path, others: set[int]) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(str(tmp_path / "own.sock"))
        listener.listen()
        client.connect(str(tmp_path / "own.sock"))
        server, _ = listener.accept()
        left, right = socket.socketpair()
        with server, left, right, socket.socket() as inet:
            inet.bind(("127.0.0.1", 0))
            assert descriptors.unfreezable(others) == []


def test_an_io_uring_is_named(others: set[int]) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(425, 4, ctypes.create_string_buffer(120))  # io_uring_setup
    if fd < 0:
        pytest.skip("this kernel allows no io_uring")
    try:
        assert descriptors.unfreezable(others) == [f"fd {fd} is an io_uring"]
    finally:
        os.close(fd)
