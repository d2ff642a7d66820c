"""Runs with much memory go on before all of it is there, and nobody can tell afterwards."""

from pathlib import Path

import pytest
from stack import Stack

pytestmark = pytest.mark.criu

MEGABYTES = 300
"""Three times what is laid before a run goes on, unless it is set otherwise."""


def held_run(stack: Stack) -> tuple[str, str, str]:
    """A run that holds much and is frozen, and the two tokens that it waits for, one after the other."""
    first, second = (stack.client.create_token()["id"] for _ in range(2))
    payload = {"journal": str(stack.journal()), "megabytes": MEGABYTES, "first": first, "second": second}
    run_id = stack.trigger("holds_much", payload)
    stack.await_event(run_id, "run.suspended")
    return run_id, first, second


def test_a_large_run_is_thawed_and_frozen_again_at_once_and_has_all_its_memory(stack: Stack) -> None:
    run_id, first, second = held_run(stack)
    stack.client.complete_token(first, None)
    stack.await_event(run_id, "run.suspended", count=2)
    stack.client.complete_token(second, None)
    assert stack.output(run_id) == "right"
    assert stack.lines() == ["before", "between", "after"]
    assert stack.run(run_id)["attemptCount"] == 1
    assert "run.start_failed" not in stack.kinds(run_id)
    stack.assert_nothing_left()


def test_damage_that_is_found_when_the_run_goes_on_already_does_not_reach_it(stack: Stack) -> None:
    """It is killed, which is no crash of its own: its story says that the image was damaged, and it begins anew."""
    run_id, first, second = held_run(stack)
    packs = sorted(
        (stack.directory / "data" / "worker" / "store" / "packs").iterdir(), key=lambda path: path.stat().st_mtime
    )
    damage(packs[len(packs) // 2])
    stack.client.complete_token(first, None)
    stack.await_event(run_id, "run.checkpoint_refused")
    [refusal] = stack.events(run_id, "run.checkpoint_refused")
    assert "changed, cut short or swapped" in refusal["reason"]
    stack.client.complete_token(second, None)
    assert stack.output(run_id) == "right"
    assert stack.run(run_id)["attemptCount"] == 2
    stack.assert_nothing_left()


def damage(pack: Path) -> None:
    data = bytearray(pack.read_bytes())
    for at in range(0, len(data), 1000):
        data[at] ^= 1
    pack.write_bytes(data)
