"""A payload goes into fields and comes back as it was, whatever it is; and nothing that was typed gets lost."""

from typing import Any

import pytest
from msgspec import UNSET
from orders import fulfil, label

from torpor.dashboard.payload_form import Field, Given, PayloadForm

FULFIL = PayloadForm(fulfil.manifest().payload_schema, is_required=True)
LABEL = PayloadForm(label.manifest().payload_schema, is_required=False)
TREE = PayloadForm(
    {
        "$defs": {
            "Node": {"type": "object", "properties": {"name": {"type": "string"}, "next": {"$ref": "#/$defs/Node"}}}
        },
        "$ref": "#/$defs/Node",
    },
    is_required=True,
)


def typed(top: Field) -> tuple[dict[str, str], set[str], set[str]]:
    """What a browser sends of these fields when nobody touches them."""
    fields: dict[str, str] = {}
    has: set[str] = set()
    as_json: set[str] = set()
    for each in top.all():
        if each.blank is not None:
            fields[f"b{each.pointer}"] = each.blank
        if each.kind in ("group", "list"):
            if each.is_given:
                has.add(each.pointer)
            continue
        fields[f"f{each.pointer}"] = each.text.replace("\n", "\r\n")
        if each.kind == "json":
            as_json.add(each.pointer)
    for each in top.all():
        if each.kind == "list" and each.is_given:
            has |= {part.pointer for part in each.fields}
    return fields, has, as_json


@pytest.mark.parametrize(
    ("form", "payload"),
    [
        (FULFIL, {"order": 1, "customer": {"name": "Ada"}, "items": []}),
        (FULFIL, {"order": 1.0, "customer": {"name": "", "email": None}, "items": [{"sku": "a\nb", "count": 2}, {}]}),
        (FULFIL, {"order": "x", "customer": 7, "items": {"not": "a list"}, "gift": "maybe", "speed": "slow"}),
        (
            FULFIL,
            {"billing": None, "notes": [1, {"a": None}], "discount": None, "ship_at": "tomorrow\r", "gift": False},
        ),
        (FULFIL, {"customer": {"name": "Ada", "born": "long ago"}, "unknown": True}),
        (FULFIL, {"order": 123456789012345678901234567890}),
        (FULFIL, [1, 2]),
        (FULFIL, None),
        (LABEL, "heavy"),
        (LABEL, "odd"),
        (LABEL, None),
        (LABEL, UNSET),
        (TREE, {"name": "1", "next": {"next": {"next": {"name": "4", "next": {"name": "5"}}}}}),
    ],
)
def test_it_comes_back_as_it_was(form: PayloadForm, payload: Any) -> None:
    top, _ = form.show(Given(payload))
    given = form.read(*typed(top))
    assert given.value == payload
    assert type(given.value) is type(payload)
    assert given.problems == []


def test_what_can_not_be_read_is_shown_as_it_was_typed() -> None:
    fields = {"f/order": "12x", "f/notes": '{"a": ', "f/customer/name": "Ada"}
    given = FULFIL.read(fields, {"", "/customer", "/items"}, {"/notes"})
    assert given.value == {"order": "12x", "customer": {"name": "Ada"}, "items": []}
    (problem,) = given.problems
    assert problem["path"] == "notes"
    shown = {each.pointer: (each.kind, each.text) for each in FULFIL.show(given)[0].all()}
    assert shown["/order"] == ("number", "12x")
    assert shown["/notes"] == ("json", '{"a": ')


def test_problems_are_told_at_the_nearest_field() -> None:
    paths = ("items[0].sku", "notes.a[0]", "customer", "elsewhere")
    problems = [{"path": path, "message": "is odd"} for path in paths]
    top, rest = FULFIL.show(Given({"customer": {}, "items": [{}]}, problems))
    told = {each.path: each.problems for each in top.all() if each.problems}
    assert told == {
        "items[0].sku": ["is odd"],
        "notes": ["a[0] is odd"],
        "customer": ["is odd"],
        "": ["elsewhere is odd"],
    }
    assert rest == []


def test_lists_and_optional_groups_come_and_go() -> None:
    value = FULFIL.begin()
    assert value == {"customer": {}, "items": []}
    value, at = FULFIL.add(value, "/items")
    assert (value["items"], at) == ([{}], "/items/0")
    value, at = FULFIL.add(value, "/billing")
    assert (value["billing"], at) == ({}, "/billing")
    assert FULFIL.drop(FULFIL.drop(value, "/items/0"), "/billing") == {"customer": {}, "items": []}
    with pytest.raises((KeyError, IndexError, ValueError, TypeError)):
        FULFIL.add(value, "/novelty/1")
