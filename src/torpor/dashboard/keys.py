"""Keys: which there are, and another one, whose text is on the page that makes it and on no other."""

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

from torpor import engine
from torpor.dashboard.page import go, render
from torpor.server import auth, keys, sessions
from torpor.server.errors import Refused
from torpor.server.hub import hub
from torpor.store.records import ApiKey, Environment

LONG = 24
"""Of a worker token that is as long as this, its last four letters may be shown."""


async def show(request: Request) -> Response:
    return await _page(request)


async def _page(
    request: Request,
    refusal: Refused | None = None,
    fields: Mapping[str, str] | None = None,
    key: ApiKey | None = None,
    text: str | None = None,
) -> Response:
    """With what is wrong and what was asked for, or with the key that was made and its text."""
    here, environment = hub(request), auth.environment(request)
    now, token = here.clock.now(), here.settings.worker_token or ""
    async with here.database.transaction() as tx:
        found = await engine.api_keys(tx, environment.id)
        data_keys = await engine.data_keys(tx, environment.id)
    valid = [each for each in found if engine.is_valid(each, now)]
    secret = [each for each in valid if engine.is_secret_key(each)]
    return render(
        request,
        "keys.html",
        status=refusal.status if refusal else 200,
        problem=refusal.message if refusal else None,
        fields=fields or {},
        made=key,
        text=text,
        url=here.public_url,
        rows=valid[::-1],
        over=[each for each in reversed(found) if each not in valid],
        last=secret[0].id if len(secret) == 1 else None,
        slug=environment.slug,
        has_workers=bool(token),
        serves=_serves(environment),
        worker_hint=f"…{token[-4:]}" if len(token) >= LONG else "",
        data_keys=data_keys[::-1],
    )


def _serves(environment: Environment) -> list[str]:
    """What a worker is told of the environment that it is for: nothing, where that is the server's own."""
    said = {"TORPOR_PROJECT": environment.project, "TORPOR_ENVIRONMENT": environment.slug}
    usual = {"TORPOR_PROJECT": engine.PROJECT, "TORPOR_ENVIRONMENT": engine.ENVIRONMENT}
    return [f"{name}={value}" for name, value in said.items() if value != usual[name]]


async def make(request: Request) -> Response:
    """A key, perhaps instead of another one: the only answer that has its text."""
    here, environment, fields = hub(request), auth.environment(request), await sessions.form(request)
    by = auth.caller(request).person
    try:
        if old := fields.get("instead_of"):
            text, key, _ = await keys.make_another(here, environment, old, fields.get("overlap") or None, by)
        else:
            text, key = await keys.make(here, environment, _wanted(fields), by)
    except Refused as refusal:
        return await _page(request, refusal, fields)
    return await _page(request, key=key, text=text)


def _wanted(fields: Mapping[str, str]) -> keys.KeyBody:
    kind = fields.get("kind")
    return keys.KeyBody(
        fields.get("name", "").strip(),
        fields.get("scopes", "").split() if kind == "scoped" else None,
        fields.get("expires", "").strip() or None,
        kind == "personal",
        kind == "worker",
    )


async def revoke(request: Request) -> Response:
    """It is worth nothing from now on. The last one that could make others stays."""
    try:
        await keys.end_key(hub(request), auth.environment(request), request.path_params["key_id"])
    except Refused as refusal:
        return await _page(request, refusal)
    return go(request, "/keys")


async def rotate_data_key(request: Request) -> Response:
    await keys.make_data_key(hub(request), auth.environment(request))
    return go(request, "/keys#data-keys")
