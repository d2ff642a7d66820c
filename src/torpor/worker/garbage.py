"""The duty that deletes objects of the store which nobody needs. What these are, the engine alone knows.

It condemns images and packs that nothing has referred to for a while; what it names is deleted and reported. A worker also
tells it of old objects that it finds: a crash between storing and reporting has left them, or the engine knows them well.
"""

from datetime import datetime, timedelta

from torpor.images import Images
from torpor.objects import ObjectsDown
from torpor.wire import http
from torpor.worker.link import Link

STRAYS_INTERVAL_S = 3600.0
"""Looking for strays lists the whole store."""


class Garbage:
    """One worker's part in it.

    Args:
        strays: known ones; emptied when they are told.
        grace_s: younger objects are no strays: they may be reported any moment.
    """

    def __init__(self, images: Images, link: Link, worker_id: str, strays: list[str], *, grace_s: float) -> None:
        self._images = images
        self._link = link
        self._worker_id = worker_id
        self._strays = strays
        self._grace_s = grace_s
        self._deleted: list[str] = []
        self._strays_at: datetime | None = None

    async def step(self, *, now: datetime) -> None:
        """Delete what is condemned; now and then look for strays, which may be condemned at once."""
        if self._strays_at is None or now >= self._strays_at:
            self._strays_at = now + timedelta(seconds=STRAYS_INTERVAL_S)
            async for names in self._images.strays(now - timedelta(seconds=self._grace_s)):
                await self._delete(await self._ask(names))
        told, self._strays[:] = [*self._strays], []
        reply = await self._ask(told)
        await self._delete(reply)
        while self._deleted:
            more = reply.more
            reply = await self._ask([])
            await self._delete(reply)
            if not more:
                return

    async def _ask(self, strays: list[str]) -> http.GarbageReply:
        request = http.GarbageRequest(self._worker_id, self._deleted, strays)
        reply = await self._link.send("garbage", request, http.GarbageReply)
        self._deleted = []
        return reply

    async def _delete(self, reply: http.GarbageReply) -> None:
        try:
            self._deleted += await self._images.delete(reply.condemned)
        except ObjectsDown:
            return  # they are named again
