"""Payloads that don't travel inside of a request: uploaded before a trigger, and large ones fetched after it.

    PUT /api/v2/packets/{filename} -> a presigned URL and a path;  PUT <URL>;  trigger with that path for a payload

What was uploaded is kept under a name of its own, as the JSON text that it stands for, and a trigger takes a copy: who has
the URL could put something else there later, and the same upload may be triggered twice. An upload is never named by a
row, so the sweep of such objects deletes it after a day or two (offload.py).
"""

import re
from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from torpor import ids
from torpor.engine import read
from torpor.objects import ObjectMissing
from torpor.server import offload, packets, presigned
from torpor.server.auth import Keyed
from torpor.server.bodies import read_body, reply
from torpor.server.errors import PLAIN, Refused, not_found
from torpor.server.hub import Hub, hub
from torpor.store.records import Run

MAX_FILENAME_CHARS = 512
_PATH = re.compile(r"(upload_[0-9a-v]{24})/.+", re.DOTALL)

router = APIRouter()

# -- up ---------------------------------------------------------------------------------------------------------------


@router.put("/api/v2/packets/{filename:path}")
async def upload_url(request: Request, filename: str, environment: Keyed) -> Response:
    """`{"presignedUrl", "storagePath"}`. The path is the upload's own, whatever others call theirs."""
    _check_filename(filename)
    name, limit = ids.new("upload"), hub(request).settings.max_request_bytes
    url = presigned.to_put(request, environment.id, name, max_bytes=limit)
    return reply({"presignedUrl": url, "storagePath": f"{name}/{filename}"})


def _check_filename(filename: str) -> None:
    if len(filename) > MAX_FILENAME_CHARS or any(part in ("", ".", "..") for part in filename.split("/")):
        raise Refused(
            400,
            f"a packet's name has at most {MAX_FILENAME_CHARS} characters, and parts between its slashes that are not "
            f"empty, `.` or `..`: {filename[:60]!r} can't be one",
        )


@router.put("/api/v1/objects/{environment_id}/{name}/{given_hash}")
async def put(request: Request, environment_id: str, name: str) -> Response:
    """The body as the JSON text that it stands for. Again: instead of what came before."""
    limit = int(request.query_params["bytes"])
    body = await read_body(request, limit)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    text = packets.uploaded_text(body, kind)
    await hub(request).objects.put(f"{environment_id}/{name}", text.encode())
    return reply({})


async def payload_text(
    here: Hub, environment_id: str, raw: msgspec.Raw | msgspec.UnsetType | None, data_type: str | None
) -> str | None:
    """A payload as JSON text, or None when there is none: from the request, or from what was uploaded before.

    Raises:
        Refused: 400, it can't be read; 422, nothing was uploaded there, or nothing of this environment's.
        ObjectsDown: try again.
    """
    if data_type != packets.STORED:
        return packets.payload_text(raw, data_type)
    path = packets.stored_path(raw)
    named = _PATH.fullmatch(path)
    if named:
        try:
            return await offload.text_of(here, f"{environment_id}/{named[1]}")
        except ObjectMissing:
            pass
    raise Refused(
        422,
        f"payload: nothing was uploaded to {path[:200]!r} in this environment, or it was deleted since: an upload is kept "
        "for a day. Its path is the storagePath that PUT /api/v2/packets/{filename} has answered",
    )


# -- down -------------------------------------------------------------------------------------------------------------


def urls(request: Request, run: Run) -> dict[str, str]:
    """What a run shows instead of a payload and an output that are large."""
    kept = {"payloadPresignedUrl": run.payload_object, "outputPresignedUrl": run.output_object}
    return {field: presigned.to_get(request, *_split(name)) for field, name in kept.items() if name}


def _split(name: str) -> tuple[str, str]:
    owner, _, rest = name.partition("/")
    return owner, rest


@router.get("/api/v1/runs/{run_id}/packets/{field}")
@router.get("/api/v1/packets/runs/{run_id}/{field}")
async def of_run(request: Request, run_id: str, field: str, environment: Keyed) -> Response:
    """`{"presignedUrl"}` of a run's large payload or output. Older clients ask by the path that a feed has told them."""
    async with hub(request).database.transaction() as tx:
        run = await read.run(tx, environment.id, run_id)
    kept: dict[str, Any] = {"payload": run.payload_object, "output": run.output_object} if run else {}
    if (name := kept.get(field)) is None:
        raise not_found()
    return reply({"presignedUrl": presigned.to_get(request, *_split(name))})


@router.get("/api/v1/packets/{path:path}")
async def of_upload(request: Request, path: str, environment: Keyed) -> Response:
    """`{"presignedUrl"}` of what was uploaded."""
    named = _PATH.fullmatch(path)
    if named is None:
        raise not_found()
    return reply({"presignedUrl": presigned.to_get(request, environment.id, named[1])})


@router.get("/api/v1/objects/{environment_id}/{name}/{given_hash}")
async def get(request: Request, environment_id: str, name: str) -> Response:
    """The JSON text, with the bare content type: clients go by all of that header."""
    try:
        text = await hub(request).objects.get(f"{environment_id}/{name}")
    except ObjectMissing:
        raise not_found() from None
    return Response(text, headers=PLAIN, media_type="application/json")
