"""Environments: which there are and what is in them, and another one, with its first key."""

import re
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import Response

from torpor import engine
from torpor.dashboard.page import PRODUCTION, render
from torpor.engine import read
from torpor.server import auth, environments, keys, machines, sessions
from torpor.server.env_vars import OF_THE_KEY
from torpor.server.errors import Refused
from torpor.server.hub import hub
from torpor.server.master_keys import ensure_key

FIRST_KEY = "the first key"
_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")


async def show(request: Request) -> Response:
    return await _page(request)


async def _page(
    request: Request, refusal: Refused | None = None, name: str = "", made: str | None = None, text: str = ""
) -> Response:
    """With what is wrong and what was asked for, or with the environment that was made and the text of its key."""
    here = hub(request)
    known = await environments.all_of(here)
    async with here.database.transaction() as tx:
        counts = await read.environment_counts(tx, now=here.clock.now())
    request.scope["environments"] = [*known]
    return render(
        request,
        "environments.html",
        status=refusal.status if refusal else 200,
        problem=refusal.message if refusal else None,
        name=name,
        made=made,
        text=text,
        url=here.public_url,
        rows=[
            (each, slug.startswith(PRODUCTION), counts[each.id]) for slug, each in known.items() if each.id in counts
        ],
    )


async def create(request: Request) -> Response:
    """Another one. The only answer that has the text of its key."""
    slug = (await sessions.form(request)).get("name", "").strip()
    try:
        text = await _made(request, slug)
    except Refused as refusal:
        return await _page(request, refusal, slug)
    return await _page(request, made=slug, text=text)


async def _made(request: Request, slug: str) -> str:
    """The text of its first secret key. 422 for a name that can't be."""
    if not _NAME.fullmatch(slug) or slug == OF_THE_KEY:
        raise Refused(
            422, "name: up to 31 small letters, digits and -, with a letter first, such as prod; and not default"
        )
    here = hub(request)
    now, (presets, default_preset) = here.clock.now(), machines.presets(here.settings)
    text, new = keys.made(here.master_keys, slug, FIRST_KEY, None, None)
    async with here.database.transaction() as tx:
        done = await engine.create_environment(
            tx,
            slug,
            replace(new, created_by=auth.caller(request).person),
            checkpoint_retention_s=here.settings.checkpoint_retention_s,
            presets=presets,
            default_preset=default_preset,
            now=now,
        )
        if isinstance(done, engine.NameTaken):
            raise Refused(422, f"name: there is an environment {slug} already")
        await ensure_key(tx, here.master_keys, done.environment.id, now=now)
    here.environments = None
    return text
