"""The same calls as `Client`, for asyncio. What each does, takes and raises is told there (client.py), once."""

import asyncio
import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Literal

from torpor.sdk import batch, batch_doors, batch_http, calls, stream_calls, subscriptions
from torpor.sdk.calls import Json
from torpor.sdk.idempotency import Idempotency


class AsyncClient:
    """The API, for asyncio. The same calls as `Client`, awaited; listings are async iterators.

    Example:
        >>> async with AsyncClient(secret_key="tr_dev_example") as client:  # doctest: +SKIP
        ...     run = await client.trigger("send_campaign", {"user": "u1"})
        ...     async for event in client.story(run["id"], follow=True):
        ...         print(event["kind"])
    """

    def __init__(self, api_url: str | None = None, secret_key: str | None = None, *, transport: Any = None) -> None:
        import httpx2

        self._target = calls.Target.choose(api_url, secret_key)
        self._no_reply = httpx2.TransportError
        self._http = httpx2.AsyncClient(transport=transport)

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _do(self, call: calls.Call, attempts: calls.Attempts | None = None) -> Any:
        request, attempts = self._target.request(self._http, call), attempts or calls.Attempts(self._target)
        while True:
            try:
                pause = attempts.answered(await self._http.send(request))
            except self._no_reply as error:
                pause = attempts.failed(error)
            if pause is None:
                return attempts.value
            await asyncio.sleep(pause)

    async def _each(
        self, pages: calls.Pages | calls.Numbered | calls.Story | batch_http.Results
    ) -> AsyncIterator[Json]:
        while call := pages.call:
            for item in pages.read(await self._do(call)):
                yield item

    async def _follow(self, subscription: subscriptions.Subscription) -> AsyncIterator[Json]:
        told = None
        with contextlib.suppress(StopIteration):
            while True:
                step = subscription.send(told)
                told = None
                if isinstance(step, calls.Call):
                    told = await self._do(step, subscriptions.Attempts(self._target))
                else:
                    yield step

    async def trigger(self, task_id: str, payload: Any = None, **options: Any) -> Json:
        """As `Client.trigger`."""
        return await self._do(calls.trigger(task_id, payload, options))

    async def run(self, run_id: str) -> Json:
        """As `Client.run`."""
        return await self._do(calls.run(run_id))

    def runs(self, **filters: Any) -> AsyncIterator[Json]:
        """As `Client.runs`."""
        return self._each(calls.Pages("/api/v1/runs", filters))

    async def run_counts(self, period: str | timedelta = "24h", bucket: str | timedelta = "1h") -> list[Json]:
        """As `Client.run_counts`."""
        return (await self._do(calls.run_counts(period, bucket)))["data"]

    async def cancel(self, run_id: str, *, at_once: bool = False) -> Json:
        """As `Client.cancel`."""
        return await self._do(calls.cancel(run_id, at_once))

    async def reschedule(self, run_id: str, delay: str | float | timedelta | datetime) -> Json:
        """As `Client.reschedule`."""
        return await self._do(calls.reschedule(run_id, delay))

    async def replay(self, run_id: str, **changes: Any) -> Json:
        """As `Client.replay`."""
        return await self._do(calls.replay(run_id, changes))

    async def bulk_cancel(
        self, run_ids: Iterable[str] | None = None, *, name: str | None = None, **filters: Any
    ) -> Json:
        """As `Client.bulk_cancel`."""
        return await self._do(calls.bulk("cancel", run_ids, name, False, filters))

    async def bulk_replay(
        self, run_ids: Iterable[str] | None = None, *, name: str | None = None, **filters: Any
    ) -> Json:
        """As `Client.bulk_replay`."""
        return await self._do(calls.bulk("replay", run_ids, name, False, filters))

    async def bulk_count(self, **filters: Any) -> int:
        """As `Client.bulk_count`."""
        return (await self._do(calls.bulk("cancel", None, None, True, filters)))["count"]

    async def bulk_action(self, bulk_id: str) -> Json:
        """As `Client.bulk_action`."""
        return await self._do(calls.get(f"/api/v1/bulk-actions/{calls.segment(bulk_id)}"))

    def bulk_actions(self, page_size: int = 25) -> AsyncIterator[Json]:
        """As `Client.bulk_actions`."""
        return self._each(calls.Pages("/api/v1/bulk-actions", {"page_size": page_size}))

    async def abort_bulk_action(self, bulk_id: str) -> Json:
        """As `Client.abort_bulk_action`."""
        return await self._do(calls.post(f"/api/v1/bulk-actions/{calls.segment(bulk_id)}/abort"))

    async def reset_idempotency_key(self, task_id: str, key: str | Idempotency) -> Json:
        """As `Client.reset_idempotency_key`."""
        return await self._do(calls.reset_key(task_id, key))

    async def result(self, run_id: str, timeout_s: float | None = None) -> Any:
        """As `Client.result`."""
        async for _ in self._each(calls.Story(run_id, "story", True, timeout_s=timeout_s)):
            pass
        return calls.output(await self.run(run_id))

    def story(self, run_id: str, follow: bool = False) -> AsyncIterator[Json]:
        """As `Client.story`."""
        return self._each(calls.Story(run_id, "story", follow))

    def logs(self, run_id: str, follow: bool = False) -> AsyncIterator[Json]:
        """As `Client.logs`."""
        return self._each(calls.Story(run_id, "logs", follow))

    async def read_stream(
        self, run_id: str, key: str = "default", start: int | Literal["latest"] = 0
    ) -> AsyncIterator[Any]:
        """As `Client.read_stream`."""
        reading = stream_calls.StreamReading(run_id, key, start)
        attempts = calls.Attempts(self._target)
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
                            attempts = calls.Attempts(self._target)
                finally:
                    await response.aclose()
            except self._no_reply as error:
                pause = attempts.failed(error)
            await asyncio.sleep(pause or 0.0)

    async def send_input(self, run_id: str, key: str, data: Any) -> None:
        """As `Client.send_input`."""
        await self._do(stream_calls.send_input(run_id, key, data))

    async def update_metadata(
        self,
        run_id: str,
        metadata: Json | None = None,
        *,
        operations: Sequence[Json] = (),
        parent_operations: Sequence[Json] = (),
        root_operations: Sequence[Json] = (),
    ) -> Json:
        """As `Client.update_metadata`."""
        call = stream_calls.update_metadata(run_id, metadata, operations, parent_operations, root_operations)
        return (await self._do(call))["metadata"]

    async def add_tags(self, run_id: str, *tags: str) -> None:
        """As `Client.add_tags`."""
        await self._do(stream_calls.add_tags(run_id, tags))

    def subscribe(self, run_id: str, *, skip: Iterable[str] = ()) -> AsyncIterator[Json]:
        """As `Client.subscribe`."""
        return self._follow(subscriptions.run(run_id, skip))

    def subscribe_to_tag(
        self, tags: str | Iterable[str], *, period: str | timedelta = "", skip: Iterable[str] = ()
    ) -> AsyncIterator[Json]:
        """As `Client.subscribe_to_tag`."""
        return self._follow(subscriptions.tagged(tags, period, skip))

    def subscribe_to_batch(self, batch_id: str, *, skip: Iterable[str] = ()) -> AsyncIterator[Json]:
        """As `Client.subscribe_to_batch`."""
        return self._follow(subscriptions.batch(batch_id, skip))

    async def trace(self, run_id: str) -> Json:
        """As `Client.trace`."""
        return (await self._do(calls.get(f"/api/v1/runs/{calls.segment(run_id)}/trace")))["trace"]

    async def span(self, run_id: str, span_id: str) -> Json:
        """As `Client.span`."""
        return await self._do(calls.get(f"/api/v1/runs/{calls.segment(run_id)}/spans/{calls.segment(span_id)}"))

    async def events(self, run_id: str) -> list[Json]:
        """As `Client.events`."""
        return (await self._do(calls.get(f"/api/v1/runs/{calls.segment(run_id)}/events")))["events"]

    async def checkpoints(self, run_id: str) -> list[Json]:
        """As `Client.checkpoints`."""
        return (await self._do(calls.get(f"/api/v1/runs/{calls.segment(run_id)}/checkpoints")))["data"]

    async def checkpoint(self, checkpoint_id: str) -> Json:
        """As `Client.checkpoint`."""
        return await self._do(calls.get(f"/api/v1/checkpoints/{calls.segment(checkpoint_id)}"))

    def all_checkpoints(self, page_size: int = 25) -> AsyncIterator[Json]:
        """As `Client.all_checkpoints`."""
        return self._each(calls.Pages("/api/v1/checkpoints", {"page_size": page_size}))

    async def fork(
        self, run_id: str, checkpoint: str = "latest", answer: Any = calls.UNSET, wait_id: str | None = None
    ) -> Json:
        """As `Client.fork`."""
        return await self._do(calls.fork(run_id, checkpoint, answer, wait_id))

    async def rotate_data_key(self) -> Json:
        """As `Client.rotate_data_key`."""
        return await self._do(calls.post("/api/v1/data-keys/rotate"))

    async def data_keys(self) -> list[Json]:
        """As `Client.data_keys`."""
        return (await self._do(calls.get("/api/v1/data-keys")))["data"]

    async def variables(self) -> list[Json]:
        """As `Client.variables`."""
        return await self._do(calls.variables())

    async def variable(self, name: str) -> Json:
        """As `Client.variable`."""
        return await self._do(calls.variable(name))

    async def set_variable(self, name: str, value: str, *, secret: bool | None = None) -> None:
        """As `Client.set_variable`."""
        await self._do(calls.set_variable(name, value, secret))

    async def unset_variable(self, name: str) -> None:
        """As `Client.unset_variable`."""
        await self._do(calls.variable(name, "DELETE"))

    async def import_variables(
        self, variables: Mapping[str, str], *, override: bool = False, secret: bool | None = None
    ) -> None:
        """As `Client.import_variables`."""
        await self._do(calls.import_variables(variables, override, secret))

    async def limits(self) -> Json:
        """As `Client.limits`."""
        return await self._do(calls.get("/api/v1/limits"))

    async def whoami(self) -> Json:
        """As `Client.whoami`."""
        return await self._do(calls.get("/api/v1/whoami"))

    async def api_keys(self) -> list[Json]:
        """As `Client.api_keys`."""
        return (await self._do(calls.get("/api/v1/keys")))["data"]

    async def create_key(
        self,
        name: str,
        *,
        scopes: list[str] | None = None,
        expires: str | float | timedelta | datetime | None = None,
        personal: bool = False,
    ) -> Json:
        """As `Client.create_key`."""
        return await self._do(calls.create_key(name, scopes, expires, personal))

    async def rotate_key(self, key_id: str, overlap: str | float | timedelta | None = None) -> Json:
        """As `Client.rotate_key`."""
        return await self._do(calls.rotate_key(key_id, overlap))

    async def revoke_key(self, key_id: str) -> Json:
        """As `Client.revoke_key`."""
        return await self._do(calls.post(f"/api/v1/keys/{calls.segment(key_id)}/revoke"))

    async def create_public_token(
        self,
        scopes: list[str],
        *,
        expires: str | float | timedelta | datetime | None = None,
        one_time: bool = False,
    ) -> str:
        """As `Client.create_public_token`."""
        return (await self._do(calls.create_public_token(scopes, expires, one_time)))["token"]

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
        await batch_doors.send(
            upload, self.ask_batch, payloads, lambda payload: calls.batch_item(task_id, payload, options)
        )
        return upload.told()

    async def ask_batch(self, call: Any) -> Any:
        """As `Client.ask_batch`."""
        return batch_http.reply(call, await self._do(batch_http.request(call)))

    async def batch(self, batch_id: str) -> Json:
        """As `Client.batch`."""
        return await self._do(calls.get(f"/api/v2/batches/{calls.segment(batch_id)}"))

    def batches(self, **filters: Any) -> AsyncIterator[Json]:
        """As `Client.batches`."""
        return self._each(calls.Pages("/api/v1/batches", filters))

    def batch_results(self, batch_id: str) -> AsyncIterator[Json]:
        """As `Client.batch_results`."""
        return self._each(batch_http.Results(batch_id))

    async def create_token(
        self,
        timeout: str | float | timedelta | datetime | None = None,
        *,
        tags: list[str] | None = None,
        idempotency_key: str | None = None,
        idempotency_key_ttl: str | float | timedelta | None = None,
        title: str | None = None,
        context: Any = None,
    ) -> Json:
        """As `Client.create_token`."""
        return await self._do(calls.create_token(timeout, tags, idempotency_key, idempotency_key_ttl, title, context))

    async def token(self, token_id: str) -> Json:
        """As `Client.token`."""
        return await self._do(calls.get(f"/api/v1/waitpoints/tokens/{calls.segment(token_id)}"))

    def tokens(self, **filters: Any) -> AsyncIterator[Json]:
        """As `Client.tokens`."""
        return self._each(calls.Pages("/api/v1/waitpoints/tokens", filters))

    async def complete_token(self, token_id: str, data: Any = None) -> Json:
        """As `Client.complete_token`."""
        return await self._do(calls.complete(token_id, data))

    async def approve(
        self, token_id: str, approved: bool = True, *, by: str | None = None, comment: str | None = None
    ) -> Json:
        """As `Client.approve`."""
        return await self._do(calls.complete(token_id, calls.approval(approved, by, comment)))

    def approvals(self, page_size: int = 25) -> AsyncIterator[Json]:
        """As `Client.approvals`."""
        return self._each(calls.Pages("/api/v1/approvals", {"page_size": page_size}))

    async def approval(self, token_id: str) -> Json:
        """As `Client.approval`."""
        return await self._do(calls.get(f"/api/v1/approvals/{calls.segment(token_id)}"))

    async def create_schedule(
        self,
        task_id: str,
        cron: str,
        *,
        deduplication_key: str,
        tz: str | None = None,
        external_id: str | None = None,
        window: str | float | timedelta | None = None,
        catch_up: Literal["none", "last", "all"] | None = None,
    ) -> Json:
        """As `Client.create_schedule`."""
        fields = {"task": task_id, "cron": cron, "deduplication_key": deduplication_key, "tz": tz}
        fields |= {"external_id": external_id, "window": window, "catch_up": catch_up}
        return await self._do(calls.schedule("POST", "/api/v1/schedules", fields))

    async def update_schedule(
        self,
        schedule_id: str,
        task_id: str,
        cron: str,
        *,
        tz: str | None = None,
        external_id: str | None = None,
        window: str | float | timedelta | None = None,
        catch_up: Literal["none", "last", "all"] | None = None,
    ) -> Json:
        """As `Client.update_schedule`."""
        fields = {"task": task_id, "cron": cron, "tz": tz}
        fields |= {"external_id": external_id, "window": window, "catch_up": catch_up}
        return await self._do(calls.schedule("PUT", calls.schedule_path(schedule_id), fields))

    async def schedule(self, schedule_id: str) -> Json:
        """As `Client.schedule`."""
        return await self._do(calls.get(calls.schedule_path(schedule_id)))

    def schedules(self) -> AsyncIterator[Json]:
        """As `Client.schedules`."""
        return self._each(calls.Numbered("/api/v1/schedules"))

    async def delete_schedule(self, schedule_id: str) -> Json:
        """As `Client.delete_schedule`."""
        return await self._do(calls.Call("DELETE", calls.schedule_path(schedule_id)))

    async def activate_schedule(self, schedule_id: str) -> Json:
        """As `Client.activate_schedule`."""
        return await self._do(calls.post(calls.schedule_path(schedule_id) + "/activate"))

    async def deactivate_schedule(self, schedule_id: str) -> Json:
        """As `Client.deactivate_schedule`."""
        return await self._do(calls.post(calls.schedule_path(schedule_id) + "/deactivate"))

    async def timezones(self) -> list[str]:
        """As `Client.timezones`."""
        return (await self._do(calls.get("/api/v1/timezones")))["timezones"]

    async def tasks(self) -> list[Json]:
        """As `Client.tasks`."""
        return (await self._do(calls.get("/api/v1/tasks")))["data"]

    def deployments(self, **filters: Any) -> AsyncIterator[Json]:
        """As `Client.deployments`."""
        return self._each(calls.deployments(filters))

    async def deployment(self, deployment_id: str = "current") -> Json:
        """As `Client.deployment`."""
        return await self._do(calls.get(f"/api/v1/deployments/{calls.segment(deployment_id)}"))

    async def query(
        self,
        text: str,
        *,
        period: str | float | timedelta | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> list[Json]:
        """As `Client.query`."""
        return (await self._do(calls.query(text, period, since, until)))["results"]

    async def query_tables(self) -> list[Json]:
        """As `Client.query_tables`."""
        return (await self._do(calls.get("/api/v1/query/schema")))["tables"]

    async def workers(self) -> list[Json]:
        """As `Client.workers`."""
        return (await self._do(calls.get("/api/v1/workers")))["data"]

    async def worker(self, worker_id: str) -> Json:
        """As `Client.worker`."""
        return await self._do(calls.get(f"/api/v1/workers/{calls.segment(worker_id)}"))

    async def drain_worker(self, worker_id: str) -> Json:
        """As `Client.drain_worker`."""
        return await self._do(calls.post(f"/api/v1/workers/{calls.segment(worker_id)}/drain", {}))

    async def accounts(self) -> list[Json]:
        """As `Client.accounts`."""
        return (await self._do(calls.get("/api/v1/accounts")))["data"]

    async def create_account(self, name: str, password: str) -> Json:
        """As `Client.create_account`."""
        return await self._do(calls.create_account(name, password))

    async def remove_account(self, account_id: str) -> None:
        """As `Client.remove_account`."""
        await self._do(calls.remove_account(account_id))

    async def create_sign_in_link(self) -> Json:
        """As `Client.create_sign_in_link`."""
        return await self._do(calls.post("/api/v1/sign-in-links"))

    def queues(self) -> AsyncIterator[Json]:
        """As `Client.queues`."""
        return self._each(calls.Numbered("/api/v1/queues"))

    async def queue(self, queue: str) -> Json:
        """As `Client.queue`."""
        return await self._do(calls.queue(queue))

    async def pause_queue(self, queue: str) -> Json:
        """As `Client.pause_queue`."""
        return await self._do(calls.queue(queue, "pause", action="pause"))

    async def resume_queue(self, queue: str) -> Json:
        """As `Client.resume_queue`."""
        return await self._do(calls.queue(queue, "pause", action="resume"))

    async def limit_queue(self, queue: str, concurrency_limit: int) -> Json:
        """As `Client.limit_queue`."""
        return await self._do(calls.queue(queue, "concurrency/override", concurrencyLimit=concurrency_limit))

    async def reset_queue(self, queue: str) -> Json:
        """As `Client.reset_queue`."""
        return await self._do(calls.queue(queue, "concurrency/reset"))

    async def environment(self, **changes: Any) -> Json:
        """As `Client.environment`."""
        return await self._do(calls.environment(changes))
