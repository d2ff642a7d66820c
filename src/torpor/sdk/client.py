"""HTTP calls to the server, from anywhere outside a run: scripts, web applications, the command line.

`Client` blocks, `AsyncClient` (async_client.py) is awaited. What a call sends and how its reply is read is in `calls.py`,
once; the two doors only differ in how they send and sleep. httpx2 is imported when the first client is made: `import torpor`
and a run never load it.
"""

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Literal

from torpor.sdk import batch, batch_doors, batch_http, calls, stream_calls, subscriptions
from torpor.sdk.calls import Json
from torpor.sdk.idempotency import Idempotency


class Client:
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

    def __init__(self, api_url: str | None = None, secret_key: str | None = None, *, transport: Any = None) -> None:
        import httpx2

        self._target = calls.Target.choose(api_url, secret_key)
        self._no_reply = httpx2.TransportError
        self._http = httpx2.Client(transport=transport)

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _do(self, call: calls.Call, attempts: calls.Attempts | None = None) -> Any:
        request, attempts = self._target.request(self._http, call), attempts or calls.Attempts(self._target)
        while True:
            try:
                pause = attempts.answered(self._http.send(request))
            except self._no_reply as error:
                pause = attempts.failed(error)
            if pause is None:
                return attempts.value
            time.sleep(pause)

    def _each(self, pages: calls.Pages | calls.Numbered | calls.Story | batch_http.Results) -> Iterator[Json]:
        while call := pages.call:
            yield from pages.read(self._do(call))

    def _follow(self, subscription: subscriptions.Subscription) -> Iterator[Json]:
        told = None
        with contextlib.suppress(StopIteration):
            while True:
                step = subscription.send(told)
                told = None
                if isinstance(step, calls.Call):
                    told = self._do(step, subscriptions.Attempts(self._target))
                else:
                    yield step

    def trigger(self, task_id: str, payload: Any = None, **options: Any) -> Json:
        """Ask for a run: `{"id": "run_…", "isCached"?: bool}`. Options: tags, delay, idempotency_key, max_attempts, ….

        Raises:
            NotFound: no such task; `error.body["near"]` has similar names.
            Unprocessable: the payload doesn't fit; `error.body["problems"]` says where.
        """
        return self._do(calls.trigger(task_id, payload, options))

    def run(self, run_id: str) -> Json:
        """One run, with payload, output and error."""
        return self._do(calls.run(run_id))

    def runs(self, **filters: Any) -> Iterator[Json]:
        """Runs that fit, newest first: `status`, `task`, `tag`, `version`, `queue`, `machine`, `region`, `is_test`,
        `schedule`, `batch`, `bulk_action`, `search`, `since`, `until`, `period`."""
        return self._each(calls.Pages("/api/v1/runs", filters))

    def run_counts(self, period: str | timedelta = "24h", bucket: str | timedelta = "1h") -> list[Json]:
        """How many runs were made in each stretch of time, oldest first, by status: `{"from", "total", "counts"}`."""
        return self._do(calls.run_counts(period, bucket))["data"]

    def cancel(self, run_id: str, *, at_once: bool = False) -> Json:
        """End a run and its children: one that executes is asked to end by itself, and killed after 30 seconds.

        Args:
            at_once: don't ask; its process is killed. One that has ended already stays as it is, either way.
        """
        return self._do(calls.cancel(run_id, at_once))

    def reschedule(self, run_id: str, delay: str | float | timedelta | datetime) -> Json:
        """Move a delayed run: it is due so much from now, or at that instant. Returns the run.

        Raises:
            ApiError: it is not delayed (any more).
        """
        return self._do(calls.reschedule(run_id, delay))

    def replay(self, run_id: str, **changes: Any) -> Json:
        """A new run like that one: `{"id": "run_…"}`. It takes over payload, tags, metadata, queue and the like.

        Args:
            run_id: the run to perform again, whatever became of it.
            **changes: `payload`, `tags`, `metadata`, `queue`, `concurrency_key`, `version`, `is_test`, `delay`, `ttl`,
                `max_attempts`, `max_duration`, `priority`, `idempotency_key`: instead of what that run had.
        """
        return self._do(calls.replay(run_id, changes))

    def bulk_cancel(self, run_ids: Iterable[str] | None = None, *, name: str | None = None, **filters: Any) -> Json:
        """Cancel many runs: `{"id": "bulk_…"}`. The servers do it one after the other; `bulk_action` tells how far they are.

        Args:
            run_ids: these runs.
            name: what it is shown as.
            **filters: instead of ids, those of `runs`: all that fit now.

        Example:
            >>> made = client.bulk_cancel(task="digest", status="QUEUED")  # doctest: +SKIP
            >>> client.bulk_action(made["id"])["counts"]  # doctest: +SKIP
            {'total': 1200, 'success': 350, 'failure': 0}
        """
        return self._do(calls.bulk("cancel", run_ids, name, False, filters))

    def bulk_replay(self, run_ids: Iterable[str] | None = None, *, name: str | None = None, **filters: Any) -> Json:
        """Perform many runs again, each as a new one. As `bulk_cancel`."""
        return self._do(calls.bulk("replay", run_ids, name, False, filters))

    def bulk_count(self, **filters: Any) -> int:
        """How many runs a bulk action with these filters would have now."""
        return self._do(calls.bulk("cancel", None, None, True, filters))["count"]

    def bulk_action(self, bulk_id: str) -> Json:
        """One bulk action: `status` (PENDING, COMPLETED, ABORTED), `counts`, and in `failures` the first that failed."""
        return self._do(calls.get(f"/api/v1/bulk-actions/{calls.segment(bulk_id)}"))

    def bulk_actions(self, page_size: int = 25) -> Iterator[Json]:
        """All bulk actions, newest first."""
        return self._each(calls.Pages("/api/v1/bulk-actions", {"page_size": page_size}))

    def abort_bulk_action(self, bulk_id: str) -> Json:
        """Stop a bulk action: what was done stays done."""
        return self._do(calls.post(f"/api/v1/bulk-actions/{calls.segment(bulk_id)}/abort"))

    def reset_idempotency_key(self, task_id: str, key: str | Idempotency) -> Json:
        """Free a key: the next trigger with it makes a new run.

        Raises:
            NotFound: no run of that task has it.
        """
        return self._do(calls.reset_key(task_id, key))

    def result(self, run_id: str, timeout_s: float | None = None) -> Any:
        """Wait for a run's end and return its output.

        Raises:
            RunFailed: it did not complete; its own error is inside.
            TimeoutError: it has not ended in time; the run goes on.
        """
        for _ in self._each(calls.Story(run_id, "story", True, timeout_s=timeout_s)):
            pass
        return calls.output(self.run(run_id))

    def story(self, run_id: str, follow: bool = False) -> Iterator[Json]:
        """What happened to a run, event by event; with `follow` as it happens, until it ends."""
        return self._each(calls.Story(run_id, "story", follow))

    def logs(self, run_id: str, follow: bool = False) -> Iterator[Json]:
        """What a run logged and printed; with `follow` as it comes, until the run ends."""
        return self._each(calls.Story(run_id, "logs", follow))

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
        reading = stream_calls.StreamReading(run_id, key, start)
        attempts = calls.Attempts(self._target)
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
                            attempts = calls.Attempts(self._target)
                finally:
                    response.close()
            except self._no_reply as error:
                pause = attempts.failed(error)
            time.sleep(pause or 0.0)

    def send_input(self, run_id: str, key: str, data: Any) -> None:
        """Send something to a run, which its code reads from the input stream `key`.

        Raises:
            ApiError: the run is over.
        """
        self._do(stream_calls.send_input(run_id, key, data))

    def update_metadata(
        self,
        run_id: str,
        metadata: Json | None = None,
        *,
        operations: Sequence[Json] = (),
        parent_operations: Sequence[Json] = (),
        root_operations: Sequence[Json] = (),
    ) -> Json:
        """Change a run's metadata; returns it as it is then.

        Args:
            run_id: the run.
            metadata: instead of all there is.
            operations: such as `{"type": "increment", "key": "$.steps.done", "value": 1}`: what to change of it, in order.
            parent_operations: the same for its parent's.
            root_operations: the same for its root's.

        Raises:
            Unprocessable: the run is over for more than 15 minutes.
            ApiError: an operation can't be one, or with status 413 the metadata would be too large. Nothing has changed.
        """
        call = stream_calls.update_metadata(run_id, metadata, operations, parent_operations, root_operations)
        return self._do(call)["metadata"]

    def add_tags(self, run_id: str, *tags: str) -> None:
        """Add tags to a run, also to one that is over: ten in all at most, as a rule (`TORPOR_MAX_TAGS`).

        Raises:
            Unprocessable: there would be more.
        """
        self._do(stream_calls.add_tags(run_id, tags))

    def subscribe(self, run_id: str, *, skip: Iterable[str] = ()) -> Iterator[Json]:
        """A run as it is, and again whenever it has changed, until it has ended: at most a few milliseconds later.

        Args:
            run_id: the run.
            skip: what isn't needed: `payload`, `output`, `metadata`.

        A server or a network that is away for a while is waited for.

        Raises:
            NotFound: there is no such run.

        Example:
            >>> for run in client.subscribe("run_1"):  # doctest: +SKIP
            ...     print(run["status"], run.get("metadata"))
        """
        return self._follow(subscriptions.run(run_id, skip))

    def subscribe_to_tag(
        self, tags: str | Iterable[str], *, period: str | timedelta = "", skip: Iterable[str] = ()
    ) -> Iterator[Json]:
        """The runs with this tag, or all of these, each again whenever it has changed. It never ends by itself.

        Args:
            tags: one or several.
            period: how far back the first ones were made, a day at most, and unless it is given: `"1h"`.
            skip: as `subscribe`.
        """
        return self._follow(subscriptions.tagged(tags, period, skip))

    def subscribe_to_batch(self, batch_id: str, *, skip: Iterable[str] = ()) -> Iterator[Json]:
        """The runs of a batch, each again whenever it has changed, until the batch is over. As `subscribe`."""
        return self._follow(subscriptions.batch(batch_id, skip))

    def trace(self, run_id: str) -> Json:
        """A run's story as a tree of spans: `{"traceId", "rootSpan": {"id", "data", "children"}}`."""
        return self._do(calls.get(f"/api/v1/runs/{calls.segment(run_id)}/trace"))["trace"]

    def span(self, run_id: str, span_id: str) -> Json:
        """One of a trace's spans: `{"spanId", "message", "durationMs", "properties", "events", …}`.

        Raises:
            NotFound: the run has no such span.
        """
        return self._do(calls.get(f"/api/v1/runs/{calls.segment(run_id)}/spans/{calls.segment(span_id)}"))

    def events(self, run_id: str) -> list[Json]:
        """The events of a run's spans: log lines, and what the story says beside. `story` and `logs` have all of them."""
        return self._do(calls.get(f"/api/v1/runs/{calls.segment(run_id)}/events"))["events"]

    def checkpoints(self, run_id: str) -> list[Json]:
        """The images of a run, oldest first, also those that were dropped."""
        return self._do(calls.get(f"/api/v1/runs/{calls.segment(run_id)}/checkpoints"))["data"]

    def checkpoint(self, checkpoint_id: str) -> Json:
        """One checkpoint: where its process stands, what it waits for, its sizes."""
        return self._do(calls.get(f"/api/v1/checkpoints/{calls.segment(checkpoint_id)}"))

    def all_checkpoints(self, page_size: int = 25) -> Iterator[Json]:
        """The checkpoints of all runs that can be used, newest first."""
        return self._each(calls.Pages("/api/v1/checkpoints", {"page_size": page_size}))

    def fork(
        self, run_id: str, checkpoint: str = "latest", answer: Any = calls.UNSET, wait_id: str | None = None
    ) -> Json:
        """A new run that goes on from a checkpoint of that one: `{"id", "checkpointId", "status"}`.

        Args:
            run_id: the run, also one that is over.
            checkpoint: its id, or "latest".
            answer: what the wait gets that the process was frozen in; without it, what the original got or will get.
            wait_id: which wait that is, where there are several.

        Raises:
            NotFound: there is no such run.
            Unprocessable: it has no such checkpoint, or the answer could be for several waits; the message says which.
        """
        return self._do(calls.fork(run_id, checkpoint, answer, wait_id))

    def rotate_data_key(self) -> Json:
        """Have workers seal checkpoints with a new data key from now on: `{"id", "data": […]}`."""
        return self._do(calls.post("/api/v1/data-keys/rotate"))

    def data_keys(self) -> list[Json]:
        """The data keys that checkpoints are sealed with: which, not what they are."""
        return self._do(calls.get("/api/v1/data-keys"))["data"]

    def variables(self) -> list[Json]:
        """What all runs have in `os.environ`: `{"name", "value", "isSecret"}`; the value of a secret one isn't told."""
        return self._do(calls.variables())

    def variable(self, name: str) -> Json:
        """One of them.

        Raises:
            NotFound: it isn't set.
        """
        return self._do(calls.variable(name))

    def set_variable(self, name: str, value: str, *, secret: bool | None = None) -> None:
        """Set a variable, whether it is there or not: runs that start or come back from now on have it.

        Args:
            secret: nobody but runs sees its value again; None: as it was.

        Raises:
            ApiError: the name or the value can't be one.
            Unprocessable: there would be too many, or too many bytes.
        """
        self._do(calls.set_variable(name, value, secret))

    def unset_variable(self, name: str) -> None:
        """Have no variable of that name.

        Raises:
            NotFound: there was none.
        """
        self._do(calls.variable(name, "DELETE"))

    def import_variables(
        self, variables: Mapping[str, str], *, override: bool = False, secret: bool | None = None
    ) -> None:
        """Set all of these variables, or none.

        Args:
            variables: values by their names.
            override: also those that are set already.
            secret: as `set_variable`.

        Raises:
            ApiError: one can't be set, or is set already; `error.body["variableErrors"]` says which and why.
        """
        self._do(calls.import_variables(variables, override, secret))

    def limits(self) -> Json:
        """What requests are held to, by name: `requestBytes`, `tags`, `queuedPerQueue`, …; None where there is no limit."""
        return self._do(calls.get("/api/v1/limits"))

    def whoami(self) -> Json:
        """What this client asks with: `{"kind", "person", "environment", "key"}`; `person` only of a personal token."""
        return self._do(calls.get("/api/v1/whoami"))

    def api_keys(self) -> list[Json]:
        """The environment's secret and scoped keys, also those that were over within a month: which, not what they are."""
        return self._do(calls.get("/api/v1/keys"))["data"]

    def create_key(
        self,
        name: str,
        *,
        scopes: list[str] | None = None,
        expires: str | float | timedelta | datetime | None = None,
        personal: bool = False,
    ) -> Json:
        """One more key; its text is in the reply's `key`, this once.

        Args:
            name: what it is for; of a personal token whose it is.
            scopes: all that it may do, such as `["trigger:tasks:report", "read:runs"]`; without them it is a secret key.
            expires: after how long, or when; default: never.
            personal: the token of a person, who may do everything but look after keys.
        """
        return self._do(calls.create_key(name, scopes, expires, personal))

    def rotate_key(self, key_id: str, overlap: str | float | timedelta | None = None) -> Json:
        """Another key like this one, its text in the reply's `key`; this one holds beside it for a day, or `overlap`."""
        return self._do(calls.rotate_key(key_id, overlap))

    def revoke_key(self, key_id: str) -> Json:
        """This key, and all public tokens that were made with it, are worth nothing from now on."""
        return self._do(calls.post(f"/api/v1/keys/{calls.segment(key_id)}/revoke"))

    def accounts(self) -> list[Json]:
        """Who may sign in to the dashboard: `{"id", "name", "createdAt"}`."""
        return self._do(calls.get("/api/v1/accounts"))["data"]

    def create_account(self, name: str, password: str) -> Json:
        """One more of them.

        Raises:
            Unprocessable: the name is taken, or it or the password can't be one.
        """
        return self._do(calls.create_account(name, password))

    def remove_account(self, account_id: str) -> None:
        """It is gone, and whoever is signed in to it is signed out."""
        self._do(calls.remove_account(account_id))

    def create_sign_in_link(self) -> Json:
        """A link to the dashboard that signs one browser in, once: `{"url", "expiresAt"}`."""
        return self._do(calls.post("/api/v1/sign-in-links"))

    def create_public_token(
        self,
        scopes: list[str],
        *,
        expires: str | float | timedelta | datetime | None = None,
        one_time: bool = False,
    ) -> str:
        """A token that may leave the back end, such as for a browser: it may do what its scopes say, and nothing else.

        Args:
            scopes: such as `["read:runs:run_1", "write:waitpoints:waitpoint_1"]`.
            expires: after how long, or when; default: 15 minutes. At most 30 days.
            one_time: good for one trigger, or one batch.
        """
        return self._do(calls.create_public_token(scopes, expires, one_time))["token"]

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
            upload, self.ask_batch, payloads, lambda payload: calls.batch_item(task_id, payload, options)
        )
        return upload.told()

    def ask_batch(self, call: Any) -> Any:
        """What `torpor.batch_trigger` asks in the words of the worker protocol, over HTTP."""
        return batch_http.reply(call, self._do(batch_http.request(call)))

    def batch(self, batch_id: str) -> Json:
        """One batch: `status`, `runCount`, `runs`, and in `processing` the items that could not become runs."""
        return self._do(calls.get(f"/api/v2/batches/{calls.segment(batch_id)}"))

    def batches(self, **filters: Any) -> Iterator[Json]:
        """Batches, newest first: `status`, `since`, `until`, `period`."""
        return self._each(calls.Pages("/api/v1/batches", filters))

    def batch_results(self, batch_id: str) -> Iterator[Json]:
        """How the items have ended, in their order; those that have not are left out."""
        return self._each(batch_http.Results(batch_id))

    def create_token(
        self,
        timeout: str | float | timedelta | datetime | None = None,
        *,
        tags: list[str] | None = None,
        idempotency_key: str | None = None,
        idempotency_key_ttl: str | float | timedelta | None = None,
        title: str | None = None,
        context: Any = None,
    ) -> Json:
        """A token that a run may wait for: `{"id", "url", "isCached"}`. A POST to `url` completes it, without a key."""
        return self._do(calls.create_token(timeout, tags, idempotency_key, idempotency_key_ttl, title, context))

    def token(self, token_id: str) -> Json:
        """One token, with its output when it is complete."""
        return self._do(calls.get(f"/api/v1/waitpoints/tokens/{calls.segment(token_id)}"))

    def tokens(self, **filters: Any) -> Iterator[Json]:
        """Tokens that fit, newest first: `status`, `tags`, `idempotency_key`, `since`, `until`, `period`."""
        return self._each(calls.Pages("/api/v1/waitpoints/tokens", filters))

    def complete_token(self, token_id: str, data: Any = None) -> Json:
        """Give a token its value. The first one wins; later ones change nothing."""
        return self._do(calls.complete(token_id, data))

    def approve(
        self, token_id: str, approved: bool = True, *, by: str | None = None, comment: str | None = None
    ) -> Json:
        """Answer a `wait.for_approval`."""
        return self._do(calls.complete(token_id, calls.approval(approved, by, comment)))

    def approvals(self, page_size: int = 25) -> Iterator[Json]:
        """What runs ask of people, those that wait first: `title`, `context`, `runIds`, `status`, and the answer."""
        return self._each(calls.Pages("/api/v1/approvals", {"page_size": page_size}))

    def approval(self, token_id: str) -> Json:
        """One approval."""
        return self._do(calls.get(f"/api/v1/approvals/{calls.segment(token_id)}"))

    def create_schedule(
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
        """Let the clock trigger a task. The same deduplication key changes the schedule that has it.

        Args:
            task_id: a task that takes a `ScheduleTick`, or nothing.
            cron: five fields, or six with seconds first.
            deduplication_key: the schedule's name, so that making it again makes no second one.
            tz: an IANA zone; default: UTC.
            external_id: given to the task with each tick, such as whose schedule it is.
            window: spread ticks over this much time, `"30m"` or `"10%"` of the time between them; default: exact.
            catch_up: what becomes of ticks that came while no server was there: `"none"`, `"last"` (the default) or `"all"`.

        Raises:
            Unprocessable: a field is wrong, or there is no such task; `error.message` says which and why.
        """
        fields = {"task": task_id, "cron": cron, "deduplication_key": deduplication_key, "tz": tz}
        fields |= {"external_id": external_id, "window": window, "catch_up": catch_up}
        return self._do(calls.schedule("POST", "/api/v1/schedules", fields))

    def update_schedule(
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
        """Change a schedule. What is left out is reset, as in `create_schedule`."""
        fields = {"task": task_id, "cron": cron, "tz": tz}
        fields |= {"external_id": external_id, "window": window, "catch_up": catch_up}
        return self._do(calls.schedule("PUT", calls.schedule_path(schedule_id), fields))

    def schedule(self, schedule_id: str) -> Json:
        """One schedule, with its next five ticks."""
        return self._do(calls.get(calls.schedule_path(schedule_id)))

    def schedules(self) -> Iterator[Json]:
        """All schedules, newest first; also those that are declared in code."""
        return self._each(calls.Numbered("/api/v1/schedules"))

    def delete_schedule(self, schedule_id: str) -> Json:
        """Remove a schedule; its runs stay."""
        return self._do(calls.Call("DELETE", calls.schedule_path(schedule_id)))

    def activate_schedule(self, schedule_id: str) -> Json:
        """Let a schedule tick again, from now on."""
        return self._do(calls.post(calls.schedule_path(schedule_id) + "/activate"))

    def deactivate_schedule(self, schedule_id: str) -> Json:
        """Put a schedule to rest until it is activated."""
        return self._do(calls.post(calls.schedule_path(schedule_id) + "/deactivate"))

    def timezones(self) -> list[str]:
        """The IANA zones that the server knows."""
        return self._do(calls.get("/api/v1/timezones"))["timezones"]

    def tasks(self) -> list[Json]:
        """The tasks of the current version."""
        return self._do(calls.get("/api/v1/tasks"))["data"]

    def deployments(self, **filters: Any) -> Iterator[Json]:
        """The versions that workers have reported, newest first: `since`, `until`, `period`, `status`."""
        return self._each(calls.deployments(filters))

    def deployment(self, deployment_id: str = "current") -> Json:
        """One of them: by its id, "current" (what new runs get), or "latest" (what was first seen last).

        Raises:
            NotFound: there is none.
        """
        return self._do(calls.get(f"/api/v1/deployments/{calls.segment(deployment_id)}"))

    def query(
        self,
        text: str,
        *,
        period: str | float | timedelta | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> list[Json]:
        """Ask the runs of the environment in words like SQL's: `SELECT status, count() AS n FROM runs GROUP BY status`.

        Args:
            text: one SELECT from `runs`, at most 10,000 rows.
            period: of runs that were triggered so long ago at most; without one of these three: seven days.
            since: of runs that were triggered from then on.
            until: and before that.

        Raises:
            ApiError: it can't be asked so; the message says what isn't allowed.
        """
        return self._do(calls.query(text, period, since, until))["results"]

    def query_tables(self) -> list[Json]:
        """What a query can be asked of: tables with their columns, the types and what they mean."""
        return self._do(calls.get("/api/v1/query/schema"))["tables"]

    def workers(self) -> list[Json]:
        """The workers, and what each can do."""
        return self._do(calls.get("/api/v1/workers"))["data"]

    def worker(self, worker_id: str) -> Json:
        """One worker: what it can do, what it has, and how far it keeps its runs apart."""
        return self._do(calls.get(f"/api/v1/workers/{calls.segment(worker_id)}"))

    def drain_worker(self, worker_id: str) -> Json:
        """Have a worker leave: it gets no more runs, moves or freezes those that it has, and ends."""
        return self._do(calls.post(f"/api/v1/workers/{calls.segment(worker_id)}/drain", {}))

    def queues(self) -> Iterator[Json]:
        """All queues: their limits, how many runs stand in them and work."""
        return self._each(calls.Numbered("/api/v1/queues"))

    def queue(self, queue: str) -> Json:
        """One queue, by its name or id; a task's own by the task's id."""
        return self._do(calls.queue(queue))

    def pause_queue(self, queue: str) -> Json:
        """Hand out no more runs of it. Those that work go on."""
        return self._do(calls.queue(queue, "pause", action="pause"))

    def resume_queue(self, queue: str) -> Json:
        """Hand out its runs again."""
        return self._do(calls.queue(queue, "pause", action="resume"))

    def limit_queue(self, queue: str, concurrency_limit: int) -> Json:
        """Another limit than the declared one, until `reset_queue`."""
        return self._do(calls.queue(queue, "concurrency/override", concurrencyLimit=concurrency_limit))

    def reset_queue(self, queue: str) -> Json:
        """Back to the limit that its code declares."""
        return self._do(calls.queue(queue, "concurrency/reset"))

    def environment(self, **changes: Any) -> Json:
        """What the environment allows; with `concurrency_limit`, `burst_factor`, `max_queued`, `accepts_unknown_tasks` or
        `paused`, that is set first. None takes a limit away.
        """
        return self._do(calls.environment(changes))
