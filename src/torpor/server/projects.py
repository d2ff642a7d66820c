"""Projects and their environments: list, make, rename, delete. They are looked after with a secret key of the server's own one.

A project is there as long as it has an environment, so it is made with its first one.
"""

import re
from dataclasses import replace
from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from torpor import engine
from torpor.engine import read
from torpor.server import auth, environments, keys, machines
from torpor.server.bodies import decode, read_body, reply
from torpor.server.env_vars import OF_THE_KEY
from torpor.server.errors import Refused, not_found
from torpor.server.hub import Hub, hub
from torpor.server.master_keys import ensure_key
from torpor.store.records import Environment

FIRST_KEY = "the first key"
_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")

router = APIRouter()


class EnvironmentBody(msgspec.Struct, rename="camel"):
    name: str
    project: str = engine.PROJECT
    new_project: bool = False


class NameBody(msgspec.Struct):
    name: str


_environment_body = msgspec.json.Decoder(EnvironmentBody)
_name_body = msgspec.json.Decoder(NameBody)


@router.get("/api/v1/environments")
async def listing(request: Request) -> Response:
    """All there are, by project, the server's own first."""
    auth.require_own(request)
    here = hub(request)
    here.environments = None
    known = await environments.all_of(here)
    async with here.database.transaction() as tx:
        counts = await read.environment_counts(tx, now=here.clock.now())
    told = [_shown(each) | _counted(counts[each.id]) for each in known.values() if each.id in counts]
    return reply({"data": told})


@router.post("/api/v1/environments")
async def create_one(request: Request) -> Response:
    """Another one, with the text of its first secret key, this once."""
    auth.require_own(request)
    body = decode(await read_body(request), _environment_body)
    made, text = await create(hub(request), body.project, body.name, None, is_first=body.new_project)
    return reply({**_shown(made), "key": text})


@router.put("/api/v1/environments/{environment_id}")
async def rename_one(request: Request, environment_id: str) -> Response:
    auth.require_own(request)
    body = decode(await read_body(request), _name_body)
    return reply(_shown(await rename(hub(request), environment_id, body.name)))


@router.delete("/api/v1/environments/{environment_id}")
async def delete_one(request: Request, environment_id: str) -> Response:
    """Nobody comes in from now on; what is in it goes within minutes."""
    auth.require_own(request)
    await delete(hub(request), environment_id)
    return reply({"id": environment_id})


@router.put("/api/v1/projects/{project}")
async def rename_all(request: Request, project: str) -> Response:
    auth.require_own(request)
    body = decode(await read_body(request), _name_body)
    return reply({"data": [_shown(each) for each in await rename_project(hub(request), project, body.name)]})


@router.delete("/api/v1/projects/{project}")
async def delete_all(request: Request, project: str) -> Response:
    """With all its environments, or with none of them."""
    auth.require_own(request)
    here = hub(request)
    async with here.database.transaction() as tx:
        done = await engine.delete_project(tx, project, now=here.clock.now())
        if not isinstance(done, list):
            raise _kept(done)
    here.hear("keys", {})
    return reply({"data": [{"id": each.id} for each in done]})


def _shown(environment: Environment) -> dict[str, Any]:
    return {
        "id": environment.id,
        "project": environment.project,
        "name": environment.slug,
        "isOwn": engine.is_own(environment),
        "currentVersion": environment.current_version,
        "createdAt": environment.created_at,
    }


def _counted(counts: tuple[int, int]) -> dict[str, int]:
    workers, runs = counts
    return {"workers": workers, "runs": runs}


# -- also for the dashboard -------------------------------------------------------------------------------------------


async def create(
    here: Hub, project: str, slug: str, by: str | None, *, is_first: bool = False
) -> tuple[Environment, str]:
    """Another environment, and the text of its first secret key. 422 for names that can't be.

    Args:
        by: the person who asks, where one is known.
        is_first: its project is to begin with it.
    """
    if is_first:
        _check_name("project", project)
    _check_slug(slug)
    now, (presets, default_preset) = here.clock.now(), machines.presets(here.settings)
    text, new = keys.made(here.master_keys, slug, FIRST_KEY, None, None)
    async with here.database.transaction() as tx:
        done = await engine.create_environment(
            tx,
            project,
            slug,
            replace(new, created_by=by),
            is_first=is_first,
            checkpoint_retention_s=here.settings.checkpoint_retention_s,
            presets=presets,
            default_preset=default_preset,
            now=now,
        )
        match done:
            case engine.NameTaken() if is_first:
                raise Refused(422, f"project: there is a project {project} already")
            case engine.NameTaken():
                raise Refused(422, f"name: there is an environment {slug} in {project} already")
            case engine.StillCalledFor():
                raise _called_for(slug)
            case engine.Unknown():
                raise Refused(422, f"project: there is no project {project[:40]}")
            case engine.EnvironmentCreated(environment=made):
                await ensure_key(tx, here.master_keys, made.id, now=now)
    here.environments = None
    return made, text


async def rename(here: Hub, environment_id: str, slug: str) -> Environment:
    """The environment under its new name. 404 or 422 where that can't be."""
    _check_slug(slug)
    async with here.database.transaction() as tx:
        done = await engine.rename_environment(tx, environment_id, slug, now=here.clock.now())
        match done:
            case engine.NameTaken():
                raise Refused(422, f"name: there is an environment {slug} in its project already")
            case engine.StillCalledFor():
                raise _called_for(slug)
            case engine.IsOwn():
                raise Refused(422, f"{engine.ENVIRONMENT} is the server's own environment: it keeps its name")
            case engine.Unknown():
                raise not_found()
            case Environment():
                pass
    here.hear("keys", {})  # this server needn't wait for the announcement
    return done


async def rename_project(here: Hub, project: str, name: str) -> list[Environment]:
    """Its environments under their new names. 404 or 422 where that can't be."""
    _check_name("name", name)
    async with here.database.transaction() as tx:
        done = await engine.rename_project(tx, project, name, now=here.clock.now())
        match done:
            case engine.NameTaken():
                raise Refused(422, f"name: there is a project {name} already")
            case engine.StillCalledFor():
                raise _called_for(name)
            case engine.IsOwn():
                raise Refused(422, f"the project {project} keeps its name: who names none means it")
            case engine.Unknown():
                raise not_found()
            case list():
                pass
    here.hear("keys", {})
    return done


async def delete(here: Hub, environment_id: str) -> None:
    """Nobody comes in from now on. 404, or 422 where that can't be yet."""
    async with here.database.transaction() as tx:
        done = await engine.delete_environment(tx, environment_id, now=here.clock.now())
    if not isinstance(done, Environment):
        raise _kept(done)
    here.hear("keys", {})


def _kept(why: engine.InUse | engine.IsOwn | engine.Unknown) -> Refused:
    match why:
        case engine.Unknown():
            return not_found()
        case engine.IsOwn():
            return Refused(
                422, f"{engine.ENVIRONMENT} of {engine.PROJECT} is the server's own environment: it can't be deleted"
            )
        case engine.InUse(environment=environment):
            use = {
                ("run that has not ended", "runs that have not ended", "cancel the runs"): why.runs,
                ("batch that is open", "batches that are open", "let the batches end"): why.batches,
                ("bulk action at work", "bulk actions at work", "abort the bulk actions"): why.bulk_actions,
                ("worker", "workers", "stop the workers, which are gone half a minute later"): why.workers,
            }
            found = [f"{n} {one if n == 1 else many}" for (one, many, _), n in use.items() if n]
            to_do = [fix for (_, _, fix), n in use.items() if n]
            return Refused(
                422, f"{environments.address(environment)} has {_and(found)}: {_and(to_do)}, then delete it again"
            )


def _and(texts: list[str]) -> str:
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def _called_for(name: str) -> Refused:
    return Refused(
        422,
        f"name: another environment was called {name}, and workers still come to it by that name: start them anew first",
    )


def _check_slug(slug: str) -> None:
    _check_name("name", slug)
    if slug == OF_THE_KEY:
        raise Refused(422, f"name: {OF_THE_KEY} is what paths call the environment of a key")


def _check_name(field: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise Refused(422, f"{field}: up to 31 small letters, digits and -, with a letter first, such as prod")
