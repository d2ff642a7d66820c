"""One attempt with all its hooks: middleware, on_start, the task's function, and what follows its end.

Once awaited and once blocking; what an end means is decided in `_Ending`, for both.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from torpor.errors import PayloadError, RunFailed
from torpor.sdk import hooks, outcome, running
from torpor.sdk.canceling import Cancellation
from torpor.wire.runner import Begin, Finished, HookCall

if TYPE_CHECKING:
    from torpor.sdk.task import Task


@dataclass(frozen=True)
class _Ending:
    """How the attempt ended: what to report, and which hooks to call with what."""

    done: Finished
    names: tuple[str, ...]
    values: dict[str, Any]


class Attempt:
    """What this process is to do for a run.

    Args:
        task: the task.
        begin: the payload and the context.
        cancellation: whether the run was asked to end.
        run: brings an awaitable to its end where there is no event loop: async hooks of a sync task.
    """

    def __init__(
        self, task: "Task[..., Any]", begin: Begin, cancellation: Cancellation, run: Callable[[Awaitable[Any]], Any]
    ) -> None:
        self._task = task
        self._begin = begin
        self._payload = bytes(begin.payload)
        self._cancellation = cancellation
        self._run = run
        every = (hook for name in hooks.PARAMETERS for hook in hooks.of(name, task))
        self._has_use_for_payload = any("payload" in hook.wants for hook in every)

    # -- an async task --

    async def perform(self) -> Finished:
        """Nothing that user code does comes out as an exception."""
        error: BaseException | None = None
        value: Any = None
        try:
            value = await self._attempt()
            done = outcome.completed(self._task.write_output(value))
        except BaseException as raised:  # noqa: BLE001 - whatever user code does is an outcome, sys.exit() included
            error, done = raised, outcome.failed(raised)
        if self._cancellation.is_delivered and (current := asyncio.current_task()) is not None:
            while current.cancelling():
                current.uncancel()  # the request has done its work: hooks may await
        ending = self._ending(done, value, error)
        for name in ending.names:
            await hooks.call_all(hooks.of(name, self._task), ending.values)
        return ending.done

    async def _attempt(self) -> Any:
        self._cancellation.open()
        try:
            if self._cancellation.take():
                raise asyncio.CancelledError
            async with AsyncExitStack() as around:
                for hook in hooks.of("middleware", self._task):
                    if hook.is_async:
                        await around.enter_async_context(asynccontextmanager(hook.call)(self._values()))
                    else:
                        around.enter_context(contextmanager(hook.call)(self._values()))
                for hook in hooks.of("on_start", self._task):
                    result = hook.call(self._values())
                    if hook.is_async:
                        await result
                return await self._task.perform(self._payload)
        finally:
            self._cancellation.close()

    async def perform_hook(self, call: HookCall) -> Finished:
        """As `perform`, for a process that is there only to call hooks of a run that has ended without one."""
        raised: list[BaseException] = []
        for name in (call.name, "on_complete"):
            raised += await hooks.call_all(hooks.of(name, self._task), self._values_of(call))
        return _finished(raised)

    # -- a sync task --

    def perform_blocking(self) -> Finished:
        """As `perform`."""
        error: BaseException | None = None
        value: Any = None
        try:
            value = self._attempt_blocking()
            done = outcome.completed(self._task.write_output(value))
        except BaseException as raised:  # noqa: BLE001
            error, done = raised, outcome.failed(raised)
        ending = self._ending(done, value, error)
        for name in ending.names:
            hooks.call_all_blocking(hooks.of(name, self._task), ending.values, self._run)
        return ending.done

    def _attempt_blocking(self) -> Any:
        self._cancellation.open()
        try:
            self._cancellation.check()
            with ExitStack() as around:
                for hook in hooks.of("middleware", self._task):
                    if hook.is_async:
                        raise TypeError(f"an async generator can't wrap a sync task: write {hook} as a plain generator")
                    around.enter_context(contextmanager(hook.call)(self._values()))
                for hook in hooks.of("on_start", self._task):
                    result = hook.call(self._values())
                    if hook.is_async:
                        self._run(result)
                return self._task.perform(self._payload)
        finally:
            self._cancellation.close()

    def perform_hook_blocking(self, call: HookCall) -> Finished:
        """As `perform_hook`."""
        raised: list[BaseException] = []
        for name in (call.name, "on_complete"):
            raised += hooks.call_all_blocking(hooks.of(name, self._task), self._values_of(call), self._run)
        return _finished(raised)

    # -- for both --

    def _ending(self, done: Finished, value: Any, error: BaseException | None) -> _Ending:
        values = self._values(output=value, error=error, reason=self._cancellation.reason)
        if self._cancellation.is_delivered:
            values |= {"status": "CANCELED", "output": None}
            told = msgspec.structs.replace(outcome.canceled(done), hooks=["on_cancel"])
            return _Ending(told, ("on_cancel", "on_complete"), values)
        if done.ok:
            return _Ending(done, ("on_success", "on_complete"), values | {"status": "COMPLETED"})
        # Not that of the beginning: a process that was restored may be in a later attempt, or another run's by now.
        context = running.session.context if running.session is not None else self._begin.context
        if done.retryable and context.attempt < context.max_attempts:
            return _Ending(done, (), {})  # it will be tried again
        told = msgspec.structs.replace(done, hooks=["on_failure"])
        return _Ending(told, ("on_failure", "on_complete"), values | {"status": "FAILED"})

    def _values(self, **values: Any) -> dict[str, Any]:
        return {"payload": self._read_payload() if self._has_use_for_payload else None, **values}

    def _values_of(self, call: HookCall) -> dict[str, Any]:
        told = call.error and {
            "name": call.error.name,
            "message": call.error.message,
            "stackTrace": call.error.stack_trace,
        }
        status = call.status or "FAILED"
        error = RunFailed(self._begin.context.run_id, status, told) if call.name == "on_failure" else None
        return self._values(error=error, status=status, reason=call.reason)

    def _read_payload(self) -> Any:
        """The payload as the caller gave it: the one argument, or all of them by name; as plain JSON if it doesn't fit."""
        try:
            arguments = self._task.signature.read(self._payload)
        except PayloadError:
            return msgspec.json.decode(self._payload)
        match self._task.signature.rule:
            case "none":
                return None
            case "one":
                return next(iter(arguments.values()), None)
            case _:
                return arguments


def _finished(raised: list[BaseException]) -> Finished:
    return outcome.failed(raised[0]) if raised else Finished(ok=True)
