"""HTTP calls to the server, from anywhere outside a run: scripts, web applications, the command line.

`Client` blocks, `AsyncClient` (async_client.py) is awaited. Their calls are in `calls/`, each written once; here are those that
send or wait in a way of their own.
"""

import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any, Literal

from torpor.sdk import batch, batch_doors
from torpor.sdk.calls import batches
from torpor.sdk.calls.call import Json
from torpor.sdk.calls.doors import Door
from torpor.sdk.calls.every_call import EveryCall
from torpor.sdk.calls.runs import output
from torpor.sdk.calls.sending import Attempts
from torpor.sdk.calls.stories import Story
from torpor.sdk.calls.streams import StreamReading
from torpor.sdk.calls.triggers import batch_item


class Client(EveryCall, Door):
    """The API, for blocking code.

    Args:
        api_url: the server. Default: `TORPOR_API_URL`, else `TRIGGER_API_URL`, else the local one.
        secret_key: an environment's key, or a person's token. Default: `TORPOR_SECRET_KEY`, else `TRIGGER_SECRET_KEY`, else
            `TORPOR_ACCESS_TOKEN`, else `TRIGGER_ACCESS_TOKEN`.
        transport: an httpx2 transport, for instance one to a unix socket.

    Values come back as the API writes them: `client.run(id)["status"]`.

    Raises:
        ConfigError: there is no key.

    Example:
        >>> with Client(secret_key="tr_dev_example") as client:  # doctest: +SKIP
        ...     run = client.trigger("send_campaign", {"user": "u1"}, tags=["spring"])
        ...     print(client.result(run["id"]))
    """

    def result(self, run_id: str, timeout_s: float | None = None) -> Any:
        """Wait for a run's end and return its output.

        Raises:
            RunFailed: it did not complete; its own error is inside.
            TimeoutError: it has not ended in time; the run goes on.
        """
        for _ in self._each(Story(run_id, "story", True, timeout_s=timeout_s)):
            pass
        return output(self.run(run_id))

    def read_stream(self, run_id: str, key: str = "default", start: int | Literal["latest"] = 0) -> Iterator[Any]:
        """What a run appends to a stream, part by part as it comes, until the run is over. A connection that breaks is made
        again, and nothing is lost or comes twice.

        Args:
            run_id: the run; it need not have begun.
            key: which of its streams.
            start: with which part to begin; "latest": with what comes from now on.

        Raises:
            NotFound: there is no such run.
        """
        reading = StreamReading(run_id, key, start)
        attempts = Attempts(self._target)
        while call := reading.call:
            request = self._target.request(self._http, call)
            pause: float | None = 0.0
            try:
                response = self._http.send(request, stream=True)
                try:
                    if not response.is_success:
                        response.read()
                        pause = attempts.answered(response)
                    else:
                        for data in response.iter_bytes():
                            yield from reading.read(data)
                            attempts = Attempts(self._target)
                finally:
                    response.close()
            except self._no_reply as error:
                pause = attempts.failed(error)
            time.sleep(pause or 0.0)

    def batch_trigger(
        self,
        task_id: str,
        payloads: Iterable[Any],
        *,
        idempotency_key: str | None = None,
        idempotency_key_ttl: str | float | timedelta | None = None,
        **options: Any,
    ) -> Json:
        """Ask for a run with each of these payloads: `{"id": "batch_…", "isCached", "runs", "errors"}`.

        Payloads are sent as they come from their iterable. Options are as of `trigger`, the same for all. An item that
        can't become a run fails by itself: `errors` says why. For items of several tasks, or with options of their own,
        there is `torpor.batch_trigger`.
        """
        upload = batch.Upload(batch.length(payloads), idempotency_key, idempotency_key_ttl)
        batch_doors.send_blocking(
            upload, self.ask_batch, payloads, lambda payload: batch_item(task_id, payload, options)
        )
        return upload.told()

    def ask_batch(self, call: Any) -> Any:
        """What `torpor.batch_trigger` asks in the words of the worker protocol, over HTTP."""
        return batches.reply(call, self._do(batches.request(call)))
