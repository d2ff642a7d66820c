"""Forks, with real processes: the same memory, another run, another answer."""

from collections.abc import Iterator

import pytest
from stack import Stack, eventually, fresh_database

from torpor.store.embedded import EmbeddedPostgres

pytestmark = pytest.mark.criu


@pytest.fixture(scope="module")
def keeping(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack that keeps checkpoints of runs that are over."""
    directory = tmp_path_factory.mktemp("keeping") / "stack"
    made = Stack(directory, fresh_database(postgres, "keeping"), TORPOR_CHECKPOINT_RETENTION_S="3600")
    made.start()
    yield made
    made.stop()


def test_a_frozen_run_goes_on_twice_with_two_answers(keeping: Stack) -> None:
    """BB17: from one image, after the original is over as well."""
    stack = keeping
    token = stack.client.create_token()["id"]
    origin = stack.trigger("waits_for_token", {"journal": str(stack.journal()), "token_id": token})
    stack.await_event(origin, "run.suspended")
    twin = stack.client.fork(origin, answer="no")["id"]
    assert stack.output(twin) == "no"
    waiting = stack.client.fork(origin)["id"]
    assert stack.run(waiting)["status"] == "WAITING"
    stack.client.complete_token(token, "yes")
    assert (stack.output(origin), stack.output(waiting)) == ("yes", "yes")
    late = stack.client.fork(origin, answer="later")["id"]
    assert stack.output(late) == "later"
    assert stack.lines() == ["before", "after", "after", "after", "after"]
    assert stack.kinds(twin).count("run.started") == 0, "it began in the middle"
    assert stack.run(twin)["forkedFrom"] == origin


def test_a_checkpoint_says_where_its_process_stands(stack: Stack) -> None:
    token = stack.client.create_token()["id"]
    run_id = stack.trigger("waits_for_token", {"journal": str(stack.journal()), "token_id": token})
    stack.await_event(run_id, "run.suspended")
    (one,) = stack.client.checkpoints(run_id)
    found = stack.client.checkpoint(one["id"])
    assert any("wait.for_token(token_id)" in str(place.get("source")) for place in found["waitingAt"])
    assert [(wait["kind"], wait["status"]) for wait in found["waits"]] == [("token", "WAITING")]
    assert 0 < found["newBytes"] <= found["sizeBytes"]
    stack.client.complete_token(token, 1)
    assert stack.output(run_id) == 1


def test_a_run_is_forked_at_its_save_point(keeping: Stack) -> None:
    stack = keeping
    run_id = stack.trigger("saved_twice", str(stack.journal("saved")))
    stack.output(run_id)
    first = next(one for one in stack.client.checkpoints(run_id) if one.get("name") == "first")
    twin = stack.client.fork(run_id, first["id"])["id"]
    stack.await_end(twin)
    eventually(lambda: stack.run(twin)["status"] == "COMPLETED", what="it went on from there")
    assert stack.lines("saved").count("second") == 2
