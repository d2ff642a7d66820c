"""Workers that hold runs in memory while they wait: for as long as they were told to, or because they can't freeze them."""

from collections.abc import Iterator

import pytest
from stack import Stack, fresh_database

from torpor.store.embedded import EmbeddedPostgres


@pytest.fixture(scope="module")
def patient(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Everything that is over at some time is held."""
    made = Stack(
        tmp_path_factory.mktemp("patient") / "stack",
        fresh_database(postgres, "patient"),
        TORPOR_HOLD_S="3600",
        TORPOR_HOLD_CHILD_S="3600",
    )
    made.start()
    yield made
    made.stop()


def test_a_short_wait_is_held_in_memory(patient: Stack) -> None:
    run_id = patient.trigger("sleeper", {"journal": str(patient.journal("short")), "seconds": 0.3})
    assert patient.output(run_id)
    assert "run.suspended" not in patient.kinds(run_id)
    assert "run.waiting" in patient.kinds(run_id)


@pytest.mark.criu
def test_a_worker_that_is_stopped_freezes_what_waits_and_another_life_goes_on(patient: Stack) -> None:
    token = patient.client.create_token()["id"]
    payload = {"journal": str(patient.journal("stopped")), "count": 0, "token_id": token}
    run_id = patient.trigger("batch_parent", payload)
    patient.await_event(run_id, "run.waiting")
    assert patient.process_of(run_id)
    patient.stop_worker()
    assert "run.suspended" in patient.kinds(run_id)
    patient.start_worker()
    patient.client.complete_token(token, "the answer")
    assert patient.output(run_id) == ["the answer"]
    assert patient.run(run_id)["attemptCount"] == 1
    assert patient.lines("stopped") == ["before", "before", "after", "after"]  # its child writes there, too


@pytest.fixture(scope="module")
def unfreezing(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Nothing is frozen, as without CRIU, and two runs may work at once."""
    made = Stack(
        tmp_path_factory.mktemp("unfreezing") / "stack",
        fresh_database(postgres, "unfreezing"),
        TORPOR_FREEZE="no",
        TORPOR_WORKER_SLOTS="2",
    )
    made.start()
    yield made
    made.stop()


def test_without_criu_everything_works_and_runs_are_held(unfreezing: Stack) -> None:
    token = unfreezing.client.create_token()["id"]
    run_id = unfreezing.trigger("waits_for_token", {"journal": str(unfreezing.journal("held")), "token_id": token})
    unfreezing.await_event(run_id, "run.held")
    assert "switched off" in unfreezing.events(run_id, "run.held")[0]["reasons"][0]
    assert unfreezing.process_of(run_id)
    unfreezing.client.complete_token(token, "the answer")
    assert unfreezing.output(run_id) == "the answer"
    assert unfreezing.run(run_id)["attemptCount"] == 1
    assert "run.suspended" not in unfreezing.kinds(run_id)


def test_waiting_parents_never_keep_out_their_children(unfreezing: Stack) -> None:
    """Two slots, nothing is frozen, and each of three runs waits for a child that waits for a child that …"""
    runs = [unfreezing.trigger("many_levels", 4) for _ in range(3)]
    assert [unfreezing.output(run_id) for run_id in runs] == [4, 4, 4]


def test_a_save_point_that_cannot_be_is_told_to_the_code_and_in_the_story(unfreezing: Stack) -> None:
    run_id = unfreezing.trigger("saved_twice", str(unfreezing.journal("unsaved")))
    assert unfreezing.output(run_id) == [False, False, False, False]
    assert "switched off" in unfreezing.events(run_id, "run.save_failed")[0]["reason"]
