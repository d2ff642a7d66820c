"""The same calls as `Client`, for asyncio. What each does, takes and raises is told there (client.py), or in `calls/`, once."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from datetime import timedelta
from typing import Any, Literal

from torpor.sdk import batch, batch_doors
from torpor.sdk.calls import batches
from torpor.sdk.calls.call import Json
from torpor.sdk.calls.doors import AsyncDoor
from torpor.sdk.calls.every_call import EveryCall
from torpor.sdk.calls.runs import output
from torpor.sdk.calls.sending import Attempts
from torpor.sdk.calls.stories import Story
from torpor.sdk.calls.streams import StreamReading
from torpor.sdk.calls.triggers import batch_item


class AsyncClient(EveryCall, AsyncDoor):
    """The API, for asyncio. The same calls as `Client`, awaited; listings are async iterators.

    Example:
        >>> async with AsyncClient(secret_key="tr_dev_example") as client:  # doctest: +SKIP
        ...     run = await client.trigger("send_campaign", {"user": "u1"})
        ...     async for event in client.story(run["id"], follow=True):
        ...         print(event["kind"])
    """

    async def result(self, run_id: str, timeout_s: float | None = None) -> Any:
        """As `Client.result`."""
        async for _ in self._each(Story(run_id, "story", True, timeout_s=timeout_s)):
            pass
        return output(await self.run(run_id))

    async def read_stream(
        self, run_id: str, key: str = "default", start: int | Literal["latest"] = 0
    ) -> AsyncIterator[Any]:
        """As `Client.read_stream`."""
        reading = StreamReading(run_id, key, start)
        attempts = Attempts(self._target)
        while call := reading.call:
            request = self._target.request(self._http, call)
            pause: float | None = 0.0
            try:
                response = await self._http.send(request, stream=True)
                try:
                    if not response.is_success:
                        await response.aread()
                        pause = attempts.answered(response)
                    else:
                        async for data in response.aiter_bytes():
                            for part in reading.read(data):
                                yield part
                            attempts = Attempts(self._target)
                finally:
                    await response.aclose()
            except self._no_reply as error:
                pause = attempts.failed(error)
            await asyncio.sleep(pause or 0.0)

    async def batch_trigger(
        self,
        task_id: str,
        payloads: Iterable[Any] | AsyncIterable[Any],
        *,
        idempotency_key: str | None = None,
        idempotency_key_ttl: str | float | timedelta | None = None,
        **options: Any,
    ) -> Json:
        """As `Client.batch_trigger`; payloads may also come from an async iterable."""
        upload = batch.Upload(batch.length(payloads), idempotency_key, idempotency_key_ttl)
        await batch_doors.send(upload, self.ask_batch, payloads, lambda payload: batch_item(task_id, payload, options))
        return upload.told()

    async def ask_batch(self, call: Any) -> Any:
        """As `Client.ask_batch`."""
        return batches.reply(call, await self._do(batches.request(call)))
