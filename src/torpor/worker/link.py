"""What the worker says to the server, and the patience with which it says it.

Every message is idempotent (it carries the lease number and ids the sender made), so whatever fails on the way is simply
said again until the server answers: a server or database that is down for an hour costs an hour, never a result.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import httpx2
import msgspec

from torpor.errors import ApiError, Unauthorized
from torpor.wire import http as wire

log = logging.getLogger(__name__)

Reply = TypeVar("Reply")

FIRST_RETRY_S = 0.05
LONGEST_RETRY_S = 2.0
RETRIED = frozenset({408, 429})  # and every 5xx


class Link:
    """The worker's connection with its server.

    Args:
        url: the server.
        token: the worker token.
        project, environment: the one that it serves.
    """

    def __init__(self, url: str, token: str, project: str, environment: str) -> None:
        self.url = url
        self._client = httpx2.AsyncClient(
            base_url=url.rstrip("/") + "/worker/v1/",
            headers={
                "Authorization": f"Bearer {token}",
                "Content-Type": "application/json",
                wire.OF_PROJECT: project,
                wire.OF_ENVIRONMENT: environment,
            },
            timeout=httpx2.Timeout(35.0, connect=5.0),
            limits=httpx2.Limits(max_connections=200, max_keepalive_connections=50),
        )
        self._encoder = msgspec.json.Encoder()
        self.is_down = False

    async def close(self) -> None:
        await self._client.aclose()

    async def send(self, path: str, message: Any, reply: type[Reply]) -> Reply:
        """Say it until the server answers.

        Raises:
            ApiError: the server understood and refused; saying it again would not help.
        """
        answer, _ = await self.send_counting(path, message, reply)
        return answer

    async def send_counting(self, path: str, message: Any, reply: type[Reply]) -> tuple[Reply, int]:
        """As `send`, and how often it had to be said: after more than once, an earlier answer may have been lost."""
        body = self._encoder.encode(message)
        return await self._say(path, lambda: body, reply)

    async def send_anew(self, path: str, make: Callable[[], Any], reply: type[Reply]) -> Reply:
        """As `send`, with a message that is made for each try."""
        answer, _ = await self._say(path, lambda: self._encoder.encode(make()), reply)
        return answer

    async def _say(self, path: str, body: Callable[[], bytes], reply: type[Reply]) -> tuple[Reply, int]:
        delay = FIRST_RETRY_S
        tries = 0
        while True:
            tries += 1
            try:
                response = await self._client.post(path, content=body())
            except httpx2.TransportError as error:
                self._note_down(error)
            else:
                if response.status_code < 300:
                    self._note_up()
                    return msgspec.json.decode(response.content or b"{}", type=reply), tries
                if response.status_code < 500 and response.status_code not in RETRIED:
                    raise _refused(response)
                self._note_down(f"{response.status_code} {response.text[:200]}")
            await asyncio.sleep(delay)
            delay = min(delay * 2, LONGEST_RETRY_S)

    async def news(self, worker_id: str, instance_id: str) -> AsyncIterator[wire.News]:
        """What happens to our runs, as the server tells it; ends when the connection does."""
        query = {"worker_id": worker_id, "instance_id": instance_id}
        with contextlib.suppress(httpx2.TransportError):
            async with self._client.stream("GET", "news", params=query) as response:
                if response.status_code != 200:
                    return
                async for line in response.aiter_lines():
                    if line:
                        yield msgspec.json.decode(line, type=wire.News)

    def _note_down(self, why: object) -> None:
        if not self.is_down:
            log.warning("the server at %s does not answer (%s); trying until it does", self.url, why)
        self.is_down = True

    def _note_up(self) -> None:
        if self.is_down:
            log.info("the server at %s answers again", self.url)
        self.is_down = False


def _refused(response: httpx2.Response) -> ApiError:
    try:
        body = response.json()
        message = str(body["error"])
    except (ValueError, KeyError, TypeError):
        body, message = None, response.text[:500]
    kind = Unauthorized if response.status_code in (401, 403) else ApiError
    return kind(response.status_code, message, body)
