r"""What the operations on metadata do, once for both sides: the run that reads what it has just changed, and the engine.

    set        key, value       the value is there
    delete     key              it is not
    append     key, value       at the end of a list; what is there and is none becomes the first of one
    remove     key, value       all that equal it are gone from a list
    increment  key, value       a number is more by so much; what is there and is none counts as 0
    update     value            an object is all there is

A key that starts with `$.` is a path: names with dots between them, a number for a place in a list, `\.` for a dot in a
name. Objects that are missing on the way are made. An operation that can't be carried out, since there is a text or a number
on its way, or no list to remove from, changes nothing: what others have made of the metadata meanwhile is nobody's fault.
"""

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from torpor.wire.runner import Op

_NAME = re.compile(r"(?:[^.\\]|\\.)+")
_OF_PROTOTYPES = frozenset({"__proto__", "constructor", "prototype"})
"""Names by which a path would reach into the prototypes of whoever carries it out in JavaScript."""

MAX_NAMES = 64
"""The most names that a path may have."""
MAX_DEPTH = 100
"""How deep a value may be nested, so that whoever compares two of them comes to an end."""

COST_OF_REMOVE = 64
"""Of one, in copies of the same list."""

_MISSING: Any = object()


def check(operation: Op) -> None:
    """Whether this can be an operation.

    Raises:
        ValueError: its key or its value can't be; the message says why.
    """
    kind, key, value = operation.type, operation.key, operation.value
    if _is_too_deep(value):
        raise ValueError(f"{kind}: the value is nested more than {MAX_DEPTH} deep")
    if kind == "update":
        if not isinstance(value, dict):
            raise ValueError("update: the value must be an object")
        return
    if not key:
        raise ValueError(f"{kind}: a key is needed")
    if key == "__proto__":
        raise ValueError(f"{kind}: the key may not be __proto__")
    if kind == "increment" and not _is_number(value):
        raise ValueError("increment: the value must be a number")
    if not key.startswith("$."):
        return
    names = _path(key)
    if not names:
        raise ValueError(f"{kind}: the path {key[:80]!r} names nothing")
    if len(names) > MAX_NAMES:
        raise ValueError(f"{kind}: a path has at most {MAX_NAMES} names; there are {len(names)}")
    if not _OF_PROTOTYPES.isdisjoint(re.split(r"[.\[\]'\"\\]+", key)):
        raise ValueError(f"{kind}: the path {key[:80]!r} may not name {', '.join(sorted(_OF_PROTOTYPES))}")
    if any(name == "*" or name.startswith("[") for name in names):
        raise ValueError(f"{kind}: the path {key[:80]!r} may hold names and numbers, nothing else")


def _is_number(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # a whole number of hundreds of digits
        return False


def cost(size_bytes: int, operations: Sequence[Op]) -> int:
    """How much there is to copy and compare at most, when these are carried out on metadata of that size: in bytes, about.

    Each operation copies the object or list that it changes, and `remove` compares what is in there, which takes longer.
    """
    largest = size_bytes + len(msgspec.json.encode(operations))
    return largest * sum(COST_OF_REMOVE if each.type == "remove" else 1 for each in operations)


def _is_too_deep(value: Any) -> bool:
    """Without a call for each level, of which there may be any number."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True


def apply(metadata: dict[str, Any], operations: Iterable[Op]) -> dict[str, Any]:
    """The metadata after these operations, in their order. Nothing that is given is changed: what differs is made anew.

    >>> apply({"n": 1}, [Op("increment", "n", 2), Op("append", "$.log.lines", "a"), Op("remove", "n", 3)])
    {'n': 3, 'log': {'lines': ['a']}}
    """
    for operation in operations:
        if operation.type == "update":
            metadata = operation.value
        else:
            names = _path(operation.key) if operation.key.startswith("$.") else [operation.key]
            metadata = _changed(metadata, names, operation)
    return metadata


def find(metadata: dict[str, Any], key: str, default: Any = None) -> Any:
    """What is at a key or path; the default where nothing is.

    >>> find({"log": {"lines": ["a"]}}, "$.log.lines.0")
    'a'
    """
    held: Any = metadata
    for name in _path(key) if key.startswith("$.") else [key]:
        held = _get(held, name) if isinstance(held, dict | list) else _MISSING
    return default if held is _MISSING else held


def _changed(holder: Any, names: list[str], operation: Op) -> Any:
    """The object or list with the operation carried out in it; itself where that can't be."""
    name, *further = names
    present = _get(holder, name)
    if not further:
        if operation.type == "delete":
            return _without(holder, name) if present is not _MISSING else holder
        value = _after(operation, present)
        return holder if value is _MISSING else _with(holder, name, value)
    inner = present
    if inner is _MISSING or inner is None:
        if operation.type in ("delete", "remove"):
            return holder
        inner = {}
    value = _changed(inner, further, operation) if isinstance(inner, dict | list) else inner
    return holder if value is inner else _with(holder, name, value)


def _after(operation: Op, present: Any) -> Any:
    """What is to be in the place of what is there; missing: it stays."""
    match operation.type:
        case "append":
            before = [] if present is _MISSING else present if isinstance(present, list) else [present]
            return [*before, operation.value]
        case "remove":
            if not isinstance(present, list):
                return _MISSING
            # What is the same is equal for Python too, which finds out sooner what isn't.
            return [each for each in present if each != operation.value or not same(each, operation.value)]
        case "increment":
            is_number = isinstance(present, int | float) and not isinstance(present, bool)
            return _sum(present if is_number else 0, operation.value)
        case _:
            return operation.value


def _sum(one: float, other: float) -> Any:
    """Exact for whole numbers; missing where JSON has no number for it."""
    try:
        total = one + other
        return total if math.isfinite(total) else _MISSING
    except OverflowError:
        return _MISSING


def _path(key: str) -> list[str]:
    return [re.sub(r"\\([.\\])", r"\1", name) for name in _NAME.findall(key[2:])]


def _place(holder: list[Any], name: str) -> int:
    """The place in a list that is meant, perhaps the one behind the last; -1: there is none."""
    place = int(name) if name.isascii() and name.isdigit() and len(name) < 10 else -1
    return place if place <= len(holder) else -1


def _get(holder: Any, name: str) -> Any:
    if isinstance(holder, dict):
        return holder.get(name, _MISSING)
    place = _place(holder, name)
    return holder[place] if 0 <= place < len(holder) else _MISSING


def _with(holder: Any, name: str, value: Any) -> Any:
    if isinstance(holder, dict):
        return {**holder, name: value}
    place = _place(holder, name)
    return holder if place < 0 else [*holder[:place], value, *holder[place + 1 :]]


def _without(holder: Any, name: str) -> Any:
    if isinstance(holder, dict):
        return {each: value for each, value in holder.items() if each != name}
    return [value for place, value in enumerate(holder) if place != int(name)]


def same(one: Any, other: Any) -> bool:
    """Equal as JSON: true is not 1, and 1.0 is."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[name]) for name, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other
