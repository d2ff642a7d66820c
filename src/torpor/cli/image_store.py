"""The object store of the worker that lives here, for commands that look into images: `torpor checkpoints export, scrub, gc`.

They run where a worker's settings are, and speak to the server with its token: images are sealed, and only workers get keys.
"""

import base64
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import msgspec

from torpor.cli.project import find_state
from torpor.config import Settings
from torpor.errors import ConfigError, ConnectionFailed, TorporError
from torpor.images import Images, Keyring, Workspace
from torpor.objects import open_objects
from torpor.wire import http as wire

ReplyT = TypeVar("ReplyT")


@dataclass
class ImageStore:
    """The images that the worker of this data directory reads, and its way to the server."""

    images: Images
    worker_id: str
    grace_s: float
    _server: httpx2.AsyncClient

    async def ask(self, path: str, message: Any, reply: type[ReplyT]) -> ReplyT:
        """One message of the worker protocol.

        Raises:
            ConnectionFailed: the server can't be reached. TorporError: it refused.
        """
        try:
            response = await self._server.post(path, content=msgspec.json.encode(message))
        except httpx2.TransportError as error:
            raise ConnectionFailed(f"the server can't be reached: {error}") from None
        if response.status_code != 200:
            raise TorporError(f"the server refused ({response.status_code}): {response.text}")
        return msgspec.json.decode(response.content, type=reply)

    async def live(self) -> dict[str, str]:
        """The images that the store must hold, and their digests, as the engine knows them."""
        found: dict[str, str] = {}
        after: str | None = ""
        while after is not None:
            page = await self.ask("images", wire.ImagesRequest(self.worker_id, after), wire.ImagesReply)
            found |= {image.id: image.digest for image in page.images}
            after = page.next
        return found

    async def keys(self) -> tuple[dict[str, bytes], str]:
        reply = await self.ask("keys", wire.KeysRequest(self.worker_id), wire.KeysReply)
        return {key.id: base64.b64decode(key.key) for key in reply.keys}, reply.current


@asynccontextmanager
async def open_store() -> AsyncIterator[ImageStore]:
    """The store of the worker whose data directory this is.

    Raises:
        ConfigError: there is no worker's data directory, or no token.
    """
    settings = Settings.from_environment()
    found = find_state(os.environ, Path.cwd())
    state, data_dir = found if found else (None, settings.data_dir)
    if os.environ.get("TORPOR_DATA_DIR"):
        data_dir = settings.data_dir
    url = settings.api_url or (state.url if state else None)
    token = settings.worker_token or (state.worker_token if state else None)
    if not url or not token:
        raise ConfigError("this command needs a worker's settings: TORPOR_API_URL and TORPOR_WORKER_TOKEN")
    try:
        worker_id = (data_dir / "worker" / "id").read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise ConfigError(
            f"no worker has lived in {data_dir}: run this where one does, with its TORPOR_DATA_DIR"
        ) from None
    objects = open_objects(settings.object_store, data_dir.resolve() / "worker" / "store")
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    headers |= {wire.OF_PROJECT: settings.project, wire.OF_ENVIRONMENT: settings.environment}
    with tempfile.TemporaryDirectory(prefix="torpor-images-") as place:
        async with httpx2.AsyncClient(base_url=url.rstrip("/") + "/worker/v1/", headers=headers, timeout=60) as server:
            keyring = Keyring()
            images = Images(objects, keyring, Workspace(Path(place)))
            opened = ImageStore(images, worker_id, settings.checkpoint_grace_s, server)
            keyring.update(*await opened.keys())
            yield opened
