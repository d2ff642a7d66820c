"""Open files of all kinds, in the run's own directories and elsewhere, with their locks and mappings."""

import contextlib
import fcntl
import logging
import logging.handlers
import mmap
import os
import sqlite3
import subprocess
import tempfile
from pathlib import Path

from freezing import Outside, freeze, program

OURS = Path(".")


@program
async def working_directory_comes_back_as_it_was() -> None:
    os.makedirs("deep/er")
    with open("deep/er/file", "wb") as file:
        file.write(b"x" * 70000)
    os.chmod("deep/er/file", 0o640)
    os.utime("deep/er/file", ns=(10**18, 10**18 + 123456789))
    os.symlink("er/file", "deep/link")
    os.link("deep/er/file", "deep/hard")
    os.mkfifo("pipe")
    name = "odd \n name \udcff"
    open(name, "w").close()
    for _ in range(2):
        await freeze()
        status = os.stat("deep/er/file")
        assert (status.st_size, status.st_mode & 0o777, status.st_mtime_ns) == (70000, 0o640, 10**18 + 123456789)
        assert os.readlink("deep/link") == "er/file"
        assert os.stat("deep/hard").st_ino == status.st_ino
        assert sorted(os.listdir(".")) == sorted(["deep", "pipe", name])


@program
async def open_file_read_and_written(outside: Outside) -> None:
    """Here and elsewhere, with what Python has buffered, and twice over the same description."""
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(open(folder / "notes", "w+")) for folder in (OURS, Path(outside["directory"]))]
        doubles = [os.dup(file.fileno()) for file in files]
        for n in range(3):
            for file in files:
                file.write(f"line {n}\n")
            if n < 2:
                await freeze()
        for file, double in zip(files, doubles, strict=True):
            file.seek(5)
            assert os.lseek(double, 0, os.SEEK_CUR) == 5
            assert file.read() == "0\nline 1\nline 2\n"


@program
async def open_file_appended_to(outside: Outside) -> None:
    """Somebody else may append as well meanwhile."""
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(open(folder / "log", "a")) for folder in (OURS, Path(outside["directory"]))]
        for n in range(3):
            for file in files:
                file.write(f"line {n}\n")
                file.flush()
            if n < 2:
                await freeze()
    assert Path("log").read_text() == "line 0\nline 1\nline 2\n"
    assert [line for line in Path(outside["directory"], "log").read_text().splitlines() if line != "meanwhile"] == [
        "line 0",
        "line 1",
        "line 2",
    ]


@program
async def open_file_deleted(outside: Outside) -> None:
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(open(folder / "gone", "w+")) for folder in (OURS, Path(outside["directory"]))]
        for file in files:
            os.unlink(file.name)
        for n in range(3):
            for file in files:
                file.write(f"line {n}\n")
                file.flush()
            if n < 2:
                await freeze()
        for file in files:
            file.seek(0)
            assert file.read() == "line 0\nline 1\nline 2\n"
            assert os.fstat(file.fileno()).st_nlink == 0
            assert not os.path.exists(file.name)


@program
async def open_file_renamed(outside: Outside) -> None:
    with contextlib.ExitStack() as stack:
        folders = (OURS, Path(outside["directory"]))
        files = [stack.enter_context(open(folder / "name 0", "w+")) for folder in folders]
        for n in range(2):
            for folder, file in zip(folders, files, strict=True):
                (folder / f"name {n}").rename(folder / f"name {n + 1}")
                file.write(f"line {n}\n")
            await freeze()
        for folder, file in zip(folders, files, strict=True):
            file.seek(0)
            assert file.read() == "line 0\nline 1\n"
            assert (folder / "name 2").stat().st_ino == os.fstat(file.fileno()).st_ino


@program
async def open_file_grown(outside: Outside) -> None:
    """Somebody else appends to it while the run is frozen: the test does."""
    path = Path(outside["directory"], "grown")
    path.write_text("first\n")
    with open(path) as reading:
        assert reading.readline() == "first\n"
        for n in range(2):
            subprocess.run(["sh", "-c", f"echo {n} >> {path}"], check=True)
            await freeze()
            assert reading.readline() == f"{n}\n"
            assert reading.readline() == "meanwhile\n"


@program
async def file_without_a_name() -> None:
    """O_TMPFILE: never had one; it can be given one later."""
    number = os.open(os.environ["TMPDIR"], os.O_TMPFILE | os.O_RDWR)
    for n in range(3):
        os.write(number, b"%d" % n)
        if n < 2:
            await freeze()
    assert os.pread(number, 10, 0) == b"012"


@program
async def temporary_files() -> None:
    named = tempfile.NamedTemporaryFile()  # noqa: SIM115
    deleted = tempfile.TemporaryFile()  # noqa: SIM115
    spooled = tempfile.SpooledTemporaryFile(max_size=2)  # noqa: SIM115 - on disk with its third byte
    directory = tempfile.TemporaryDirectory()
    Path(directory.name, "inside").write_text("kept")
    for n in range(2):
        for file in (named, deleted, spooled):
            file.write(b"%d" % n)
            file.flush()
        await freeze()
        for file in (named, deleted, spooled):
            file.seek(0)
            assert file.read() == b"012"[: n + 1]
    assert os.path.exists(named.name)
    named.close()
    assert not os.path.exists(named.name)
    assert Path(directory.name, "inside").read_text() == "kept"
    directory.cleanup()


@program
async def sqlite_in_a_transaction() -> None:
    with contextlib.closing(sqlite3.connect("rows.db")) as db:
        db.execute("create table rows (n int)")
        db.commit()
        for n in range(3):
            db.execute("insert into rows values (?)", (n,))  # not committed: its lock and journal travel too
            if n < 2:
                await freeze()
        db.commit()
        assert db.execute("select sum(n) from rows").fetchone() == (3,)


@program
async def sqlite_wal_in_a_transaction() -> None:
    """Not visible to others before the freeze nor after it, until it is committed."""
    with contextlib.closing(sqlite3.connect("wal.db")) as db, contextlib.closing(sqlite3.connect("wal.db")) as other:
        assert db.execute("pragma journal_mode = wal").fetchone() == ("wal",)
        db.execute("create table rows (n int)")
        db.commit()
        cursor = db.cursor()
        for n in range(1, 3):
            cursor.execute("insert into rows values (?)", (n,))
            await freeze()
            assert other.execute("select count(*) from rows").fetchone() == (0,)
        assert db.in_transaction
        db.commit()
        assert other.execute("select sum(n) from rows").fetchone() == (3,)
        assert other.execute("pragma integrity_check").fetchone() == ("ok",)


@program
async def memory_maps() -> None:
    anonymous = mmap.mmap(-1, 1 << 16)
    private = mmap.mmap(-1, 1 << 16, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    anonymous[:5] = private[:5] = b"hello"
    with open("mapped", "wb") as file:
        file.truncate(1 << 16)
    with open("mapped", "r+b") as file:
        mapped = mmap.mmap(file.fileno(), 0)
        copied = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    mapped[:5] = b"world"
    copied[5:9] = b"mine"
    for _ in range(2):
        await freeze()
        assert anonymous[:5] == private[:5] == b"hello"
        assert mapped[:9] == b"world\0\0\0\0"
        assert copied[:9] == b"worldmine"
    mapped[5:9] = b"ours"
    mapped.flush()
    assert Path("mapped").read_bytes()[:9] == b"worldours"


def can_lock(path: Path, kind: str) -> bool:
    """Whether another process gets a lock."""
    code = f"import fcntl, sys; fcntl.{kind}(open({str(path)!r}, 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    return subprocess.run(["python3", "-c", code], stderr=subprocess.DEVNULL).returncode == 0


@program
async def flock_and_fcntl_locks() -> None:
    flocked, locked = open("flocked", "w+"), open("locked", "w+")  # noqa: SIM115
    locked.write("x" * 100)
    locked.flush()
    fcntl.flock(flocked, fcntl.LOCK_EX)
    fcntl.lockf(locked, fcntl.LOCK_EX, 10, 20)
    for _ in range(2):
        await freeze()
        assert not can_lock(Path("flocked"), "flock")
        assert not can_lock(Path("locked"), "lockf")
    fcntl.flock(flocked, fcntl.LOCK_UN)
    fcntl.lockf(locked, fcntl.LOCK_UN, 10, 20)
    assert can_lock(Path("flocked"), "flock")
    assert can_lock(Path("locked"), "lockf")


@program
async def logging_to_files(outside: Outside) -> None:
    """Handlers of the standard library, one of which moves its files away as they fill."""
    log = logging.getLogger("program")
    log.setLevel(logging.INFO)
    log.propagate = False
    rotating = logging.handlers.RotatingFileHandler("rotating.log", maxBytes=40, backupCount=5)
    held = logging.handlers.MemoryHandler(100, target=logging.FileHandler("held.log", delay=True))
    for handler in (
        logging.FileHandler("here.log"),
        logging.FileHandler(Path(outside["directory"], "there.log")),
        rotating,
        held,
    ):
        handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
        log.addHandler(handler)
    for n in range(3):
        log.info("line %d", n)
        log.info("more %d", n)
        if n < 2:
            await freeze()
    expected = [f"INFO {word} {n}" for n in range(3) for word in ("line", "more")]
    for path in (Path("here.log"), Path(outside["directory"], "there.log")):
        assert path.read_text().splitlines() == expected
    rotated = sorted(Path(".").glob("rotating.log*"), reverse=True)
    assert len(rotated) == 2
    assert "".join(path.read_text() for path in rotated).splitlines() == expected
    assert not os.path.exists("held.log")
    held.flush()
    assert len(Path("held.log").read_text().splitlines()) == 6
