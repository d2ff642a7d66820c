"""Values that go into metadata and streams, as JSON has them: copied, so that what the author does to them later is not said."""

import math
from typing import Any

import msgspec

MAX_DEPTH = 100


def plain(value: Any, what: str) -> Any:
    """The value made of dicts, lists, text, numbers, booleans and None. Models, dataclasses, dates and the like dump themselves.

    Args:
        what: names it in messages, such as `metadata.set('user', …)`.

    Raises:
        TypeError: part of it can't be JSON.
        ValueError: it holds a number or a text that JSON or a database has no place for, or it is nested too deeply.

    >>> plain({"at": (1, 2)}, "x")
    {'at': [1, 2]}
    """
    return _plain(value, what, "", MAX_DEPTH)


def encoded(value: Any, what: str) -> bytes:
    """The same, as JSON text."""
    return msgspec.json.encode(plain(value, what))


def _plain(value: Any, what: str, place: str, depth: int) -> Any:
    if depth == 0:
        raise ValueError(f"{what}: it is nested more than {MAX_DEPTH} deep")
    if value is None or isinstance(value, bool):
        return value
    kind = type(value)  # subclasses, such as an enum's members, dump themselves
    if kind is str:
        return _text(value, what, place)
    if kind is int:
        if not -(2**63) <= value < 2**63:
            raise ValueError(f"{what}: {_named(place)} a whole number of more than 64 bits")
        return value
    if kind is float:
        if not math.isfinite(value):
            raise ValueError(f"{what}: {_named(place)} {value}, which JSON has no number for")
        return value
    if kind is dict:
        return {_key(key, what, place): _plain(each, what, f"{place}.{key}", depth - 1) for key, each in value.items()}
    if kind in (list, tuple):
        return [_plain(each, what, f"{place}[{index}]", depth - 1) for index, each in enumerate(value)]
    return _plain(_dumped(value, what, place), what, place, depth - 1)


def _dumped(value: Any, what: str, place: str) -> Any:
    from pydantic_core import PydanticSerializationError, to_jsonable_python

    if isinstance(value, bytes | bytearray | memoryview):
        raise TypeError(f"{what}: {_named(place)} bytes, which can't be JSON: decode them, or send base64")
    try:
        return to_jsonable_python(value)
    except (PydanticSerializationError, RecursionError, UnicodeDecodeError):
        raise TypeError(f"{what}: {_named(place)} of type {type(value).__qualname__}, which can't be JSON") from None


def _key(key: Any, what: str, place: str) -> str:
    if not isinstance(key, str):
        raise TypeError(f"{what}: {_named(place)} a dict with the key {_shown(key)}; keys must be text")
    return _text(str(key), what, place)


def _text(value: str, what: str, place: str) -> str:
    if "\0" in value:
        raise ValueError(f"{what}: {_named(place)} text with a NUL character, which can't be stored")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{what}: {_named(place)} text with half a character (a lone surrogate)") from None
    return value


def _named(place: str) -> str:
    return f"{place.lstrip('.')} is" if place else "the value is"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "…"
