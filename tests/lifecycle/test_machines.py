"""Sizes of machine, on a worker that has three gigabytes to give."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from stack import Stack, fresh_database

from torpor.store.embedded import EmbeddedPostgres
from torpor.wire.presets import BUILT_IN
from torpor.worker.cgroups import NoCgroups, look


@pytest.fixture(scope="module")
def three_gigabytes(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    made = Stack(
        tmp_path_factory.mktemp("machines") / "stack",
        fresh_database(postgres, "machines"),
        TORPOR_ISOLATION="auto",
        TORPOR_WORKER_MEMORY_MB="3072",
        TORPOR_MEMORY_OVERSUBSCRIPTION="1",
    )
    made.start()
    yield made
    try:
        made.assert_nothing_left()
    finally:
        made.stop()


@pytest.fixture
def stack(three_gigabytes: Stack, tmp_path: Path) -> Stack:
    three_gigabytes.begin_scene(tmp_path)
    return three_gigabytes


def test_a_worker_takes_what_it_has_room_for_and_the_next_when_it_has_room_again(stack: Stack) -> None:
    until = stack.directory / "until"
    runs = [
        stack.trigger("works_on_a_machine", str(until), machine=name) for name in ("medium-1x", "small-2x", "small-2x")
    ]
    for run_id in runs[:2]:
        stack.await_event(run_id, "run.started")
    assert stack.status(runs[2]) == "QUEUED"
    until.touch()
    assert [stack.output(run_id) for run_id in runs] == [
        "medium-1x: 1.0 CPUs, 2048 MB",
        "small-2x: 1.0 CPUs, 1024 MB",
        "small-2x: 1.0 CPUs, 1024 MB",
    ]


@pytest.mark.criu
def test_a_run_that_used_up_its_memory_goes_on_from_its_checkpoint_on_a_larger_machine(stack: Stack) -> None:
    """BB6: it is killed once, comes back in the middle of its code, and has room then."""
    if isinstance(found := look(), NoCgroups):
        pytest.skip(found.reason)
    megabytes = int(BUILT_IN["micro"].memory_bytes * 1.5) >> 20
    run_id = stack.trigger("takes_more_than_its_machine_has", megabytes)
    assert stack.output(run_id) == ["micro", "small-2x"]
    assert stack.kinds(run_id).count("run.saved") == stack.kinds(run_id).count("run.resumed") == 1
    [told] = stack.events(run_id, "run.out_of_memory")
    assert (told["machine"], told["next_machine"]) == ("micro", "small-2x")
    assert told["from_checkpoint"] is not None
    run = stack.run(run_id)
    assert (run["machine"], run["attemptCount"]) == ("small-2x", 1)
    assert run["usage"]["cpuMs"] > 0
    assert run["usage"]["peakMemoryBytes"] > BUILT_IN["micro"].memory_bytes
