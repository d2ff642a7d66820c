"""From a call to JSON and back, by the annotations of a task's signature.

The payload rule: a task with exactly one parameter takes that value as its payload; with several, an object of named
arguments; with none, nothing. Defaults are left out on the wire and filled in by the version that performs the run.

All parameters together are one pydantic model, also a single one: so both rules share one validator, one
serializer and one way to tell which field doesn't fit. pydantic is loaded when the first payload is, not before.
"""

import inspect
from collections.abc import Callable
from functools import cached_property
from math import isfinite
from types import NoneType
from typing import TYPE_CHECKING, Any, NotRequired, cast, get_type_hints

from torpor.errors import OutputError, PayloadError

if TYPE_CHECKING:
    from pydantic import RootModel, ValidationError
    from pydantic_core import PydanticSerializationError

_REFUSED = {
    inspect.Parameter.VAR_POSITIONAL: "takes *{}: name each argument, since a payload is an object of named arguments",
    inspect.Parameter.VAR_KEYWORD: "takes **{}: name each argument, or take one `dict` parameter",
    inspect.Parameter.POSITIONAL_ONLY: "has the positional-only parameter {}: remove the `/`, since arguments have names",
}
_OUTPUT = "output"


class Signature:
    """How a task is called.

    Args:
        function: the user's function.
        title: how to call it in messages.

    Raises:
        TypeError: it can't be a task; the message says why.
    """

    def __init__(self, function: Callable[..., Any], title: str) -> None:
        self._function = function
        self._title = title
        self._signature = inspect.signature(function)
        for parameter in self._signature.parameters.values():
            if why := _REFUSED.get(parameter.kind):
                raise TypeError(f"{title} {why.format(parameter.name)}")
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"{title} is a generator, which has no one output: return a list instead of yielding")
        self._names = list(self._signature.parameters)

    @property
    def rule(self) -> str:
        """`none`, `one` or `named`."""
        return ("none", "one")[len(self._names)] if len(self._names) < 2 else "named"

    def write(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes | None:
        """The payload of a call, as JSON; None when there is none.

        Raises:
            PayloadError: the arguments don't fit the signature.
        """
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise PayloadError(f"{self._title}: {error}", [{"path": "", "message": str(error)}]) from None
        if self.rule == "none" or (self.rule == "one" and not bound.arguments):
            return None
        written = self._arguments.write(bound.arguments)
        return _value(written) if self.rule == "one" else written

    def read(self, payload: bytes) -> dict[str, Any]:
        """The arguments that a payload stands for.

        Raises:
            PayloadError: it doesn't fit the signature.
        """
        empty = payload.strip() in (b"", b"null")
        match self.rule:
            case "none":
                if not empty and payload.strip() != b"{}":
                    raise PayloadError(
                        f"{self._title} takes no payload", [{"path": "", "message": "no payload is taken"}]
                    )
                return {}
            case "one":
                (name,) = self._names
                try:
                    return self._arguments.read(_object(name, b"null" if empty else payload))
                except PayloadError:
                    if empty and self._has_default(name):
                        return {}
                    raise
            case _:
                return self._arguments.read(b"{}" if empty else payload)

    def write_output(self, value: Any) -> bytes:
        """A return value as JSON.

        Raises:
            OutputError: it doesn't fit the annotation, or can't be JSON.
        """
        return _value(self._output.write({_OUTPUT: value}))

    def read_output(self, output: bytes) -> Any:
        """A return value from JSON.

        Raises:
            OutputError: it doesn't fit the annotation.
        """
        return self._output.read(_object(_OUTPUT, output))[_OUTPUT]

    def build(self) -> None:
        """Make the validators now, rather than when they are first needed.

        Raises:
            TypeError: an annotation can't be used for JSON.
        """
        _ = self._arguments, self._output

    def schema(self) -> dict[str, Any]:
        """JSON schema of the payload.

        Raises:
            TypeError: an annotation, also that of the return value, has no form in JSON.
        """
        _ = self._output
        match self.rule:
            case "none":
                return {"anyOf": [{"type": "null"}, {"type": "object", "maxProperties": 0}]}
            case "one":
                (name,) = self._names
                whole = self._arguments.schema()
                one = dict(whole["properties"][name])
                if self._has_default(name):
                    one = {"anyOf": [one, {"type": "null"}]}
                return {**one, **({"$defs": whole["$defs"]} if "$defs" in whole else {})}
            case _:
                schema = self._arguments.schema()
                for name, told in schema["properties"].items():
                    default = self._signature.parameters[name].default
                    if isinstance(default, str | int | NoneType) or (isinstance(default, float) and isfinite(default)):
                        told["default"] = default  # others may have no form in JSON, and none is needed for a call
                return schema

    def _has_default(self, name: str) -> bool:
        return self._signature.parameters[name].default is not inspect.Parameter.empty

    @cached_property
    def _hints(self) -> dict[str, Any]:
        try:
            return get_type_hints(self._function, include_extras=True)
        except Exception as error:
            raise TypeError(f"{self._title}: an annotation can't be resolved: {error}") from error

    @cached_property
    def _arguments(self) -> "_Shape":
        fields = {name: (self._hints.get(name, Any), not self._has_default(name)) for name in self._names}
        return _Shape(fields, self._title, PayloadError)

    @cached_property
    def _output(self) -> "_Shape":
        return _Shape({_OUTPUT: (self._hints.get("return", Any), True)}, self._title, OutputError)


class _Shape:
    """Named values that are validated, written and read together."""

    def __init__(
        self, fields: dict[str, tuple[Any, bool]], title: str, misfit: type[PayloadError] | type[OutputError]
    ) -> None:
        from pydantic import PydanticUserError
        from pydantic.errors import PydanticSchemaGenerationError

        self._title = title
        self._misfit = misfit
        try:
            self._model = _model(fields)
        except (PydanticUserError, PydanticSchemaGenerationError) as error:
            what = "the return annotation" if misfit is OutputError else "a parameter's annotation"
            raise TypeError(f"{title}: {what} has no form in JSON: {str(error).splitlines()[0]}") from error

    def write(self, values: dict[str, Any]) -> bytes:
        """As JSON that `read` is known to accept."""
        from pydantic import ValidationError
        from pydantic_core import PydanticSerializationError

        try:
            fitting = self._model.model_validate(values)
            written = fitting.model_dump_json(by_alias=True, round_trip=True, warnings=False).encode()
            self._model.model_validate_json(written)
        except ValidationError as error:
            raise self._told(error) from None
        except PydanticSerializationError as error:
            raise self._unwritable(error) from None
        return written

    def read(self, written: bytes) -> dict[str, Any]:
        from pydantic import ValidationError

        try:
            return self._model.model_validate_json(written).root
        except ValidationError as error:
            raise self._told(error) from None

    def schema(self) -> dict[str, Any]:
        from pydantic import TypeAdapter
        from pydantic.errors import PydanticInvalidForJsonSchema

        try:
            shape: Any = self._model.model_fields["root"].annotation
            return TypeAdapter(shape).json_schema(mode="validation")
        except PydanticInvalidForJsonSchema as error:
            raise TypeError(f"{self._title}: an annotation has no JSON schema: {str(error).splitlines()[0]}") from error

    def _told(self, error: "ValidationError") -> PayloadError | OutputError:
        problems = [
            {"path": ".".join(map(str, one["loc"])), "message": one["msg"]} for one in error.errors(include_url=False)
        ]
        lines = "; ".join(f"{one['path']}: {one['message']}" if one["path"] else one["message"] for one in problems[:5])
        return self._made(f"{self._title}: {lines}{' …' if len(problems) > 5 else ''}", problems)

    def _unwritable(self, error: "PydanticSerializationError") -> PayloadError | OutputError:
        return self._made(f"{self._title}: a value can't be JSON: {error}", [{"path": "", "message": str(error)}])

    def _made(self, message: str, problems: list[dict[str, str]]) -> PayloadError | OutputError:
        return PayloadError(message, problems) if self._misfit is PayloadError else OutputError(message)


def _model(fields: dict[str, tuple[Any, bool]]) -> "type[RootModel[dict[str, Any]]]":
    """A TypedDict, since any parameter name will do as its key; in a RootModel, since only that heeds the last two."""
    from pydantic import ConfigDict, RootModel
    from typing_extensions import TypedDict  # typing's own is refused by pydantic before Python 3.12

    annotations = {name: hint if is_required else NotRequired[hint] for name, (hint, is_required) in fields.items()}
    shape: Any = TypedDict("Arguments", annotations)  # pyright: ignore
    # NaN would silently become null, and bytes that aren't UTF-8 could not be written at all.
    config = ConfigDict(ser_json_inf_nan="strings", ser_json_bytes="base64", val_json_bytes="base64")
    shape.__pydantic_config__ = {"extra": "forbid", **config}
    namespace = {"model_config": config, "__module__": __name__, "__qualname__": "Arguments"}
    return cast("Any", type("Arguments", (RootModel[shape],), namespace))


def _object(name: str, value: bytes) -> bytes:
    return b'{"' + name.encode() + b'":' + value + b"}"


def _value(written: bytes) -> bytes:
    """The value in an object with one member, as the serializer writes it: without spaces."""
    return written[written.index(b":") + 1 : -1]
