"""A run's files come back exactly as they were, on every Python that we run on."""

import os
from pathlib import Path

from torpor.worker import files


def test_links_modes_and_times_come_back_as_they_were(tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    for name in files.PRIVATE:
        (before / name).mkdir(parents=True)
    after.mkdir()
    program = before / "work/program"
    program.write_text("text")
    program.chmod(0o4755)
    os.utime(program, ns=(1, 1_700_000_000_123_456_789))
    # Newer Pythons hold such links back unless told to trust the archive; older ones can't be told.
    (before / "work/outside").symlink_to("/etc/hostname")
    (before / "work/twin").hardlink_to(program)

    files.pack(before, tmp_path / "archive")
    files.unpack(tmp_path / "archive", after)

    assert {str(path.relative_to(after)) for path in after.rglob("*")} == {
        *("work", "work/program", "work/outside", "work/twin", "tmp")
    }
    assert (after / "work/program").stat().st_mode == program.stat().st_mode
    assert (after / "work/program").stat().st_mtime_ns == 1_700_000_000_123_456_789
    assert (after / "work/outside").readlink() == Path("/etc/hostname")
    assert (after / "work/twin").samefile(after / "work/program")
