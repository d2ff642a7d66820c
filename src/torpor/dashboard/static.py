"""Static files: a few, read once, and named with their hash, so that a browser asks for each version once."""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from torpor.server.errors import not_found

HERE = Path(__file__).parent / "static"
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".LICENSE": "text/plain; charset=utf-8",
}


@dataclass(frozen=True, slots=True)
class File:
    body: bytes
    media_type: str
    digest: str


@cache
def files() -> dict[str, File]:
    """All of them by name."""
    found = {file.name: file for file in HERE.iterdir() if file.suffix in TYPES}
    return {
        name: File(body := file.read_bytes(), TYPES[file.suffix], hashlib.sha256(body).hexdigest()[:12])
        for name, file in found.items()
    }


def url(name: str) -> str:
    """Where a static file is, in the version that this server has."""
    return f"/static/{name}?v={files()[name].digest}"


async def static(request: Request) -> Response:
    """A version that was asked for by its hash never changes."""
    file = files().get(request.path_params["name"])
    if file is None:
        raise not_found()
    is_named = request.query_params.get("v") == file.digest
    cached = "public, max-age=31536000, immutable" if is_named else "no-cache"
    return Response(file.body, media_type=file.media_type, headers={"cache-control": cached})
