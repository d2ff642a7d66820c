"""A run's files come back exactly as they were, on every Python that we run on."""

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from torpor.worker import files, namespaces


@pytest.fixture
def before(tmp_path: Path) -> Path:
    for name in files.PRIVATE:
        (tmp_path / "before" / name).mkdir(parents=True)
    return tmp_path / "before"


@pytest.fixture
def after(tmp_path: Path) -> Path:
    (tmp_path / "after").mkdir()
    return tmp_path / "after"


def travel(before: Path, after: Path) -> Path:
    """Pack and lay; returns the archive."""
    archive = before.parent / "archive"
    files.pack(before, archive)
    files.unpack(archive, after)
    return archive


def told(directory: Path) -> dict[str, tuple[object, ...]]:
    """All that a program could find out of the files below a directory, but for inode numbers."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(directory.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        target = os.readlink(path) if path.is_symlink() else ""
        kind = (
            status.st_mode,
            status.st_uid,
            status.st_gid,
            status.st_nlink if not path.is_dir() else 0,
            status.st_rdev,
        )
        found[str(path.relative_to(directory))] = (*kind, status.st_mtime_ns, content, target)
    return found


def test_links_modes_and_times_come_back_as_they_were(before: Path, after: Path) -> None:
    program = before / "work/program"
    program.write_text("text")
    program.chmod(0o4755)
    os.utime(program, ns=(1_600_000_000_000_000_007, 1_700_000_000_123_456_789))
    # Newer Pythons hold such links back unless told to trust the archive; older ones can't be told.
    (before / "work/outside").symlink_to("/etc/hostname")
    os.utime(before / "work/outside", ns=(5, 1_500_000_000_000_000_003), follow_symlinks=False)
    (before / "work/twin").hardlink_to(program)
    (before / "work/deep/er").mkdir(parents=True, mode=0o700)
    os.utime(before / "work/deep", ns=(5, 1_400_000_000_000_000_001))
    as_it_was = told(before)
    read_at = program.stat().st_atime_ns

    travel(before, after)

    assert told(after) == as_it_was
    assert (after / "work/twin").samefile(after / "work/program")
    assert (before / "work/program").stat().st_ino != (after / "work/program").stat().st_ino
    assert as_it_was["work/program"][0] == stat.S_IFREG | 0o4755
    assert read_at == 1_600_000_000_000_000_007 or read_at > 1_700_000_000_000_000_000  # reading it here moves it on


def test_names_of_any_bytes_and_fifos_come_back(before: Path, after: Path) -> None:
    for name in (b"\xff\xfe", b"line\nbreak", b"-rf", b" ", "ünï".encode(), b"n" * 255, b"back\\slash"):
        (before / "work" / os.fsdecode(name)).write_bytes(name)
    deep = before / "work" / Path(*["d" * 100] * 5)
    deep.mkdir(parents=True)
    (deep / "file").touch()
    os.mkfifo(before / "tmp/pipe", 0o640)
    as_it_was = told(before)
    travel(before, after)
    assert told(after) == as_it_was


@pytest.mark.parametrize(
    "holes",
    [
        pytest.param([(0, b"begin"), (50 << 20, b"end")], id="in the middle"),
        pytest.param([(30 << 20, b"x" * 5000)], id="at the begin"),
        pytest.param([(0, b"x"), (1 << 20, b"y"), (2 << 20, b"z"), (60 << 20, b"")], id="many, and at the end"),
        pytest.param([(40 << 20, b"")], id="nothing else"),
    ],
)
def test_holes_stay_holes(before: Path, after: Path, holes: list[tuple[int, bytes]]) -> None:
    with open(before / "work/sparse", "wb") as file:
        for at, data in holes:
            file.truncate(at)
            file.seek(at)
            file.write(data)
    if (before / "work/sparse").stat().st_blocks * 512 >= holes[-1][0]:
        pytest.skip("this file system has no holes")
    (before / "work/behind").write_text("what follows in the archive")
    archive = travel(before, after)
    assert archive.stat().st_size < 1 << 20
    assert told(after)["work/sparse"] == told(before)["work/sparse"]
    assert (after / "work/sparse").stat().st_blocks * 512 < 1 << 20
    assert (after / "work/behind").read_text() == "what follows in the archive"


@pytest.mark.skipif(sys.platform != "linux", reason="extended attributes are asked for as on Linux")
def test_extended_attributes_come_back(before: Path, after: Path) -> None:
    file = before / "work/file"
    file.touch()
    try:
        os.setxattr(file, "user.any", b"\x00\xff bytes")
    except OSError as error:
        pytest.skip(f"this file system has none: {error}")
    travel(before, after)
    assert os.getxattr(after / "work/file", "user.any") == b"\x00\xff bytes"


def test_times_before_1970_come_back(before: Path, after: Path) -> None:
    for nanoseconds in (-1, -(10**9), -(10**9) - 7, -(10**18) + 1):
        (before / "work" / str(nanoseconds)).touch()
        os.utime(before / "work" / str(nanoseconds), ns=(nanoseconds, nanoseconds))
    if {int(each.name): each.stat().st_mtime_ns for each in (before / "work").iterdir()} != {
        int(each.name): int(each.name) for each in (before / "work").iterdir()
    }:
        pytest.skip("this file system has no such times")
    travel(before, after)
    assert all(each.stat().st_mtime_ns == int(each.name) for each in (after / "work").iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="extended attributes are asked for as on Linux")
def test_attributes_and_files_may_be_called_anything(before: Path, after: Path) -> None:
    """What ends a name in a header, what is no text, and what looks like our own way to write it down."""
    attributes = [b"user.a=b", b"user.a\n9 b=c", b"user.\xff\xfe", b"user.100%25", b"user. "]
    for name in (b"file\xff", b"-rf", b"a=b\nc", b"holes \xff"):
        (before / "work" / os.fsdecode(name)).write_bytes(name)
    os.truncate(before / "work" / os.fsdecode(b"holes \xff"), 1 << 26)
    file = before / "work" / os.fsdecode(b"file\xff")
    try:
        for name in attributes:
            os.setxattr(file, name, name)
    except OSError as error:
        pytest.skip(f"this file system has none: {error}")
    as_it_was = told(before)
    travel(before, after)
    assert told(after) == as_it_was
    come_back = after / "work" / file.name
    assert {os.fsencode(each): os.getxattr(come_back, each) for each in os.listxattr(come_back)} == {
        name: name for name in attributes
    }


@pytest.mark.timeout(60)
def test_a_file_of_very_many_pieces_takes_no_longer_than_its_bytes(before: Path, after: Path) -> None:
    pieces = 100_000
    with open(before / "work/sparse", "wb") as file:
        for number in range(pieces):
            os.pwrite(file.fileno(), b"x", number << 13)
    if (before / "work/sparse").stat().st_blocks * 512 >= (pieces << 13) - (1 << 13):
        pytest.skip("this file system has no holes")
    travel(before, after)
    assert (after / "work/sparse").stat().st_size == (before / "work/sparse").stat().st_size
    with open(after / "work/sparse", "rb") as file:
        assert os.pread(file.fileno(), 2, (pieces - 2) << 13) == b"x\0"


def test_directories_in_directories_without_end_are_refused_in_words_and_can_be_removed(
    before: Path, tmp_path: Path
) -> None:
    here = os.open(".", os.O_RDONLY)
    try:
        os.chdir(before / "work")
        for _ in range(1100):
            os.mkdir("d")
            os.chdir("d")
    finally:
        os.fchdir(here)
        os.close(here)
    with pytest.raises(OSError, match=r"nested too deeply|File name too long"):
        files.pack(before, tmp_path / "archive")
    files.remove(before)
    assert not before.exists()


def test_shared_memory_is_packed_under_all_its_names_and_laid_elsewhere(before: Path, after: Path) -> None:
    place = before / "shm"
    place.mkdir()
    (place / "used").write_bytes(b"memory")
    (place / "other name").hardlink_to(place / "used")
    (place / "somebody's").write_bytes(b"not ours")
    (before / "work/file").write_text("a file")
    with open(place / "used"):
        shared = (
            files.shared_memory([os.getpid()], place=place) if sys.platform == "linux" else sorted(place.glob("*e*"))
        )
    assert [path.name for path in shared] == ["other name", "used"]
    files.pack(before, before.parent / "archive", shared=shared)
    files.unpack(before.parent / "archive", after)
    assert sorted(told(after)) == ["tmp", "work", "work/file"]
    elsewhere = before.parent / "elsewhere"
    elsewhere.mkdir()
    files.unpack_shared(before.parent / "archive", elsewhere)
    assert sorted(told(elsewhere)) == ["other name", "used"]
    assert (elsewhere / "used").samefile(elsewhere / "other name")
    assert (elsewhere / "used").read_bytes() == b"memory"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no /proc")
def test_shared_memory_is_released_only_if_it_is_ours_and_nobody_has_it(tmp_path: Path) -> None:
    old, held, left = (tmp_path / name for name in ("old", "held", "left"))
    old.touch()
    made_at = namespaces.birth_time(str(old))
    if made_at is None:
        pytest.skip("this file system doesn't tell when a file was made")
    time.sleep(0.05)  # the kernel's clock for files is a coarse one
    held.touch()
    left.touch()
    since = namespaces.birth_time(str(held))
    assert since is not None
    assert since > made_at
    with subprocess.Popen(["sleep", "60"], stdin=held.open()) as holder:
        files.release_shared([old, held, left, tmp_path / "gone"], since=since)
        holder.kill()
    assert old.exists()
    assert held.exists()
    assert not left.exists()


def test_names_that_a_dump_has_made_are_removed_and_no_others(before: Path) -> None:
    (before / "work/sub").mkdir()
    for name in ("work/link_remap.7", "work/sub/link_remap.12", "work/link_remap.txt", "tmp/file"):
        (before / name).touch()
    files.drop_link_remaps(before, [], since=0.0)
    assert sorted(told(before)) == ["tmp", "tmp/file", "work", "work/link_remap.txt", "work/sub"]
