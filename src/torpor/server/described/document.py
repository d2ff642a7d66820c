"""The OpenAPI document: every line of access.py that is not for workers, as it is described."""

import re
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import version
from typing import Any

import msgspec
from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from torpor.server import described
from torpor.server.access import ROUTES, Access
from torpor.server.auth import Kind
from torpor.server.described.operation import (
    COMMON,
    JSON,
    PATH,
    RATED,
    Answer,
    Body,
    Operation,
    Parameter,
    Refusal,
    Shape,
    refusals_of,
)

Json = dict[str, Any]

KINDS = {
    Kind.SECRET: "May do everything: `tr_dev_…`. For servers only.",
    Kind.PERSONAL: "May do everything but look after keys, and says who does it: `tr_pat_…`. For people at a command line.",
    Kind.SCOPED: "A key that may do what its scopes say: `tr_dev_sk_…`.",
    Kind.PUBLIC: "A signed token for browsers, which may do what its scopes say until it runs out.",
    Kind.ONE_TIME: "A public token that is good for one trigger, or one batch.",
}
"""What can be sent as `Authorization: Bearer …`."""

ABOUT = """Durable tasks in Python, triggered and looked at over HTTP. The paths and the JSON are those of Trigger.dev's
management API, as far as served; what is Torpor's own is marked so. Absent fields are left out, never null, except where a
null is named. What the scopes mean, the limits, and how to page are told in the documentation of the HTTP API."""


def operations() -> Iterator[tuple[str, Operation]]:
    """Every route that is described, by the name of its line."""
    for resource in described.RESOURCES:
        yield from resource.operations.items()


def document() -> Json:
    """The whole document."""
    types, components = schemas()
    paths: dict[str, Json] = {}
    for resource in described.RESOURCES:
        for name, operation in resource.operations.items():
            method, path = name.split(" ", 1)
            paths.setdefault(path, {})[method.lower()] = _operation(name, operation, resource.title, types)
    whole = {
        "openapi": "3.1.0",
        "info": {
            "title": "Torpor",
            "version": version("torpor"),
            "description": ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": one.title, "description": one.about} for one in described.RESOURCES],
        "paths": paths,
        "components": {
            "schemas": components,
            "responses": {str(status): _refusal(text, types) for status, text in COMMON.items()},
            "securitySchemes": {
                scheme(kind): {"type": "http", "scheme": "bearer", "description": text} for kind, text in KINDS.items()
            },
        },
    }
    return _without_links(whole)


def _without_links(told: Any) -> Any:
    """Links between pages of the documentation lead nowhere from here: their words remain."""
    match told:
        case dict():
            return {name: _without_links(value) for name, value in told.items()}
        case list():
            return [_without_links(value) for value in told]
        case str():
            return re.sub(r"\[([^\]]+)\]\([\w.#-]+\)", r"\1", told)
        case _:
            return told


async def serve(request: Request) -> Response:
    """`GET /api/openapi.json`."""
    return Response(_encoded(), media_type=JSON)


@cache
def _encoded() -> bytes:
    return msgspec.json.encode(document())


routes = [Route("/api/openapi.json", serve, methods=["GET"])]

# -- one operation ----------------------------------------------------------------------------------------------------


def _operation(name: str, operation: Operation, tag: str, schemas: "Schemas") -> Json:
    access = ROUTES[name]
    own = ["Torpor's own."] if operation.is_own else []
    told: Json = {
        "operationId": operation.id,
        "tags": [tag],
        "summary": operation.summary,
        "description": "\n\n".join(filter(None, [*own, operation.about, _scopes(access)])),
        "parameters": [
            *(_of_path(part) for part in re.findall(r"{(\w+)}", name)),
            *(_parameter(one, "query", schemas) for one in operation.query),
            *(_parameter(one, "header", schemas) for one in operation.headers),
        ],
        "responses": {
            **{str(status): _answer(one, access, schemas) for status, one in operation.answers.items()},
            **{
                str(status): {"$ref": f"#/components/responses/{status}"}
                if COMMON.get(status) == text
                else _refusal(text, schemas)
                for status, text in refusals_of(name, operation).items()
            },
        },
        "security": security(access),
    }
    if operation.body:
        told["requestBody"] = _body(operation.body, schemas)
    return {key: value for key, value in told.items() if value or key == "security"}


def scheme(kind: Kind) -> str:
    """`secretKey` for a secret key."""
    first, *others = re.split(r"[ -]", kind)
    return first + "".join(map(str.capitalize, others))


def security(access: Access) -> list[Json]:
    """One of these is needed: a secret key or a personal token alone, all others with one of the scopes."""
    found: list[Json] = []
    for kind in access.takes:
        if kind not in (Kind.NOTHING, Kind.HASH):
            scopes = () if kind in (Kind.SECRET, Kind.PERSONAL) else access.scopes
            found += [{scheme(kind): [scope]} for scope in scopes] or [{scheme(kind): []}]
    return found


def _scopes(access: Access) -> str:
    named = ", ".join(f"`{scope}`" for scope in access.scopes)
    return f"Scopes, of which one is needed: {named}." if named else ""


def _of_path(name: str) -> Json:
    about, example = PATH[name]
    return {
        "name": name,
        "in": "path",
        "required": True,
        "schema": {"type": "string", "minLength": 1},
        "description": about,
        "example": example,
    }


def _parameter(one: Parameter, where: str, schemas: "Schemas") -> Json:
    told: Json = {"name": one.name, "in": where, "schema": schemas.of(one.type), "description": one.about}
    if told["schema"].get("type") == "array":
        told |= {"style": "form", "explode": False}
    return told if one.example is None else told | {"example": one.example}


def _body(body: Body, schemas: "Schemas") -> Json:
    content = {body.media: {"schema": schemas.of(body.type), "example": body.example}}
    return {"required": body.is_required, "content": content}


def _answer(answer: Answer, access: Access, schemas: "Schemas") -> Json:
    told: Json = {"description": answer.about}
    limited = {} if {Kind.NOTHING, Kind.HASH} & {*access.takes} else RATED
    headers = {
        name: {"schema": {"type": "string"}, "description": text} for name, text in (answer.headers | limited).items()
    }
    if headers:
        told["headers"] = headers
    if answer.type is not None:
        content: Json = {"schema": schemas.of(answer.type)}
        told["content"] = {answer.media: content if answer.example is UNSET else content | {"example": answer.example}}
    return told


def _refusal(text: str, schemas: "Schemas") -> Json:
    return {"description": text, "content": {JSON: {"schema": schemas.of(Refusal)}}}


# -- schemas ----------------------------------------------------------------------------------------------------------


class Schemas:
    """The schema of each type that is used; those of Structs are references."""

    def __init__(self, types: Iterable[Any], schemas: Iterable[Json]) -> None:
        self._known = {repr(one): schema for one, schema in zip(types, schemas, strict=True)}

    def of(self, wanted: Any) -> Json:
        return self._known[repr(wanted)]


def schemas() -> tuple[Schemas, Json]:
    """And what the references lead to."""
    types: list[Any] = [Refusal]
    for _, operation in operations():
        types += [one.type for one in (*operation.query, *operation.headers)]
        types += [one.type for one in operation.answers.values() if one.type is not None]
        types += [operation.body.type] if operation.body else []
    made, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    for name in _names_of(Shape):
        components.get(name, {}).pop("additionalProperties", None)
    return Schemas(types, made), components


def _names_of(base: type) -> Iterator[str]:
    for one in base.__subclasses__():
        yield one.__name__
        yield from _names_of(one)
