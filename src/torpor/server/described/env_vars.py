"""Environment variables: their types, and their routes."""

from typing import Annotated

from msgspec import Meta

from torpor.server.described.operation import Answer, Body, Given, Operation, Resource, Shape
from torpor.server.described.waitpoints import Success

BASE = "/api/v1/projects/{project_ref}/envvars/{slug}"
Secrecy = Annotated[bool, Meta(description="Its value is never told again, but to workers.")]


class NewVariable(Given):
    name: Annotated[str, Meta(max_length=256, pattern="^[A-Za-z_][A-Za-z0-9_]*$")]
    value: Annotated[str, Meta(description="Of up to 64 KiB.")]
    is_secret: Annotated[Secrecy, Meta(description="Left out: as secret as it was.")] | None = None


class NewVariables(Given):
    variables: Annotated[dict[str, str], Meta(min_length=1)]
    override: Annotated[bool, Meta(description="Also those that are set already.")] = False
    is_secret: Secrecy | None = None


class NewValue(Given):
    value: Annotated[str, Meta(description="Of up to 64 KiB.")]


class Variable(Shape):
    name: str
    value: Annotated[str, Meta(description="Of a secret one, `<redacted>`.")]
    is_secret: Secrecy


ZONE = {"name": "ZONE", "value": "eu", "isSecret": False}
MISFIT = {400: "One can't be set: `variableErrors` says of each why."}
TOO_MANY = {422: "There would be more, or larger ones, than the limits allow."}
NO_VARIABLE = {404: "There is no variable of that name, or the key's environment is another one."}
ELSEWHERE = {404: "The key's environment is another one."}
DONE = {200: Answer("It is done.", Success, {"success": True})}

RESOURCE = Resource(
    "Environment variables",
    "What they do is in [environment variables](env.md). `project_ref` may be anything, since the key says whose they are; "
    "`slug` is that of the key's environment (`dev`).",
    {
        f"GET {BASE}": Operation(
            "listVariables",
            "All variables, by name: a bare array.",
            answers={
                200: Answer(
                    "All of them.",
                    list[Variable],
                    [ZONE, {"name": "API_KEY", "value": "<redacted>", "isSecret": True}],
                )
            },
            refusals=ELSEWHERE,
        ),
        f"POST {BASE}": Operation(
            "setVariable",
            "Set a variable, whether it is there or not.",
            body=Body(NewVariable, ZONE, is_required=True),
            answers=DONE,
            refusals=ELSEWHERE | MISFIT | TOO_MANY,
        ),
        f"POST {BASE}/import": Operation(
            "importVariables",
            "Set several variables, all or none.",
            "Without `override` it is none when one is set already.",
            body=Body(NewVariables, {"variables": {"ZONE": "eu"}, "override": True}, is_required=True),
            answers=DONE,
            refusals=ELSEWHERE | MISFIT | TOO_MANY,
        ),
        f"GET {BASE}/{{name}}": Operation(
            "retrieveVariable",
            "One variable.",
            answers={200: Answer("The variable.", Variable, ZONE)},
            refusals=NO_VARIABLE,
        ),
        f"PUT {BASE}/{{name}}": Operation(
            "updateVariable",
            "Another value for a variable that is there; a secret one stays secret.",
            body=Body(NewValue, {"value": "us"}, is_required=True),
            answers=DONE,
            refusals=NO_VARIABLE | MISFIT | TOO_MANY,
        ),
        f"DELETE {BASE}/{{name}}": Operation(
            "deleteVariable",
            "Unset a variable.",
            answers=DONE,
            refusals=NO_VARIABLE,
        ),
    },
)
