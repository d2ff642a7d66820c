"""Environment variables: list, set, import, delete. The value of a secret one goes in and is never shown."""

from starlette.requests import Request
from starlette.responses import Response

from torpor import engine
from torpor.dashboard.page import go, part, render
from torpor.dotenv import parse_dotenv
from torpor.errors import ConfigError
from torpor.server import auth, sessions
from torpor.server.env_vars import set_all
from torpor.server.errors import Refused
from torpor.server.hub import hub


async def show(request: Request) -> Response:
    return await _page(request)


async def _page(request: Request, refusal: Refused | None = None, name: str = "") -> Response:
    """With what is wrong, if something is. A value that was refused is not shown: it may be a secret."""
    here = hub(request)
    async with here.database.transaction() as tx:
        _, found = await engine.variables(tx, auth.environment(request).id)
    rows = [(each, None if each.is_secret else here.master_keys.open_variable(each)) for each in found]
    status, problem = (refusal.status, refusal.message) if refusal else (200, None)
    block = "table" if part(request) == "variables" else None
    return render(request, "variables.html", block=block, status=status, rows=rows, problem=problem, name=name)


async def set_one(request: Request) -> Response:
    """Set one, whether it is there or not. One that is secret stays so."""
    fields = await sessions.form(request)
    name, is_secret = fields.get("name", "").strip(), True if fields.get("secret") else None
    try:
        values = {name: fields.get("value", "").replace("\r\n", "\n")}
        await set_all(hub(request), auth.environment(request), values, is_secret, override=True)
    except Refused as refusal:
        return await _page(request, refusal, name)
    return go(request, "/variables")


async def import_text(request: Request) -> Response:
    """Set all of a .env file, or none."""
    fields = await sessions.form(request)
    is_secret, override = True if fields.get("secret") else None, bool(fields.get("override"))
    try:
        values = parse_dotenv(fields.get("text", ""), "the text")
        if not values:
            raise Refused(400, "there is no variable in this text")
        await set_all(hub(request), auth.environment(request), values, is_secret, override=override)
    except ConfigError as error:
        return await _page(request, Refused(400, str(error)))
    except Refused as refusal:
        return await _page(request, refusal)
    return go(request, "/variables")


async def delete(request: Request) -> Response:
    """There is none of that name from now on; nor need there have been one."""
    async with hub(request).database.transaction() as tx:
        await engine.unset_variable(tx, auth.environment(request).id, request.path_params["name"])
    return go(request, "/variables")
