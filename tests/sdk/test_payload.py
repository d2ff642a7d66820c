"""From a call to JSON and back."""

import json
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, NamedTuple

import pytest
from pydantic import BaseModel, Field

from torpor.errors import OutputError, PayloadError
from torpor.sdk.payload import Signature


class User(BaseModel):
    id: int
    email: str = Field(alias="e-mail")


@dataclass
class Point:
    x: float
    y: float


class Pair(NamedTuple):
    left: int
    right: str


def signature(function: Any) -> Signature:
    return Signature(function, "task 't'")


def test_no_parameter_means_no_payload() -> None:
    def t() -> None: ...

    it = signature(t)
    assert (it.rule, it.write((), {}), it.read(b"null"), it.read(b"{}")) == ("none", None, {}, {})
    with pytest.raises(PayloadError, match="takes no payload"):
        it.read(b"1")


def test_one_parameter_is_the_payload() -> None:
    def t(user: User) -> None: ...

    it = signature(t)
    user = User.model_validate({"id": 1, "e-mail": "a@b"})
    assert it.rule == "one"
    assert json.loads(it.write((user,), {}) or b"") == {"id": 1, "e-mail": "a@b"}
    assert it.read(it.write((), {"user": user}) or b"") == {"user": user}


def test_several_parameters_are_an_object_of_named_arguments() -> None:
    def t(a: int, b: Decimal, *, c: datetime) -> None: ...

    it = signature(t)
    values = {"a": 1, "b": Decimal("1.10"), "c": datetime(2026, 1, 1)}
    written = it.write((1, Decimal("1.10")), {"c": datetime(2026, 1, 1)}) or b""
    assert json.loads(written) == {"a": 1, "b": "1.10", "c": "2026-01-01T00:00:00"}
    assert it.read(written) == values


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Point, Point(1.5, 2)),
        (Pair, Pair(1, "x")),
        (dict[str, list[Point]], {"a": [Point(1, 2)]}),
        (bytes, b"\xff\x00"),
        (float, float("inf")),
        (int | None, None),
        (Any, {"nested": [1, None]}),
        (set[int], {1, 2}),
    ],
)
def test_a_value_comes_back_as_it_went(kind: Any, value: Any) -> None:
    def t(it): ...

    t.__annotations__ = {"it": kind, "return": kind}
    sig = signature(t)
    assert sig.read(sig.write((value,), {}) or b"") == {"it": value}
    assert sig.read_output(sig.write_output(value)) == value


def test_defaults_are_filled_in_by_the_version_that_runs() -> None:
    def one(a: str = None) -> None: ...  # type: ignore  # noqa: RUF013 - people write it

    def named(a: int, b: int = 5) -> None: ...

    assert signature(one).write((), {}) is None
    assert signature(one).read(b"null") == {}
    assert signature(named).write((1,), {}) == b'{"a":1}'
    assert signature(named).read(b'{"a":1}') == {"a": 1}


def test_a_misfit_names_every_field() -> None:
    def t(user: User, n: Annotated[int, Field(gt=0)]) -> None: ...

    with pytest.raises(PayloadError) as caught:
        signature(t).write(({"id": "x"}, 0), {})
    assert [problem["path"] for problem in caught.value.problems] == ["user.id", "user.e-mail", "n"]
    with pytest.raises(PayloadError, match="missing a required argument: 'n'"):
        signature(t).write((1,), {})
    with pytest.raises(PayloadError) as caught:
        signature(t).read(b'{"user": {"id": 1, "e-mail": ""}, "n": 1, "m": 2}')
    assert caught.value.problems == [{"path": "m", "message": "Extra inputs are not permitted"}]


def test_a_model_that_was_made_invalid_is_caught_before_it_is_sent() -> None:
    def t(user: User) -> None: ...

    user = User.model_validate({"id": 1, "e-mail": "a@b"})
    user.id = "seven"  # type: ignore
    with pytest.raises(PayloadError, match=r"user\.id"):
        signature(t).write((user,), {})


def test_without_annotations_anything_that_is_json_goes() -> None:
    def t(a, b): ...

    assert signature(t).read(signature(t).write((1, [None]), {}) or b"") == {"a": 1, "b": [None]}
    with pytest.raises(PayloadError, match="can't be JSON"):
        signature(t).write((object(), 1), {})


def test_an_output_that_does_not_fit_is_an_output_error() -> None:
    def t() -> int: ...

    assert signature(t).write_output(3) == b"3"
    with pytest.raises(OutputError, match="output: Input should be a valid integer"):
        signature(t).write_output("three")

    def u(): ...

    with pytest.raises(OutputError, match="can't be JSON"):
        signature(u).write_output(object())


def test_the_schema_follows_the_payload_rule() -> None:
    def none() -> None: ...
    def one(user: User) -> None: ...
    def maybe(n: int = 3) -> None: ...
    def named(a: int, b: str = "") -> None: ...

    assert signature(none).schema()["anyOf"][0] == {"type": "null"}
    schema = signature(one).schema()
    assert schema["$ref"] == "#/$defs/User"
    assert schema["$defs"]["User"]["required"] == ["id", "e-mail"]
    assert {"type": "null"} in signature(maybe).schema()["anyOf"]
    schema = signature(named).schema()
    assert (schema["required"], schema["additionalProperties"]) == (["a"], False)


def test_an_annotation_without_a_form_in_json_is_refused_by_name() -> None:
    class Opaque: ...

    def t(a) -> None: ...

    t.__annotations__ = {"a": Opaque}
    with pytest.raises(TypeError, match=r"task 't'.*parameter.*Opaque"):
        signature(t).schema()


@pytest.mark.parametrize("text", ["*args", "**kwargs", "a, /"])
def test_parameters_that_have_no_name_are_refused(text: str) -> None:
    namespace: dict[str, Any] = {}
    exec(f"def t({text}): ...", namespace)
    with pytest.raises(TypeError, match=r"task 't' (takes|has)"):
        signature(namespace["t"])


def test_generators_are_refused() -> None:
    def t():
        yield 1

    with pytest.raises(TypeError, match="generator"):
        signature(t)
