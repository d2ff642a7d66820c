"""M1: what operations do to metadata, compared with a plain model that changes its own copy in place."""

import json
import re
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from torpor.wire.operations import MAX_DEPTH, MAX_NAMES, apply, check
from torpor.wire.runner import Op

NAMES = ["a", "b", "0", "1"]
keys = some.sampled_from([*NAMES, "$.a", "$.a.b", "$.b.0", "$.a.b.1", "$.b.a.0.a", r"$.a\.b", r"$.a\\.0"])
leaves = some.none() | some.booleans() | some.integers(-3, 3) | some.sampled_from([0.5, 1.0, "x"])
values = some.recursive(
    leaves,
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.sampled_from(NAMES), inner, max_size=3),
    max_leaves=6,
)
objects = some.dictionaries(some.sampled_from(NAMES), values, max_size=3)
numbers = some.integers(-3, 3) | some.sampled_from([0.5, -1.5, 1e308])
operations = some.one_of(
    some.builds(Op, some.sampled_from(["set", "append", "remove"]), keys, values),
    some.builds(Op, some.just("delete"), keys),
    some.builds(Op, some.just("increment"), keys, numbers),
    some.builds(Op, some.just("update"), some.just(""), objects),
)


def text(value: Any) -> str:
    """As JSON, so that 1 and true differ."""
    return json.dumps(value, sort_keys=True)


def equal(one: Any, other: Any) -> bool:
    """1 and 1.0 are one number."""
    return re.sub(r"\.0\b", "", text(one)) == re.sub(r"\.0\b", "", text(other))


def modelled(metadata: Any, operation: Op) -> Any:
    """The same in place, with exceptions for whatever can't be."""
    if operation.type == "update":
        return deepcopy(operation.value)
    after, value = deepcopy(metadata), deepcopy(operation.value)
    key = operation.key
    # Escapes, dots, escapes: another way to cut a path than by one expression for a name.
    names = key[2:].replace("\\\\", "\1").replace("\\.", "\2").split(".") if key.startswith("$.") else [key]
    *way, last = [name.replace("\1", "\\").replace("\2", ".") for name in names]
    try:
        holder: Any = after
        for name in way:
            place: Any = int(name) if isinstance(holder, list) else name
            if operation.type not in ("delete", "remove"):
                if isinstance(holder, list) and place == len(holder):
                    holder.append({})
                elif (holder.get(name) if isinstance(holder, dict) else holder[place]) is None:
                    holder[place] = {}
            holder = holder[place]
        place = int(last) if isinstance(holder, list) else last
        is_there = place in holder if isinstance(holder, dict) else isinstance(holder, list) and place < len(holder)
        present = holder[place] if is_there else None
        match operation.type:
            case "delete":
                del holder[place]
                return after
            case "remove":
                assert isinstance(present, list)
                made: Any = [each for each in present if not equal(each, value)]
            case "append":
                made = ([] if not is_there else present if isinstance(present, list) else [present]) + [value]
            case "increment":
                is_number = isinstance(present, int | float) and not isinstance(present, bool)
                made = (present if is_number else 0) + value
                json.dumps(made, allow_nan=False)
            case _:
                made = value
        if isinstance(holder, list) and place == len(holder):
            holder.append(made)
        else:
            holder[place] = made
    except (AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError):
        return metadata
    return after


@given(objects, some.lists(operations, max_size=6))
def test_operations_do_what_the_model_does_and_change_nothing_that_is_given(metadata: Any, wanted: list[Op]) -> None:
    before = text(metadata), [text(one.value) for one in wanted]
    expected = metadata
    for one in wanted:
        check(one)
        expected = modelled(expected, one)
    assert text(apply(metadata, wanted)) == text(expected)
    assert (text(metadata), [text(one.value) for one in wanted]) == before


@given(objects, some.lists(operations, max_size=4), some.lists(operations, max_size=4))
def test_two_reports_do_what_one_with_both_does(metadata: Any, first: list[Op], second: list[Op]) -> None:
    assert text(apply(apply(metadata, first), second)) == text(apply(metadata, [*first, *second]))


@pytest.mark.parametrize(
    ("operation", "why"),
    [
        (Op("set", "", 1), "a key is needed"),
        (Op("set", "__proto__", 1), "may not be __proto__"),
        (Op("set", "$.a.__proto__.b", 1), "may not name"),
        (Op("append", "$.constructor", 1), "may not name"),
        (Op("delete", r"$.a\prototype"), "may not name"),
        (Op("set", "$.", 1), "names nothing"),
        (Op("set", "$.a.*", 1), "names and numbers"),
        (Op("set", "$.a.[1:2]", 1), "names and numbers"),
        (Op("set", "$" + ".a" * (MAX_NAMES + 1), 1), "at most 64 names"),
        (Op("increment", "n", "1"), "must be a number"),
        (Op("increment", "n", True), "must be a number"),
        (Op("increment", "n", float("inf")), "must be a number"),
        (Op("update", value=[1]), "must be an object"),
    ],
)
def test_what_can_be_no_operation_is_refused_with_the_reason(operation: Op, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        check(operation)


def test_a_value_that_is_nested_too_deeply_is_refused() -> None:
    value: list[Any] = []
    for _ in range(MAX_DEPTH - 1):
        value = [value]
    check(Op("set", "a", value))
    with pytest.raises(ValueError, match="deep"):
        check(Op("set", "a", [[value]]))
