"""Payloads and outputs that are too large for a row: into the object store before the verb, out of it after.

The engine never touches the store; its rows hold names. Before the verb an object is durable, so no row ever names what
isn't there. After it a reply that needs an object may fail (503), and whoever asked asks again: which is safe where the
question changes nothing, or may be repeated. So an assignment holds nothing of the kind: the worker asks for a large
payload once it has the run, and collects large answers once the process is back.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Literal

import msgspec

from torpor import engine
from torpor.engine.read_batch import ItemResult
from torpor.objects import ObjectMissing, ObjectsDown, new_name
from torpor.server.hub import Hub
from torpor.store.records import Run, Waitpoint
from torpor.wire.runner import Answer, TaskError

log = logging.getLogger("torpor.server")

GRACE_S = 24 * 3600.0
"""An object that no row names is left alone for so long: its row may be on its way."""


async def stow(here: Hub, environment_id: str, of: str, what: str, text: bytes) -> str | None:
    """Keep this JSON text as an object if it is large, and return the object's name.

    Raises:
        ObjectsDown: try again.
    """
    if len(text) <= here.settings.offload_bytes:
        return None
    name = new_name(environment_id, of, what, len(text))
    await here.objects.put(name, text)
    return name


async def stow_payload(here: Hub, environment_id: str, asked: engine.TriggerRequest) -> engine.TriggerRequest:
    """The request with a large payload kept; the engine still checks it, and keeps its name."""
    if asked.payload is None:
        return asked
    name = await stow(here, environment_id, asked.run_id or "run", "payload", asked.payload.encode())
    return replace(asked, payload_object=name) if name else asked


async def stow_items(here: Hub, environment_id: str, items: Sequence[engine.NewItem]) -> list[engine.NewItem]:
    """The same for the items of a batch."""
    return [
        replace(item, request=await stow_payload(here, environment_id, item.request)) if item.request else item
        for item in items
    ]


async def text_of(here: Hub, name: str) -> str:
    """What is kept under this name.

    Raises:
        ObjectsDown: try again.
        ObjectMissing: it is not there; nor will it be.
    """
    return (await here.objects.get(name)).decode()


async def with_output(here: Hub, run: Run) -> Run:
    """The run with its output in hand."""
    return replace(run, output=await text_of(here, run.output_object)) if run.output_object else run


async def whole(here: Hub, run: Run) -> Run:
    """The run with payload and output in hand, to be shown; without what isn't there any more."""
    try:
        run = await with_output(here, run)
    except ObjectMissing as error:
        log.warning("run %s is shown without its output: %s", run.id, error)
    try:
        if run.payload_object:
            run = replace(run, payload=await text_of(here, run.payload_object))
    except ObjectMissing as error:
        log.warning("run %s is shown without its payload: %s", run.id, error)
    return run


@dataclass(frozen=True, slots=True)
class Packet:
    """A payload or an output as feeds show it: JSON text; or, of what is large, the path to ask for it by."""

    data: str
    data_type: Literal["application/json", "application/store"]


def packet(run: Run, field: Literal["payload", "output"]) -> Packet | None:
    """None: it has none. A path is answered by `GET /api/v1/packets/{path}`, for whoever may read the run."""
    text, name = (run.payload, run.payload_object) if field == "payload" else (run.output, run.output_object)
    if name:
        return Packet(f"runs/{run.id}/{field}", "application/store")
    return None if text is None else Packet(text, "application/json")


async def whole_token(here: Hub, token: Waitpoint) -> Waitpoint:
    return replace(token, output=await text_of(here, token.output_object)) if token.output_object else token


async def whole_results(here: Hub, page: Sequence[ItemResult]) -> list[ItemResult]:
    return [replace(one, run=await with_output(here, one.run)) if one.run else one for one in page]


async def whole_answers(here: Hub, answers: Sequence[Answer]) -> list[Answer]:
    """Answers with their outputs in hand. One whose output isn't there is a failure that says so."""
    told: list[Answer] = []
    for answer in answers:
        if answer.output_object is not None:
            try:
                output = msgspec.Raw((await text_of(here, answer.output_object)).encode())
                answer = msgspec.structs.replace(answer, output=output, output_object=None)
            except ObjectMissing as missing:
                error = TaskError("OutputMissing", f"the output is not in the object store: {missing}")
                answer = msgspec.structs.replace(answer, status="failed", error=error, output_object=None)
        told.append(answer)
    return told


async def forget(here: Hub, names: Sequence[str]) -> None:
    """Delete objects whose rows are gone. What can't be deleted now is found by a sweep."""
    try:
        await here.objects.delete(names)
    except ObjectsDown as error:
        log.warning("%d objects could not be deleted, and are swept later: %s", len(names), error)


async def sweep(here: Hub) -> int:
    """Delete objects that no row has named for a day: what crashes, refused triggers and repeated messages have left."""
    now = here.clock.now()
    async with here.database.transaction() as tx:
        environments = [row["id"] for row in await tx.fetch("select id from environments")]
    deleted = 0
    try:
        for environment_id in environments:
            async for names in here.objects.old(environment_id, now - timedelta(seconds=GRACE_S)):
                async with here.database.transaction() as tx:
                    unused = await engine.unused_objects(tx, names, now=now)
                await here.objects.delete(unused)
                deleted += len(unused)
    except ObjectsDown as error:
        log.warning("the object store could not be swept, tried again later: %s", error)
    return deleted
