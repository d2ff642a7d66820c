"""Runs without rooms (TORPOR_ISOLATION=off): root, among the files of the machine. What they may do, and which images fit."""

from collections.abc import Iterator

import pytest
from stack import Stack, fresh_database
from test_damage import held_for

from torpor.store.embedded import EmbeddedPostgres
from torpor.worker import namespaces

pytestmark = [
    pytest.mark.criu,
    pytest.mark.skipif(not namespaces.may_unshare(), reason="without root there is nothing else"),
]


@pytest.fixture(scope="module")
def bare(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("bare")
    made = Stack(
        directory / "stack",
        fresh_database(postgres, "bare"),
        TORPOR_ISOLATION="off",
        TORPOR_OBJECT_STORE=f"file://{directory}/objects",
        TORPOR_UNFIT_PATIENCE_S="0.5",
    )
    made.start()
    yield made
    made.stop()


def test_what_no_image_can_hold_keeps_the_run_in_memory(bare: Stack) -> None:
    assert "is a perf event" in held_for(bare, "waits_with_a_counter")


def test_a_child_with_mounts_of_its_own_keeps_the_run_in_memory(bare: Stack) -> None:
    """CRIU would dump it and could never restore it."""
    assert "has mounts of its own" in held_for(bare, "child_with_own_mounts")


def test_what_a_run_leaves_mounted_goes_with_its_directory(bare: Stack) -> None:
    assert bare.output(bare.trigger("mounts_and_dies")) is None
    bare.assert_nothing_left()


def test_an_image_is_restored_as_it_was_made_or_refused(bare: Stack) -> None:
    """In a room, if it was in one: any worker that can make rooms does so. Not among the files of a worker that gives rooms."""
    token = bare.client.create_token()["id"]
    run_id = bare.trigger("waits_for_token", {"journal": str(bare.journal()), "token_id": token})
    bare.await_event(run_id, "run.suspended")
    bare.journal().chmod(0o666)
    bare.stop_worker()
    bare.start_worker(TORPOR_ISOLATION="auto")
    bare.client.complete_token(token, "answer")
    assert bare.output(run_id) == "answer"
    assert "without a room" in bare.events(run_id, "run.checkpoint_refused")[0]["reason"]
    assert bare.lines() == ["before", "before", "after"]
    token = bare.client.create_token()["id"]
    roomy = bare.trigger("looks_around", {"token_id": token, "paths": []})
    bare.await_event(roomy, "run.suspended")
    bare.stop_worker()
    bare.start_worker()
    bare.client.complete_token(token)
    said = bare.output(roomy)
    assert said["before"] == said["after"]
    assert "run.checkpoint_refused" not in bare.kinds(roomy)
