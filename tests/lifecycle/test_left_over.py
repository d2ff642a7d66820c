"""Whatever dies, and whenever: nothing of it is left on the machine.

What the kernel takes along (processes, mounts, networks) and what the worker's shadow, or the next worker, sweeps up
(directories, names in shared memory, control groups) is looked at together: the promise is about the whole.
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from stack import ENDS, Stack, StackMaker, eventually

from torpor.worker import router

pytestmark = pytest.mark.criu

OF_A_START = ["before_fork", "started"]
OF_A_DUMP = ["during_dump", "dumped", "packs_stored", "accepted"]
OF_A_RESTORE = ["fetched", "during_restore", "restored", "resumed"]


@pytest.fixture(autouse=True)
def without_its_second_name() -> Iterator[None]:
    """What a run without a room has in the machine's /dev/shm under a name of its own is its own business."""
    yield
    with suppress(FileNotFoundError):
        os.unlink("/dev/shm/torpor-lifecycle-second")


def begin(stack: Stack, fault: str) -> str:
    """A run that comes to this place and stands still there. It holds what a dump has to leave traces of in shared memory."""
    token = stack.client.create_token()["id"]
    if fault in (*OF_A_RESTORE, "before_restore"):
        run_id = stack.trigger("holds", {"what": "memory_under_another_name", "token_id": token})
        stack.await_event(run_id, "run.suspended")
        stack.pause_at(fault)
        stack.client.complete_token(token, None)
    else:
        stack.pause_at(fault)
        run_id = stack.trigger("holds", {"what": "memory_under_another_name", "token_id": token})
    stack.await_reached(fault)
    if fault not in OF_A_RESTORE:
        stack.client.complete_token(token, None)
    return run_id


@pytest.mark.parametrize("fault", [*OF_A_START, *OF_A_DUMP, *OF_A_RESTORE])
def test_a_supervisor_that_is_killed_leaves_nothing_when_its_worker_has_ended(stack: Stack, fault: str) -> None:
    run_id = begin(stack, fault)
    stack.kill_supervisor()
    stack.assert_dead_worker_left_nothing()
    stack.go_on(fault)
    stack.client.cancel(run_id, at_once=True)


@pytest.mark.parametrize("fault", ["dumped", "during_restore", "restored"])
def test_a_worker_that_is_killed_together_with_its_supervisor_leaves_nothing_after_the_next_start(
    stack: Stack, fault: str
) -> None:
    """Its shadow is killed, so nobody was there to sweep."""
    run_id = begin(stack, fault)
    stack.kill_worker()
    stack.go_on(fault)
    stack.client.cancel(run_id, at_once=True)
    stack.start_worker()
    stack.assert_nothing_left()
    stack.stop_worker()
    stack.assert_dead_worker_left_nothing()


def test_a_worker_that_is_stopped_leaves_nothing(stack: Stack) -> None:
    token = stack.client.create_token()["id"]
    run_id = stack.trigger("holds", {"what": "memory_under_another_name", "token_id": token})
    busy = stack.trigger("busy", str(stack.journal()))
    stack.await_event(run_id, "run.suspended")
    eventually(lambda: stack.lines() == ["busy 1"], what="another one works")
    stack.stop_worker()
    stack.assert_dead_worker_left_nothing()
    stack.client.cancel(run_id, at_once=True)
    stack.client.cancel(busy, at_once=True)


@pytest.mark.skipif(bool(router.missing_tools()), reason="private networks need tools that are not here")
def test_a_killed_supervisor_leaves_no_network_of_its_runs(make_stack: StackMaker) -> None:
    def devices() -> set[str]:
        # Other tests, which run beside, connect machines of their own with some.
        return {name for name in os.listdir("/sys/class/net") if not name.startswith("tp")}

    before = devices()
    stack = make_stack(TORPOR_ISOLATION="auto", TORPOR_NETWORK="private")
    stack.start()
    run_id = stack.trigger("busy", str(stack.journal()))
    eventually(lambda: stack.lines() == ["busy 1"], what="it works")
    ways_out = eventually(lambda: [pid for pid in stack.worker_pids() if "pasta" in command_of(pid)], what="a way out")
    stack.kill_supervisor()
    stack.assert_dead_worker_left_nothing()
    assert not any(stack.alive(pid) for pid in ways_out)
    eventually(lambda: not devices() - before, what="no device is left")
    stack.client.cancel(run_id, at_once=True)


@pytest.mark.parametrize("after_ms", [0, 5, 15])
def test_a_restore_that_is_killed_half_way_leaves_nothing(stack: Stack, after_ms: int) -> None:
    """CRIU dies while it builds the tree; the run is handed out again, and comes back once."""
    run_id, criu = caught_in_its_restore(stack)
    time.sleep(after_ms / 1000)
    for pid in criu:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert stack.output(run_id) == ["abc", None]
    stack.assert_nothing_left()


def caught_in_its_restore(stack: Stack) -> tuple[str, list[int]]:
    """A run, and the CRIU that restores it. It does so for some milliseconds: of as many runs as it takes until one is seen."""
    for _ in range(20):
        run_id = begin(stack, "before_restore")
        stack.go_on("before_restore")
        while stack.status(run_id) not in ENDS:
            for _ in range(100):
                if found := stack.criu():
                    return run_id, found
    raise AssertionError("CRIU was never seen")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_disk_that_becomes_full_in_the_middle_of_a_freeze_keeps_nothing_of_it_and_the_run_in_memory(
    make_stack: StackMaker, small_disk: Path
) -> None:
    """Its story says why, and it is frozen when there is room again."""
    stack = make_stack(TORPOR_DATA_DIR=str(small_disk / "data"))
    stack.start()
    images, filling = small_disk / "data" / "worker" / "images", small_disk / "filling"
    for fault in ("dumped", "packed"):
        stack.pause_at(fault)
        token = stack.client.create_token()["id"]
        run_id = stack.trigger("holds", {"what": "many_files", "token_id": token})
        stack.await_reached(fault)
        fill(filling)
        stack.go_on(fault)
        stack.await_event(run_id, "run.freeze_failed")
        assert "no space" in stack.events(run_id, "run.freeze_failed")[0]["reason"].lower()
        assert stack.process_of(run_id)
        eventually(lambda: not list(images.iterdir()), what="nothing half made is left")
        filling.unlink()
        stack.await_event(run_id, "run.suspended")
        stack.client.complete_token(token, None)
        assert stack.output(run_id) == 500
        eventually(lambda: not list(images.iterdir()), what="nothing that was laid is left")


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:  # it has just ended
        return ""


def fill(file: Path) -> None:
    """All that there is, to the last block."""
    with open(file, "wb", buffering=0) as filling, suppress(OSError):
        while True:
            filling.write(bytes(1 << 20))
    with open(file, "ab", buffering=0) as filling, suppress(OSError):
        while True:
            filling.write(bytes(4096))
