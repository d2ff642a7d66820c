"""What people do to a run on its page: cancel, perform again, answer what it asks, go on from one of its checkpoints.

Each is the engine's verb, as the API's handler has it. What is refused is told in the dialog in which it was asked for.
"""

import re
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from torpor import engine, ids
from torpor.dashboard import run
from torpor.dashboard.page import Handler, go, render
from torpor.engine import read
from torpor.server import auth, offload, sessions
from torpor.server.errors import Refused
from torpor.server.hub import hub
from torpor.server.runs import triggered
from torpor.server.waitpoints import complete_with

_json = msgspec.json.Decoder()


def in_dialog(handler: Handler) -> Handler:
    """What is refused becomes a sentence for the dialog, where what was typed still stands."""

    async def answered(request: Request) -> Response:
        try:
            return await handler(request)
        except Refused as refusal:
            if "hx-request" not in request.headers:
                raise
            return render(request, "run_problem.html", message=refusal.message)

    return answered


async def cancel(request: Request) -> Response:
    """`at_once`: its process is killed instead of being asked to end."""
    here, fields = hub(request), await sessions.form(request)
    async with here.database.transaction() as tx:
        found = await run.known(tx, request)
        reason, now = auth.caller(request).did("canceled"), here.clock.now()
        at_once = bool(fields.get("at_once"))
        await engine.cancel(tx, found.environment_id, found.id, reason=reason, at_once=at_once, now=now)
    return go(request, f"/runs/{found.id}")


@in_dialog
async def replay(request: Request) -> Response:
    """A new run like this one; with the payload that was edited, if it was."""
    here, fields = hub(request), await sessions.form(request)
    async with here.database.transaction() as tx:
        old = await run.known(tx, request)
    changes: dict[str, Any] = {"run_id": ids.new("run")}
    if "payload" in fields:
        text = _checked(str(fields["payload"]), "The payload") if str(fields["payload"]).strip() else None
        kept_as = (
            await offload.stow(here, old.environment_id, changes["run_id"], "payload", text.encode()) if text else None
        )
        changes |= {"payload": text, "payload_object": kept_as}
    async with here.database.transaction() as tx:
        outcome = await engine.replay(tx, old.environment_id, old.id, changes, now=here.clock.now())
    if isinstance(outcome, engine.Unknown):
        raise Refused(404, "The run is gone.")
    return go(request, f"/runs/{triggered(old.task_id, outcome).run_id}")


@in_dialog
async def fork(request: Request) -> Response:
    """A new run that goes on from a checkpoint; with another answer, if one is given."""
    here, fields = hub(request), await sessions.form(request)
    async with here.database.transaction() as tx:
        origin = await run.known(tx, request)
    new_id, text = ids.new("run"), str(fields.get("answer", "")).strip()
    if decision := fields.get("decision"):
        text = msgspec.json.encode(_decided(request, str(decision))).decode()
    answer = _checked(text, "The answer") if text else None
    kept_as = await offload.stow(here, origin.environment_id, new_id, "answer", answer.encode()) if answer else None
    wait_id = str(fields.get("wait") or "") or None if answer else None
    asked = engine.ForkRequest(str(fields.get("checkpoint") or engine.LATEST), answer, kept_as, wait_id, new_id)
    async with here.database.transaction() as tx:
        outcome = await engine.fork(tx, origin.environment_id, origin.id, asked, now=here.clock.now())
    match outcome:
        case engine.NoCheckpoint(reason=reason):
            raise Refused(422, reason)
        case engine.WhichWait(open=waits):
            told = (
                "Choose which of its waits is answered."
                if waits
                else "The process that is frozen there waits for nothing."
            )
            raise Refused(422, told)
        case engine.Forked():
            return go(request, f"/runs/{outcome.run_id}")
        case _:
            raise Refused(404, "The run is gone.")


@in_dialog
async def answer(request: Request) -> Response:
    """What a token is completed with: a person's decision, or any value. The first answer wins."""
    here, fields = hub(request), await sessions.form(request)
    async with here.database.transaction() as tx:
        found = await run.known(tx, request)
        view = await read.token(tx, found.environment_id, str(fields.get("token", "")))
    if view is None:
        raise Refused(404, "There is no such token.")
    if view.token.title is not None:
        said = _decided(request, str(fields.get("decision")))
        if comment := str(fields.get("comment", "")).strip():
            said["comment"] = comment
        data = msgspec.json.encode(said)
    else:
        data = _checked(str(fields.get("value", "")).strip() or "null", "The value").encode()
    await complete_with(here, view.token.id, data)
    return go(request, f"/runs/{found.id}")


def _decided(request: Request, decision: str) -> dict[str, Any]:
    """What a run that asked a person is answered."""
    return {"approved": decision == "approve", "by": auth.caller(request).person}


def _checked(text: str, what: str) -> str:
    """Raises: Refused, it is not JSON."""
    try:
        _json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        at = re.search(r"byte (\d+)", str(error))
        where = f" Look at line {text[: int(at[1])].count(chr(10)) + 1}." if at else ""
        raise Refused(422, f"{what} is not JSON: {error}.{where}") from None
    return text
