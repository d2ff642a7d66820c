"""The generated parts of docs/api.md: who may call what, and the reference. What stands around them is written by hand.

`bin/api-docs` writes them, or with `--check` only says whether they are as they would be written.
"""

import json
import sys
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET

from torpor.server import described
from torpor.server.access import ROUTES
from torpor.server.described import document
from torpor.server.described.operation import COMMON, Operation, Parameter, Resource, refusals_of

WIDTH = 130
BEGIN, END = "<!-- bin/api-docs: {name} -->", "<!-- end -->"


def main(arguments: list[str]) -> int:
    is_check = "--check" in arguments
    stale = False
    for file in (Path(one) for one in arguments if one != "--check"):
        text = file.read_text(encoding="utf-8")
        made = written(text)
        if made != text and is_check:
            print(f"{file} is stale: run bin/api-docs")
            stale = True
        elif made != text:
            file.write_text(made, encoding="utf-8")
    return int(stale)


def written(page: str) -> str:
    """The page with its generated parts made anew."""
    for name, part in (("access", access()), ("reference", reference())):
        before, begin, rest = page.partition(BEGIN.format(name=name))
        _, end, after = rest.partition(END)
        if not end:
            raise ValueError(f"the page has no place for {name}: {BEGIN.format(name=name)} … {END}")
        page = f"{before}{begin}\n\n{part}\n\n{end}{after}"
    return page


def access() -> str:
    """Who may call what, as a table."""
    rows = [
        [f"`{name}`", ", ".join(line.takes), ", ".join(f"`{scope}`" for scope in line.scopes)]
        for name, line in ROUTES.items()
        if "/worker/" not in name and not line.is_page
    ]
    return _table(["route", "takes", "scope"], [*rows, ["all of `/worker/v1/…`", "worker token", ""]])


def reference() -> str:
    """Every resource: its operations, and the types that they speak of."""
    return "\n\n".join(block for resource in described.RESOURCES for block in _resource(resource))


def _resource(resource: Resource) -> Iterator[str]:
    yield f"## {resource.title}"
    yield _filled(resource.about)
    shown: list[Any] = []
    for name, operation in resource.operations.items():
        yield f"### {name}"
        yield from _operation(name, operation, shown)
    yield from _types(resource)


def _operation(name: str, operation: Operation, shown: list[Any]) -> Iterator[str]:
    """`shown` are the examples so far: none is repeated."""
    own = "Torpor's own. " if operation.is_own else ""
    yield _filled(f"{own}{operation.summary} {operation.about}".strip())
    parameters = [*operation.query, *operation.headers]
    if parameters:
        rows = [
            [f"`{one.name}`", "header" if one in operation.headers else "query", _values(one), one.about]
            for one in parameters
        ]
        yield _table(["parameter", "in", "type", "means"], rows)
    if operation.body:
        media = "" if operation.body.media == "application/json" else f", as `{operation.body.media}`"
        yield f"Body{_named(operation.body.type)}{media}:"
        yield _block(operation.body.example)
    for status, answer in operation.answers.items():
        media = "" if answer.media == "application/json" else f", as `{answer.media}`"
        yield f"{status}{_named(answer.type)}{media}: {answer.about}"
        if answer.example is not UNSET and answer.example not in shown:
            shown.append(answer.example)
            yield _block(answer.example)
    told = {status: text for status, text in refusals_of(name, operation).items() if COMMON.get(status) != text}
    if told:
        yield "\n".join(f"- {status}: {text}" for status, text in told.items())


def _values(parameter: Parameter) -> str:
    [schema], _ = msgspec.json.schema_components([parameter.type])
    return _type(schema)


# -- types ------------------------------------------------------------------------------------------------------------


def _types(resource: Resource) -> Iterator[str]:
    """A table of fields for each type that was not told with a resource before."""
    told = _names(one for one in described.RESOURCES[: described.RESOURCES.index(resource)])
    _, components = document.schemas()
    names = [name for name in _names([resource]) if name not in told]
    if names:
        yield f"### Types of {resource.title[0].lower()}{resource.title[1:]}"
        yield "`?`: it may be left out."
    for name in names:
        schema = components[name]
        needed, about = schema.get("required", ()), schema.get("description", "")
        yield f"#### {name}"
        if about:
            yield _filled(about)
        rows = [
            [f"`{field}`" + ("" if field in needed else "?"), _type(each, is_asked=field not in needed), _about(each)]
            for field, each in schema["properties"].items()
        ]
        yield _table(["field", "type", "means"], rows)


def _names(resources: Iterable[Resource]) -> list[str]:
    """The Structs that they speak of, each before those within it."""
    types: list[Any] = []
    for resource in resources:
        for operation in resource.operations.values():
            types += [operation.body.type] if operation.body else []
            types += [one.type for one in operation.answers.values() if one.type is not None]
    _, components = msgspec.json.schema_components(types)
    return [name for name, schema in components.items() if schema.get("properties")]


def _named(type_: Any) -> str:
    """The name of a Struct, for the words before an example."""
    return f" `{type_.__name__}`" if isinstance(type_, type) and issubclass(type_, msgspec.Struct) else ""


def _type(schema: dict[str, Any], *, is_asked: bool = False) -> str:
    """In few words. Of what may be left out it needn't be said that null means the same."""
    match schema:
        case {"$ref": ref}:
            return f"`{ref.rpartition('/')[2]}`"
        case {"anyOf": options}:
            words = dict.fromkeys(_type(one) for one in options if not (is_asked and one.get("type") == "null"))
            return " or ".join(words)
        case {"enum": values}:
            return ", ".join("null" if value is None else f"`{value}`" for value in values if value != "")
        case {"const": value}:
            return f"`{json.dumps(value)}`"
        case {"type": "array", "items": items}:
            return f"list of {_type(items)}"
        case {"type": "string", "format": "date-time"}:
            return "date"
        case {"type": kind}:
            return (
                kind if isinstance(kind, str) else " or ".join(one for one in kind if not (is_asked and one == "null"))
            )
        case _:
            return "any JSON"


def _about(schema: dict[str, Any]) -> str:
    """What is said of a field: also of the options of one that may be null."""
    said = [schema.get("description", ""), *(_about(one) for one in schema.get("anyOf", ()))]
    return " ".join(dict.fromkeys(filter(None, said)))


# -- text -------------------------------------------------------------------------------------------------------------


def _filled(text: str) -> str:
    """Paragraphs in lines of one width; a table, which is a paragraph whose lines begin with a bar, stays as it is."""
    return "\n\n".join(
        part if part.startswith("|") else textwrap.fill(part, WIDTH, break_long_words=False, break_on_hyphens=False)
        for part in text.split("\n\n")
    )


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


def _block(value: Any) -> str:
    return textwrap.indent(_json(value, WIDTH - 4), "    ")


def _json(value: Any, room: int, indent: int = 0) -> str:
    """JSON in as few lines as fit."""
    flat = json.dumps(value, ensure_ascii=False)
    if len(flat) + indent <= room or not isinstance(value, dict | list):
        return flat
    members = (
        [(f"{json.dumps(name)}: ", each) for name, each in value.items()]
        if isinstance(value, dict)
        else [("", each) for each in value]
    )
    lines, line = list[str](), ""
    for number, (name, each) in enumerate(members):
        ending = "" if number == len(members) - 1 else ","
        told = name + _json(each, room - 1, indent + 1 + len(name)) + ending
        if line and ("\n" in told or indent + len(line) + 2 + len(told) > room):
            lines.append(line)
            line = ""
        line = f"{line} {told}" if line else told
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return opening + ("\n" + " " * (indent + 1)).join([*lines, line]) + closing


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
