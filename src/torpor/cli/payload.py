"""A payload as it is written on a command line: JSON, a file of JSON, or key=value words."""

import json
from pathlib import Path
from typing import Any

import typer


def parse_payload(words: list[str], file: Path | None = None) -> Any:
    """The payload that these words mean; None when there are none.

    A value after `key=` is JSON when it reads as JSON, else text, so `n=3` is a number and `name=Ada` is a string.

    >>> parse_payload(['{"n": 1}']), parse_payload(["n=3", "name=Ada", "id=007"]), parse_payload(['"text"'])
    ({'n': 1}, {'n': 3, 'name': 'Ada', 'id': '007'}, 'text')

    Raises:
        typer.BadParameter: neither JSON nor key=value.
    """
    if file is not None:
        if words:
            raise typer.BadParameter("give the payload as words or as --payload-file, not both")
        try:
            return json.loads(Path("/dev/stdin").read_text() if str(file) == "-" else file.read_text(encoding="utf-8"))
        except OSError as error:
            raise typer.BadParameter(f"can't read {file}: {error.strerror}") from None
        except ValueError as error:
            raise typer.BadParameter(f"{file} is not JSON: {error}") from None
    if not words:
        return None
    if all(_is_pair(word) for word in words):
        pairs = (word.split("=", 1) for word in words)
        return {key: _value(text) for key, text in pairs}
    if len(words) > 1:
        raise typer.BadParameter("write one JSON text in quotes, or several key=value words")
    try:
        return json.loads(words[0])
    except ValueError as error:
        raise typer.BadParameter(
            f"{words[0]!r} is neither JSON ({error}) nor key=value. A text is written '\"{words[0]}\"'."
        ) from None


def _is_pair(word: str) -> bool:
    return word.partition("=")[0].isidentifier() and "=" in word


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
