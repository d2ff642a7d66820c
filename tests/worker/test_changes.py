"""Changes of metadata are merged only where that comes to the same: compared with carrying out each of them, many times over."""

import random
from typing import Any

import pytest

from torpor.wire.operations import apply
from torpor.wire.runner import Change, Op, Target
from torpor.worker.changes import Changes


def reported(*made: Op | tuple[Target, Op]) -> tuple[list[Op | None], int]:
    """What is left of these, and how many of the messages need not be reported."""
    changes, needless = Changes(), 0
    for number, each in enumerate(made):
        target, op = each if isinstance(each, tuple) else ("self", each)
        needless += len(changes.add(Change(number, 0, target, op)))
    return [pending.op for pending in changes.take()], needless


def test_a_progress_bar_is_one_operation() -> None:
    steps = [Op("set", "progress", number) for number in range(1000)]
    assert reported(*steps) == ([Op("set", "progress", 999)], 999)


def test_a_count_is_one_operation() -> None:
    assert reported(*[Op("increment", "n", 2)] * 500) == ([Op("increment", "n", 1000)], 499)
    assert reported(Op("set", "n", 5), Op("increment", "n", -7)) == ([Op("set", "n", -2)], 1)


@pytest.mark.parametrize("value", [0.1, True, 2**60])
def test_what_a_sum_would_not_be_exact_for_is_left_alone(value: Any) -> None:
    made = [Op("set", "n", value), Op("increment", "n", 1)]
    assert reported(*made) == (made, 0)


def test_a_replacement_makes_all_before_it_needless_but_for_others_and_tags() -> None:
    changes = Changes()
    changes.add(Change(1, 0, op=Op("append", "a", 1)))
    changes.add(Change(2, 0, "parent", Op("set", "a", 1)))
    changes.add(Change(3, 0, tags=["t"]))
    needless = changes.add(Change(4, 0, op=Op("update", value={})))
    assert [each.number for each in needless] == [1]
    assert [each.change.number for each in changes.take()] == [2, 3, 4]


def test_each_message_is_either_reported_or_needless() -> None:
    changes = Changes()
    needless = [
        each.number for number in range(9) for each in changes.add(Change(number, 0, op=Op("set", "ab"[number % 2])))
    ]
    assert sorted(needless + [each.change.number for each in changes.take()]) == list(range(9))


@pytest.mark.parametrize("seed", range(10))
def test_the_same_comes_of_it(seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(50):
        ops = [made(dice) for _ in range(dice.randint(1, 12))]
        before = {"a": dice.choice([0, [1, "x"], {"b": [1]}]), "b": [1]}
        merged, _ = reported(*ops)
        assert apply(before, [op for op in merged if op]) == apply(before, ops)


def made(dice: random.Random) -> Op:
    """Any operation, most of them on the same few keys."""
    key = dice.choice(["a", "b", "$.a", "$.a.b", "$.b.0"])
    value = dice.choice([1, True, "x", [1], {"b": 1}])
    return dice.choice(
        [
            Op("set", key, value),
            Op("delete", key),
            Op("append", key, value),
            Op("remove", key, value),
            Op("increment", key, dice.choice([1, 2, -3])),
            Op("increment", key, 4),
            Op("update", value={"a": value}),
        ]
    )
