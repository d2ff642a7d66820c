"""Environment variables: list, set, import, unset. Values of secret ones go in and never come out again, but to workers.

A project's reference may be any text: clients have one in their configuration that no server of ours knows. The environment is
that of the key, which says its project too; the path has its slug, or `default`.
"""

import re
from collections.abc import Iterable, Mapping

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from torpor import engine
from torpor.server.auth import Keyed
from torpor.server.bodies import decode, read_body, reply
from torpor.server.errors import Refused
from torpor.server.hub import Hub, hub
from torpor.store.records import Environment, EnvVar

REDACTED = "<redacted>"
MAX_NAME = 256
MAX_VALUE_BYTES = 65_536
"""The kernel hands no longer text than 128 KiB to a program that starts."""
MAX_ALL_BYTES = 1 << 20
"""Nor, all together, more than a quarter of its stack, which may be 8 MiB; and others want to say something, too."""

OF_THE_KEY = "default"
RESERVED = ("TORPOR_", "TRIGGER_", "LD_", "DYLD_", "PYTHON")
"""Torpor's own; and what makes a dynamic loader or an interpreter start otherwise."""
RESERVED_NAMES = {
    "GLIBC_TUNABLES": "it changes how programs start",
    "OPENSSL_ia32cap": "it says what the CPU can do, and is the worker's",
    "HOME": "each run has its own",
    "LOGNAME": "each run has its own",
    "TMPDIR": "each run has its own",
    "USER": "each run has its own",
}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)

router = APIRouter()


class VariableBody(msgspec.Struct, rename="camel"):
    name: str
    value: str
    is_secret: bool | None = None


class ImportBody(msgspec.Struct, rename="camel"):
    variables: dict[str, str]
    override: bool = False
    is_secret: bool | None = None


class ValueBody(msgspec.Struct, rename="camel"):
    value: str


_variable_body = msgspec.json.Decoder(VariableBody)
_import_body = msgspec.json.Decoder(ImportBody)
_value_body = msgspec.json.Decoder(ValueBody)

BASE = "/api/v1/projects/{project_ref}/envvars/{slug}"


@router.get(BASE)
async def listing(request: Request, slug: str, environment: Keyed) -> Response:
    """All of them, by name: a bare array."""
    here = _here(request, slug, environment)
    async with here.database.transaction() as tx:
        _, found = await engine.variables(tx, environment.id)
    return reply([_shown(here, each) for each in found])


@router.post(BASE)
async def create(request: Request, slug: str, environment: Keyed) -> Response:
    """Set one, whether it is there or not."""
    here, body = _here(request, slug, environment), decode(await read_body(request), _variable_body)
    return await set_all(here, environment, {body.name: body.value}, body.is_secret, override=True)


@router.post(BASE + "/import")
async def import_all(request: Request, slug: str, environment: Keyed) -> Response:
    """Set all of them, or none. Without `override` none may be there."""
    here, body = _here(request, slug, environment), decode(await read_body(request), _import_body)
    if not body.variables:
        raise Refused(400, "variables: there is none to set")
    return await set_all(here, environment, body.variables, body.is_secret, override=body.override)


@router.get(BASE + "/{name}")
async def retrieve(request: Request, slug: str, name: str, environment: Keyed) -> Response:
    here = _here(request, slug, environment)
    async with here.database.transaction() as tx:
        found = await engine.variable(tx, environment.id, name)
    if found is None:
        raise _unknown(name)
    return reply(_shown(here, found))


@router.put(BASE + "/{name}")
async def update(request: Request, slug: str, name: str, environment: Keyed) -> Response:
    """Another value; a secret one stays secret."""
    here, body = _here(request, slug, environment), decode(await read_body(request), _value_body)
    [new] = _checked(here, environment, {name: body.value}, None)
    async with here.database.transaction() as tx:
        done = await engine.change_variable(tx, environment.id, new, bounds=_bounds(here), now=here.clock.now())
    if isinstance(done, engine.Unknown):
        raise _unknown(name)
    return _done(here, done)


@router.delete(BASE + "/{name}")
async def delete(request: Request, slug: str, name: str, environment: Keyed) -> Response:
    here = _here(request, slug, environment)
    async with here.database.transaction() as tx:
        done = await engine.unset_variable(tx, environment.id, name)
    if isinstance(done, engine.Unknown):
        raise _unknown(name)
    return _done(here, done)


async def set_all(
    here: Hub, environment: Environment, values: Mapping[str, str], is_secret: bool | None, *, override: bool
) -> Response:
    """Set all of them, or none. 400 or 422 for what can't be set; what is told of it never holds a value."""
    new = _checked(here, environment, values, is_secret)
    async with here.database.transaction() as tx:
        done = await engine.set_variables(
            tx, environment.id, new, override=override, bounds=_bounds(here), now=here.clock.now()
        )
    return _done(here, done)


def _done(here: Hub, outcome: engine.VariablesChanged | engine.AlreadySet | engine.TooManyVariables) -> Response:
    match outcome:
        case engine.VariablesChanged():
            return reply({"success": True})
        case engine.AlreadySet(names=names):
            told = "some of the variables are already set; set override to true to override them"
            raise _misfit(told, ((name, "it is already set") for name in names))
        case engine.TooManyVariables(count=count, size_bytes=size_bytes):
            bounds = _bounds(here)
            if count > bounds.count:
                told = f"an environment has at most {bounds.count} variables; there would be {count}"
                raise Refused(422, told, limit=bounds.count, value=count)
            told = f"all variables have at most {bounds.size_bytes} bytes; there would be {size_bytes}"
            raise Refused(422, told, limit=bounds.size_bytes, value=size_bytes)


def _bounds(here: Hub) -> engine.VariableBounds:
    return engine.VariableBounds(here.settings.max_variables, MAX_ALL_BYTES)


def _checked(
    here: Hub, environment: Environment, values: Mapping[str, str], is_secret: bool | None
) -> list[engine.NewVariable]:
    """Sealed; 400 that says of each one why it can't be set. What it says never holds a value."""
    wrong = [(name, why) for name, value in values.items() if (why := _why_not(name, value))]
    if wrong:
        raise _misfit(f"{wrong[0][0][:MAX_NAME]}: {wrong[0][1]}", wrong)
    new: list[engine.NewVariable] = []
    for name, value in values.items():
        sealed = here.master_keys.seal_variable(environment.id, name, value)
        size_bytes = len(name) + len(value.encode())
        new.append(engine.NewVariable(name, sealed.wrapped, sealed.master, size_bytes, is_secret))
    return new


def _why_not(name: str, value: str) -> str | None:
    if not _NAME.fullmatch(name):
        return "a name is of letters, digits and _, and doesn't begin with a digit"
    if len(name) > MAX_NAME:
        return f"a name has at most {MAX_NAME} characters, not {len(name)}"
    if (why := RESERVED_NAMES.get(name)) is not None:
        return f"it can't be set: {why}"
    if prefix := next((prefix for prefix in RESERVED if name.startswith(prefix)), None):
        return f"it can't be set: {prefix}… is Torpor's, or the interpreter's"
    if "\0" in value:
        return "a value has no NUL character"
    if (size := len(value.encode())) > MAX_VALUE_BYTES:
        return f"a value has at most {MAX_VALUE_BYTES} bytes, not {size}"
    return None


def _misfit(message: str, wrong: Iterable[tuple[str, str]]) -> Refused:
    told = [{"key": name[:MAX_NAME], "error": why} for name, why in wrong]
    return Refused(400, message, variableErrors=told)


def _here(request: Request, slug: str, environment: Environment) -> Hub:
    if slug not in (environment.slug, OF_THE_KEY):
        raise Refused(404, f"this key's environment is {environment.slug}, not {slug[:40]}")
    return hub(request)


def _unknown(name: str) -> Refused:
    return Refused(404, f"there is no variable {name[:MAX_NAME]}")


def _shown(here: Hub, variable: EnvVar) -> dict[str, str | bool]:
    value = REDACTED if variable.is_secret else here.master_keys.open_variable(variable)
    return {"name": variable.name, "value": value, "isSecret": variable.is_secret}
