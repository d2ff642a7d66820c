"""That bin/test would see what is left behind."""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

import leftovers
from torpor.worker import namespaces


def test_processes_and_files_that_are_left_are_seen_until_they_are_gone() -> None:
    mark = f"test-{os.getpid()}"
    before = leftovers.look(mark)
    file = Path(f"/tmp/torpor-left-{os.getpid()}")
    file.touch()
    process = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], env={**os.environ, leftovers.MARK: mark}
    )
    try:
        left = leftovers.left_since(before, mark, patience_s=0)
        assert f"file {file}" in left
        assert any(line.startswith(f"process {process.pid} (") for line in left)
    finally:
        process.kill()
        process.wait()
        file.unlink()
    assert f"file {file}" not in leftovers.look(mark)
    assert not any(f"process {process.pid} " in line for line in leftovers.look(mark))


@pytest.mark.skipif(not namespaces.may_unshare(), reason="needs root")
def test_mounts_and_control_groups_that_are_left_are_seen(tmp_path: Path) -> None:
    group = next(iter(Path("/sys/fs/cgroup").glob("pids")), None)
    before = leftovers.look("nobody")
    namespaces.mount("tmpfs", str(tmp_path), "tmpfs")
    made = group / f"torpor-left-{os.getpid()}" if group is not None else None
    try:
        if made is not None:
            made.mkdir()
        left = leftovers.look("nobody") - before
        assert any(line.endswith(f"of tmpfs on {tmp_path}") for line in left)
        assert made is None or f"control group {made}" in left
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
        if made is not None:
            with suppress(FileNotFoundError):
                made.rmdir()
