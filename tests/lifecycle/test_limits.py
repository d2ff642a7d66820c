"""Runs that meet their limits: what becomes of them, what their stories say, and that others don't notice."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from stack import ENDS, Stack, eventually, fresh_database

from torpor.store.embedded import EmbeddedPostgres
from torpor.wire.presets import BUILT_IN, DEFAULT_PRESET
from torpor.worker.cgroups import NoCgroups, look

USUAL = BUILT_IN[DEFAULT_PRESET]
MB = 1 << 20


@pytest.fixture(scope="module")
def limited(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    found = look()
    if isinstance(found, NoCgroups):
        pytest.skip(found.reason)
    made = Stack(
        tmp_path_factory.mktemp("limited") / "stack", fresh_database(postgres, "limited"), TORPOR_ISOLATION="auto"
    )
    made.start()
    yield made
    made.begin_scene(made.directory)
    try:
        made.assert_nothing_left()
        assert groups(made)
    finally:
        made.stop()
    assert not groups(made), "no control group of this worker is left"


@pytest.fixture
def stack(limited: Stack, tmp_path: Path) -> Stack:
    limited.begin_scene(tmp_path)
    return limited


def groups(stack: Stack) -> list[Path]:
    found = look()
    assert not isinstance(found, NoCgroups)
    name = (stack.directory / "data" / "worker" / "id").read_text().strip()
    return [tree for home in set(found.homes.values()) if (tree := home / "torpor" / name).exists()]


def test_a_run_that_uses_up_its_memory_fails_with_that_as_its_reason(stack: Stack) -> None:
    run_id = stack.trigger("takes_memory", 2 * USUAL.memory_bytes // MB)
    run = stack.await_end(run_id)
    assert run["status"] == "CRASHED"
    assert run["error"]["name"] == "OutOfMemory"
    assert f"of the 512 MB that {USUAL.name} allows, and was killed" in run["error"]["message"]
    assert 'machine="small-2x"' in run["error"]["message"]


def test_what_fits_is_let_be(stack: Stack) -> None:
    assert stack.output(stack.trigger("takes_memory", 450)) == 450


@pytest.mark.criu
def test_a_restored_run_has_the_same_limit_as_before(stack: Stack) -> None:
    """Also one that was close to it when it was frozen: what CRIU needs is not counted, nor what forks share."""
    runs = {after: frozen(stack, after) for after in (0, 100)}
    for _, token in runs.values():
        stack.client.complete_token(token, None)
    assert stack.output(runs[0][0]) == 490
    run = stack.await_end(runs[100][0])
    assert run["error"]["name"] == "OutOfMemory", run["error"]
    assert "run.resumed" in stack.kinds(runs[100][0])


def frozen(stack: Stack, after: int) -> tuple[str, str]:
    """A run that has taken nearly all that it may, and will take so many megabytes more; and the token that it waits for."""
    token = stack.client.create_token()["id"]
    run_id = stack.trigger("takes_memory_after_a_wait", {"token": token, "before": 490, "after": after})
    stack.await_event(run_id, "run.suspended")
    return run_id, token


def test_a_child_that_is_killed_for_its_memory_is_a_warning_in_the_story(stack: Stack) -> None:
    until = stack.directory / "until"
    payload = {"megabytes": 2 * USUAL.memory_bytes // MB, "until": str(until)}
    run_id = stack.trigger("has_a_child_that_takes_memory", payload)
    stack.await_event(run_id, "run.child_out_of_memory")
    until.touch()
    assert stack.output(run_id) == -9
    [told] = stack.events(run_id, "run.child_out_of_memory")
    assert told == {"count": 1, "limit_bytes": USUAL.memory_bytes, "machine": USUAL.name}


def test_whoever_starts_too_many_processes_gets_an_error_and_the_story_says_why(stack: Stack) -> None:
    run_id = stack.trigger("starts_processes_without_end")
    assert stack.output(run_id) == f"Resource temporarily unavailable after {USUAL.pids - 1}"
    [told] = stack.events(run_id, "run.pids_exhausted")
    assert told == {"pids": USUAL.pids, "machine": USUAL.name}


def test_a_disk_that_is_full_says_so(stack: Stack) -> None:
    """Half of its memory is its disk, so it is that which is full first."""
    told, megabytes = stack.output(stack.trigger("fills_all_of_its_disk"))
    assert told == "No space left on device"
    assert 0.9 * USUAL.disk_bytes / MB < megabytes <= USUAL.disk_bytes / MB


def test_too_many_open_files_are_an_error(stack: Stack) -> None:
    assert stack.output(stack.trigger("opens_files_without_end")) == "Too many open files"


def test_output_without_end_fills_neither_disk_nor_database(stack: Stack) -> None:
    run_id = stack.trigger("writes_without_end", 2000)
    most = 0
    while stack.status(run_id) not in ENDS:
        files = (stack.directory / "data" / "worker" / "runs").glob("*/output.log")
        with contextlib.suppress(FileNotFoundError):
            most = max([most, *(file.stat().st_blocks * 512 for file in files)])
        time.sleep(0.02)
    assert stack.output(run_id) == "Bad file descriptor"  # the C library does it by hand, and may not read there
    assert most < 1000 * MB
    told = list(stack.client.logs(run_id))
    assert sum(len(line["message"]) for line in told) < 101 * MB
    assert "TORPOR_OUTPUT_BYTES" in told[-1]["message"]


@pytest.mark.criu
def test_what_a_run_has_used_adds_up_over_its_lives(stack: Stack) -> None:
    token = stack.client.create_token()["id"]
    run_id = stack.trigger("works", {"seconds": 0.5, "megabytes": 60, "token_id": token})
    stack.await_event(run_id, "run.suspended")
    stack.client.complete_token(token)
    assert stack.output(run_id) == 60
    used = stack.run(run_id)["usage"]
    assert 950 < used["cpuMs"] < 5000
    assert 60 * MB < used["peakMemoryBytes"] < 120 * MB


def test_what_is_left_of_a_dead_supervisor_is_removed_by_who_outlives_it(stack: Stack) -> None:
    run_id = stack.trigger("works", {"seconds": 60, "megabytes": 1})
    eventually(lambda: stack.process_of(run_id), what="it runs")
    assert len(groups(stack)) > 0
    os.kill(stack.supervisor(), signal.SIGKILL)
    eventually(lambda: not groups(stack), what="no control group is left")
    stack.client.cancel(run_id)
    stack.kill_worker()
