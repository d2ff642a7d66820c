"""A form made of a payload's JSON schema, and the payload that its fields stand for.

Both ways go through the payload itself: fields are read to a value, and a value is shown in fields. So the form and its JSON
stay in step, and whatever has no form of its own (a union, a free object, what is nested too deep, a value that doesn't
fit) is a field of JSON in its place. Nothing that was typed gets lost: what can't be read is shown again as it was.

Fields are named by JSON pointers behind a letter: `f/customer/name` is what was typed, `b…` what an empty field stands for
(null, or a text without characters), `has` and `json` name the pointers of what is there, and of what is written as JSON.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import msgspec
from msgspec import UNSET

Kind = Literal["text", "number", "flag", "choice", "date", "time", "moment", "group", "list", "json"]
Schema = dict[str, Any]

MAX_DEPTH = 4
"""Groups and lists within each other; what is deeper is JSON."""
MAX_ITEMS = 50
_KINDS: dict[str, Kind] = {"date": "date", "time": "time", "date-time": "moment"}
_PICKED = {"date": re.compile(r"\d{4}-\d\d-\d\d"), "time": re.compile(r"\d\d:\d\d(:\d\d)?")}


@dataclass(slots=True)
class Field:
    """A field as it is shown. Of groups and lists `fields` are the parts, if it is given at all."""

    kind: Kind
    pointer: str
    path: str  # as problems name it
    label: str
    is_required: bool
    schema: Schema
    text: str = ""
    blank: str | None = None  # the JSON that it stands for while it is empty; None: it is left out
    choices: list[tuple[str, str]] = field(default_factory=list)  # (JSON, words)
    is_given: bool = True
    can_go: bool = False
    fields: list["Field"] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def is_picked(self) -> bool:
        """A browser's own calendar or clock takes it; other texts would get lost in there."""
        return self.kind in _PICKED and (not self.text or bool(_PICKED[self.kind].fullmatch(self.text)))

    @property
    def default(self) -> str | None:
        """What leaving it out means, if the schema says so."""
        return msgspec.json.encode(self.schema["default"]).decode() if "default" in self.schema else None

    @property
    def hint(self) -> str | None:
        return self.schema.get("description")

    def all(self) -> Iterator["Field"]:
        yield self
        for each in self.fields:
            yield from each.all()


@dataclass(slots=True)
class Given:
    """What the fields of a form say: the payload (UNSET: none), and what can't be read, by path and by pointer."""

    value: Any = UNSET
    problems: list[dict[str, str]] = field(default_factory=list)
    kept: dict[str, tuple[Kind, str]] = field(default_factory=dict)


class PayloadForm:
    """The form of one schema. `is_required`: a payload must be given."""

    def __init__(self, schema: Schema, *, is_required: bool) -> None:
        self._root = schema
        self._is_required = is_required

    def begin(self) -> Any:
        """A payload to begin with: what must be there, without what somebody has to say."""
        return self._begin(self._root) if self._is_required else UNSET

    def _begin(self, schema: Schema, depth: int = 0) -> Any:
        schema, _ = self._plain(schema)
        match _kind(schema, depth):
            case "group":
                parts = {
                    name: self._begin(schema["properties"][name], depth + 1)
                    for name in schema.get("required", [])
                    if name in schema["properties"]
                }
                return {name: part for name, part in parts.items() if part is not UNSET}
            case "list":
                return []
            case _:
                return schema.get("const", UNSET)

    # -- to fields ----------------------------------------------------------------------------------------------------

    def show(self, given: Given) -> tuple[Field, list[str]]:
        """The fields with their problems, and those problems that no field is meant by."""
        top = self._show(given, self._root, given.value, "", "", "Payload", self._is_required, 0)
        fields = {each.path: each for each in top.all()}
        rest: list[str] = []
        for problem in given.problems:
            path, message = problem["path"], problem["message"]
            near = max((name for name in fields if _is_within(path, name)), key=len, default=None)
            if near is None:
                rest.append(f"{path} {message}")
            else:
                beyond = path[len(near) :].lstrip(".")
                fields[near].problems.append(f"{beyond} {message}" if beyond else message)
        return top, rest

    def _show(
        self,
        given: Given,
        schema: Schema,
        value: Any,
        pointer: str,
        path: str,
        label: str,
        is_required: bool,
        depth: int,
    ) -> Field:
        schema, may_be_null = self._plain(schema)
        kind = _kind(schema, depth)
        made = Field(kind, pointer, path, label, is_required, schema)
        if kept := given.kept.get(pointer):
            made.kind, made.text = kept
        elif value is not UNSET and value is not None and not _fits(kind, schema, value):
            made.kind = "json"
        if value is None or (may_be_null and is_required and value is UNSET):
            made.blank = "null"
        is_there = value is not UNSET and value is not None
        held = cast(Any, value)  # of the kind's type, where it is there
        match made.kind:
            case _ if kept:
                pass
            case "group":
                made.is_given, made.can_go = is_there, is_there and not is_required
                for name, part in _parts(schema) if is_there else ():
                    made.fields.append(
                        self._show(
                            given,
                            part,
                            held.get(name, UNSET),
                            f"{pointer}/{_escaped(name)}",
                            f"{path}.{name}" if path else name,
                            name,
                            name in schema.get("required", []),
                            depth + 1,
                        )
                    )
            case "list":
                made.is_given, made.can_go = is_there, is_there and not is_required
                for index, item in enumerate(held if is_there else ()):
                    shown = self._show(
                        given,
                        schema["items"],
                        item,
                        f"{pointer}/{index}",
                        f"{path}[{index}]",
                        str(index + 1),
                        True,
                        depth + 1,
                    )
                    shown.can_go = True
                    made.fields.append(shown)
            case "choice":
                made.choices = [(_json(one), one if isinstance(one, str) else _json(one)) for one in _choices(schema)]
                made.text = _json(value) if is_there else ""
            case "flag" | "number":
                made.text = _json(value) if is_there else ""
            case "json":
                made.text = msgspec.json.format(_json(value), indent=2) if is_there else ""
            case _:
                made.text = held if is_there else ""
                if is_there and not value:
                    made.blank = '""'
        return made

    # -- from fields --------------------------------------------------------------------------------------------------

    def read(self, fields: Mapping[str, str], has: set[str], as_json: set[str]) -> Given:
        """What was typed. `has` and `as_json` are all values of the fields of these names."""
        given = Given()
        given.value = self._read(given, _Typed(fields, has, as_json), self._root, "", "", 0)
        return given

    def _read(self, given: Given, typed: "_Typed", schema: Schema, pointer: str, path: str, depth: int) -> Any:
        schema, _ = self._plain(schema)
        kind: Kind = "json" if pointer in typed.as_json else _kind(schema, depth)
        if kind in ("group", "list"):
            if pointer not in typed.has:
                return typed.blank(pointer)
            if kind == "group":
                parts = {
                    name: self._read(
                        given, typed, part, f"{pointer}/{_escaped(name)}", f"{path}.{name}" if path else name, depth + 1
                    )
                    for name, part in _parts(schema)
                }
                return {name: part for name, part in parts.items() if part is not UNSET}
            items: list[Any] = []
            while f"{pointer}/{len(items)}" in typed.has:
                at, to = f"{pointer}/{len(items)}", f"{path}[{len(items)}]"
                item = self._read(given, typed, schema["items"], at, to, depth + 1)
                is_text = _kind(self._plain(schema["items"])[0], depth + 1) == "text"
                items.append(("" if is_text else None) if item is UNSET else item)
            return items
        text = typed.fields.get(f"f{pointer}", "").replace("\r\n", "\n")
        if not text.strip() and (kind != "text" or not text):
            return typed.blank(pointer)
        if kind in ("json", "number", "flag", "choice"):
            try:
                value = msgspec.json.decode(text)
            except (msgspec.DecodeError, RecursionError) as error:
                given.kept[pointer] = (kind, text)
                if kind != "json":
                    return text  # what it should be is told by whoever checks the payload
                given.problems.append({"path": path, "message": f"is not JSON: {error}"})
                return UNSET
            if kind == "number" and (isinstance(value, bool) or not isinstance(value, int | float)):
                given.kept[pointer] = (kind, text)
                return text
            return value
        return text

    # -- more and less ------------------------------------------------------------------------------------------------

    def add(self, value: Any, pointer: str) -> tuple[Any, str]:
        """The payload with what the pointer names put there, or with one more item in it; and the pointer of what is new."""
        steps, schema, depth = _steps(pointer), self._root, 0
        node = [value]
        holder: Any = node
        at: Any = 0
        for step in steps:
            schema, _ = self._plain(schema)
            holder = holder[at]
            at = int(step) if isinstance(holder, list) else step
            schema = schema["items"] if isinstance(holder, list) else schema["properties"][step]
            depth += 1
        found = holder[at] if isinstance(holder, list) else holder.get(at, UNSET)
        plain, _ = self._plain(schema)
        if found is UNSET or found is None:
            found = self._begin(schema, depth)
        if _kind(plain, depth) == "list":
            item = self._begin(plain["items"], depth + 1)
            item_kind = _kind(self._plain(plain["items"])[0], depth + 1)
            found = [*found, ("" if item_kind == "text" else None) if item is UNSET else item]
            pointer = f"{pointer}/{len(found) - 1}"
        holder[at] = found
        return node[0], pointer

    def drop(self, value: Any, pointer: str) -> Any:
        """The payload without it."""
        *steps, last = _steps(pointer) or [""]
        if not pointer:
            return UNSET
        holder = value
        for step in steps:
            holder = holder[int(step)] if isinstance(holder, list) else holder[step]
        if isinstance(holder, list):
            del holder[int(last)]
        else:
            holder.pop(last, None)
        return value

    def _plain(self, schema: Schema) -> tuple[Schema, bool]:
        """Without references, and without the null that it may be besides; whether it may be null."""
        may_be_null = False
        for _ in range(16):  # a reference may lead to itself
            if "$ref" in schema:
                target: Any = self._root
                for step in _steps(schema["$ref"].removeprefix("#")):
                    target = target.get(step, {}) if isinstance(target, dict) else {}
                schema = {**target, **_without(schema, "$ref")}
            elif isinstance(schema.get("type"), list) and "null" in schema["type"] and len(schema["type"]) == 2:
                may_be_null = True
                (one,) = (name for name in schema["type"] if name != "null")
                schema = {**schema, "type": one}
            elif word := next((word for word in ("anyOf", "oneOf", "allOf") if word in schema), None):
                branches = [branch for branch in schema[word] if branch.get("type") != "null"]
                may_be_null = may_be_null or len(branches) < len(schema[word])
                if len(branches) != 1:
                    break
                schema = {**_without(schema, word), **branches[0]}
            else:
                break
        return schema, may_be_null


@dataclass(frozen=True, slots=True)
class _Typed:
    fields: Mapping[str, str]
    has: set[str]
    as_json: set[str]

    def blank(self, pointer: str) -> Any:
        return {"null": None, '""': ""}.get(self.fields.get(f"b{pointer}", ""), UNSET)


def _kind(schema: Schema, depth: int) -> Kind:
    """How a schema without references is shown."""
    if _choices(schema):
        return "choice"
    match schema.get("type"):
        case "string":
            return _KINDS.get(schema.get("format", ""), "text")
        case "integer" | "number":
            return "number"
        case "boolean":
            return "flag"
        case "object" if schema.get("properties") and depth < MAX_DEPTH:
            return "group"
        case "array" if isinstance(schema.get("items"), dict) and "prefixItems" not in schema and depth < MAX_DEPTH:
            return "list"
        case _:
            return "json"


def _parts(schema: Schema) -> list[tuple[str, Schema]]:
    """Those that are needed first, in the order of their declaration: the database keeps that of lists, not that of objects."""
    needed = [name for name in schema.get("required", []) if name in schema["properties"]]
    return [(name, schema["properties"][name]) for name in dict.fromkeys([*needed, *schema["properties"]])]


def _choices(schema: Schema) -> list[Any]:
    return [schema["const"]] if "const" in schema else schema.get("enum", [])


def _fits(kind: Kind, schema: Schema, value: Any) -> bool:
    """Can a field of this kind show the value, and give it back as it is?"""
    match kind:
        case "group":
            return isinstance(value, dict) and value.keys() <= schema["properties"].keys()
        case "list":
            return isinstance(value, list) and len(value) <= MAX_ITEMS
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "flag":
            return isinstance(value, bool)
        case "choice":
            return _json(value) in [_json(one) for one in _choices(schema)]
        case "json":
            return True
        case _:
            return isinstance(value, str) and "\r" not in value and (not value or bool(value.strip()))


def _is_within(path: str, of: str) -> bool:
    return not of or path == of or path.startswith((f"{of}.", f"{of}["))


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _steps(pointer: str) -> list[str]:
    return [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:]]


def _without(schema: Schema, word: str) -> Schema:
    return {name: value for name, value in schema.items() if name != word}
