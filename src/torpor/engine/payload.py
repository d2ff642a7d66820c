"""Does a payload fit a task? Checked against the JSON schema that the worker reported, without loading user code.

The worker checks again, with the task's own annotations; this check is there so that a misfit is refused at the door.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from typing import Any, cast
from uuid import UUID

import msgspec
from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import ValidationError
from pydantic import UUID1, UUID3, UUID4, UUID5, TypeAdapter

from torpor.store.records import Task

MAX_PROBLEMS = 20
LARGE_CHARS = 1 << 16
"""Longer payloads are checked in a thread: a list of numbers of 3 MiB takes two seconds, in which nobody else would be heard."""
NAMES = {
    "object": "an object",
    "array": "a list",
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
}
FORMATS: dict[str, tuple[Any, str]] = {
    "date-time": (datetime, "a date and time such as 2026-03-01T07:00:00Z"),
    "date": (date, "a date such as 2026-03-01"),
    "time": (time, "a time of day such as 07:30:00"),
    "duration": (timedelta, "a length of time such as PT1H30M"),
    "uuid": (UUID, "a UUID such as 123e4567-e89b-42d3-a456-426614174000"),
    "uuid1": (UUID1, "a UUID of version 1"),
    "uuid3": (UUID3, "a UUID of version 3"),
    "uuid4": (UUID4, "a UUID of version 4"),
    "uuid5": (UUID5, "a UUID of version 5"),
}
"""Texts that an annotation turns into something else: the type that reads them, and how to ask for them. Other formats
are descriptions, which no worker heeds."""


@dataclass(frozen=True, slots=True)
class PayloadMisfit:
    """The payload doesn't fit the task's signature: each problem is `{"path": "order.items[0].price", "message"}`.

    No run was made. Tell the caller (422).
    """

    problems: list[dict[str, str]]


async def fitted(task: Task, payload: str | None) -> str | PayloadMisfit | None:
    """As `fit`, without keeping others waiting."""
    if payload is not None and len(payload) > LARGE_CHARS:
        return await asyncio.to_thread(fit, task, payload)
    return fit(task, payload)


def fit(task: Task, payload: str | None) -> str | PayloadMisfit | None:
    """The payload as the run will have it, or what is wrong with it.

    A task without parameters takes nothing; `null` and `{}` are nothing too, as some clients always send a body. For a
    task with named arguments no payload is no arguments.
    """
    try:
        value = msgspec.json.decode(payload) if payload is not None else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return PayloadMisfit([{"path": "", "message": f"is not JSON: {error}"}])
    if task.parameters == "none":
        if value in (None, {}):
            return None
        return PayloadMisfit([{"path": "", "message": f"{task.id} takes no payload"}])
    if task.parameters == "named" and value is None:
        payload, value = "{}", {}
    validator = _validator(msgspec.json.encode(task.payload_schema))
    problems: list[dict[str, str]] = []
    for error in validator.iter_errors(value):
        problems += _problems(error)
        if len(problems) >= MAX_PROBLEMS:
            break
    return PayloadMisfit(problems[:MAX_PROBLEMS]) if problems else payload


@lru_cache(maxsize=512)
def _validator(schema: bytes) -> Draft202012Validator:
    return Draft202012Validator(msgspec.json.decode(schema), format_checker=_formats())


@lru_cache(maxsize=1)
def _formats() -> FormatChecker:
    """As pydantic reads them, since the worker will: it takes more than the standards do ("2026-03-01 07:00")."""
    checker = FormatChecker(formats=())  # none of jsonschema's own
    for name, (kind, _) in FORMATS.items():
        checker.checks(name, raises=ValueError)(_reads(TypeAdapter(kind)))
    return checker


def _reads(adapter: TypeAdapter[Any]) -> Callable[[object], bool]:
    def reads(value: object) -> bool:
        if isinstance(value, str):  # what is no text is told by its type
            adapter.validate_python(value)
        return True

    return reads


def _problems(error: ValidationError) -> list[dict[str, str]]:
    """One schema violation as a person would tell it; an `anyOf` is told by the branch that came closest."""
    kind = str(error.validator)
    if kind in ("anyOf", "oneOf") and error.context:
        return _closest_branch(error)
    path = _path(error.absolute_path)
    wanted = cast(Any, error.validator_value)
    value: Any = error.instance
    match kind:
        case "required":
            # The validator names one missing field per error, in the message only.
            missing = [name for name in wanted if name not in value and f"'{name}'" in error.message]
            return [{"path": _join(path, name), "message": "is missing"} for name in missing[:1]]
        case "additionalProperties" if isinstance(value, dict) and not wanted:
            known = set(cast(Any, error.schema).get("properties", {}))
            extra = [name for name in value if name not in known]
            return [{"path": _join(path, name), "message": "is not a field of this task's payload"} for name in extra]
        case "type":
            types = [wanted] if isinstance(wanted, str) else list(wanted)
            names = " or ".join(NAMES.get(name, name) for name in types)
            return [{"path": path, "message": f"should be {names}, not {_show(value)}"}]
        case "enum":
            return [
                {
                    "path": path,
                    "message": f"should be one of {', '.join(_show(one) for one in wanted)}, not {_show(value)}",
                }
            ]
        case "const":
            return [{"path": path, "message": f"should be {_show(wanted)}, not {_show(value)}"}]
        case "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum":
            words = {
                "minimum": "at least",
                "maximum": "at most",
                "exclusiveMinimum": "more than",
                "exclusiveMaximum": "less than",
            }
            return [{"path": path, "message": f"should be {words[kind]} {wanted}, not {_show(value)}"}]
        case "minLength" | "maxLength" | "minItems" | "maxItems":
            unit = "characters" if kind.endswith("Length") else "items"
            bound = "at least" if kind.startswith("min") else "at most"
            return [{"path": path, "message": f"should have {bound} {wanted} {unit}, not {len(value)}"}]
        case "format":
            return [{"path": path, "message": f"should be {FORMATS[wanted][1]}, not {_show(value)}"}]
        case "pattern":
            return [{"path": path, "message": f"should match {wanted}, not {_show(value)}"}]
        case _:
            return [{"path": path, "message": error.message[:200]}]


def _closest_branch(error: ValidationError) -> list[dict[str, str]]:
    """Of the alternatives, the one whose misfits lie deepest: that is what the sender meant."""
    branches: dict[object, list[ValidationError]] = {}
    for inner in error.context or []:
        branches.setdefault(inner.schema_path[0], []).append(inner)

    def is_shallow(misfits: list[ValidationError]) -> bool:
        return all(len(misfit.path) == 0 and misfit.validator == "type" for misfit in misfits)

    deep = [misfits for misfits in branches.values() if not is_shallow(misfits)]
    if deep:
        best = min(deep, key=len)
        return [problem for misfit in best for problem in _problems(misfit)]
    wanted: list[str] = []
    for misfits in branches.values():
        types: Any = misfits[0].validator_value
        wanted += [types] if isinstance(types, str) else list(types)
    names = " or ".join(dict.fromkeys(NAMES.get(name, name) for name in wanted))
    return [{"path": _path(error.absolute_path), "message": f"should be {names}, not {_show(error.instance)}"}]


def _path(steps: Iterable[str | int]) -> str:
    """`order.items[0].price`; the payload itself is the empty path."""
    path = ""
    for step in steps:
        path = f"{path}[{step}]" if isinstance(step, int) else _join(path, step)
    return path


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _show(value: Any) -> str:
    """A value, short enough for a message: what it is, and the beginning of it."""
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 60 else text[:57] + "..."
