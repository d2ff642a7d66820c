"""Hooks: an author's functions that are called at certain moments of a run, of one task or (`app`) of all.

    middleware ─┐ wraps the attempt: a generator that yields once
    on_start    │ each attempt, before the function          both are part of the attempt: what they raise fails it
    (the task)  │
    ────────────┘
    on_success(output)   it completed
    on_failure(error)    it failed for good: no attempt is left, or it may not be tried again
    on_cancel(reason)    it was asked to end
    on_complete(status)  after any of these three
    on_suspend, on_resume   before the process may be frozen, and after; around each try

A hook is async or not, and names the parameters that it wants. What one raises is logged and changes nothing about the
outcome, except in `middleware` and `on_start`. The app's hooks are called before the task's, and after them at the end.
"""

import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import asyncio

log = logging.getLogger("torpor.hooks")

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

PARAMETERS: dict[str, tuple[str, ...]] = {
    "middleware": ("payload",),
    "on_start": ("payload",),
    "on_success": ("output", "payload"),
    "on_failure": ("error", "payload"),
    "on_cancel": ("reason", "payload"),
    "on_complete": ("status", "output", "error", "payload"),
    "on_suspend": (),
    "on_resume": (),
}
"""What each hook may ask for."""
_AT_THE_END = frozenset({"on_success", "on_failure", "on_cancel", "on_complete", "on_suspend"})
in_standstill: ContextVar[bool] = ContextVar("in_standstill", default=False)
"""Whether this is code of an on_suspend or on_resume hook: it can neither wait nor trigger."""
STANDSTILL_TIMEOUT_S = 30.0
"""How long async on_suspend and on_resume hooks may take: nothing else of the run goes on meanwhile."""


@dataclass(frozen=True)
class Hook:
    """A function, and which parameters it wants."""

    name: str
    function: Callable[..., Any]
    wants: tuple[str, ...]

    @property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(self.function) or inspect.isasyncgenfunction(self.function)

    def call(self, values: dict[str, Any]) -> Any:
        """Call it with what it wants; an async one returns its coroutine."""
        return self.function(**{name: values.get(name) for name in self.wants})

    def __str__(self) -> str:
        return f"{self.name} hook {getattr(self.function, '__qualname__', self.function)}"


class Hooked:
    """What a task and the app have in common: the decorators."""

    drops_connections: bool | None = None
    """Whether idle connections of known libraries are dropped before a freeze, and opened after it. None: for a task as `app`
    has it, for `app` yes."""
    _hooks: dict[str, list[Hook]]
    _is_async: bool | None  # of a task; the app's hooks are for both kinds

    def middleware(self, function: F, /) -> F:
        """Wrap each attempt: a generator, async or not, that yields once, where the attempt is made.

        A sync generator fits tasks of either kind, an async one only async tasks. It may ask for `payload`. What the
        attempt raises is raised at the `yield`; what it raises itself fails the attempt.

        Example:
            >>> from torpor import task
            >>> @task
            ... async def work() -> None: ...
            >>> @work.middleware
            ... async def with_connection():
            ...     print("open")
            ...     try:
            ...         yield
            ...     finally:
            ...         print("close")
        """
        return self._add("middleware", function)

    def on_start(self, function: F, /) -> F:
        """Call it at the start of each attempt; what it raises fails the attempt. Parameters: `payload`.

        Example:
            >>> from torpor import current, task
            >>> @task
            ... async def work(n: int) -> None: ...
            >>> @work.on_start
            ... def tell(payload: int) -> None:
            ...     print("attempt", current.attempt, "with", payload)
        """
        return self._add("on_start", function)

    def on_success(self, function: F, /) -> F:
        """Call it when a run has completed. Parameters: `output` (what the task returned), `payload`."""
        return self._add("on_success", function)

    def on_failure(self, function: F, /) -> F:
        """Call it when a run has failed for good. Parameters: `error`, `payload`.

        `error` is the exception itself. Where the process died or the run never had one (it crashed, was out of time,
        expired), a fresh process makes the call, with a `RunFailed` that says how it ended: `error.status`, `error.error`.

        Example:
            >>> from torpor import task
            >>> @task
            ... async def work() -> None: ...
            >>> @work.on_failure
            ... async def tell(error: BaseException) -> None:
            ...     print("it failed:", error)
        """
        return self._add("on_failure", function)

    def on_cancel(self, function: F, /) -> F:
        """Call it when a run was canceled, also one that was queued or frozen. Parameters: `reason`, `payload`."""
        return self._add("on_cancel", function)

    def on_complete(self, function: F, /) -> F:
        """Call it after on_success, on_failure or on_cancel. Parameters: `status` ("COMPLETED", "FAILED", "CANCELED", …),
        `output`, `error`, `payload`.
        """
        return self._add("on_complete", function)

    def on_suspend(self, function: F, /) -> F:
        """Call it before the process may be frozen: close what shouldn't be. No waits and no triggers in it."""
        return self._add("on_suspend", function)

    def on_resume(self, function: F, /) -> F:
        """Call it after each on_suspend, before any other code of the run goes on: open things again."""
        return self._add("on_resume", function)

    def _add(self, name: str, function: F) -> F:
        hook = Hook(name, function, _wanted(name, function))
        if name == "middleware":
            if not (inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)):
                raise TypeError(
                    f"@…middleware takes a generator function, async or not, that yields once; not {function!r}"
                )
            if self._is_async is False and hook.is_async:
                raise TypeError(f"an async generator can't wrap a sync task: write {hook} as a plain generator")
        self._hooks.setdefault(name, []).append(hook)
        return function

    def _of(self, name: str) -> list[Hook]:
        return self._hooks.get(name, [])


def _wanted(name: str, function: Any) -> tuple[str, ...]:
    """The parameters that it names.

    Raises:
        TypeError: it can't be called, or wants what there isn't.
    """
    if not callable(function):
        raise TypeError(f"@…{name} takes a function, not {function!r}")
    offered = PARAMETERS[name]
    wants: list[str] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            return offered
        if parameter.name in offered and parameter.kind is not parameter.POSITIONAL_ONLY:
            wants.append(parameter.name)
        elif parameter.default is parameter.empty and parameter.kind is not parameter.VAR_POSITIONAL:
            can = f"it may ask for {' and '.join(offered)}" if offered else "it takes no parameters"
            raise TypeError(f"@…{name}: {function.__qualname__}() wants {parameter.name!r}: {can}")
    return tuple(wants)


def of(name: str, task: Hooked) -> list[Hook]:
    """The hooks of this name that apply to a task, in the order in which they are called."""
    from torpor.sdk.app import app

    return [*task._of(name), *app._of(name)] if name in _AT_THE_END else [*app._of(name), *task._of(name)]


def needed_elsewhere(task: Hooked) -> list[str]:
    """For the manifest: at which ends of a run that has no process one must be made, just for hooks."""
    return [name for name in ("on_failure", "on_cancel") if of(name, task) or of("on_complete", task)]


# -- calling ----------------------------------------------------------------------------------------------------------


async def call_all(hooks: Iterable[Hook], values: dict[str, Any]) -> list[BaseException]:
    """In an event loop. What they raise is logged, and returned."""
    raised: list[BaseException] = []
    for hook in hooks:
        try:
            result = hook.call(values)
            if inspect.isawaitable(result):
                await result
        except BaseException as error:  # noqa: BLE001 - a hook must not change the outcome, sys.exit() included
            raised.append(_logged(hook, error))
    return raised


def call_all_blocking(
    hooks: Iterable[Hook], values: dict[str, Any], run: Callable[[Awaitable[Any]], Any]
) -> list[BaseException]:
    """The same without an event loop; `run` brings an async one to its end."""
    raised: list[BaseException] = []
    for hook in hooks:
        try:
            result = hook.call(values)
            if inspect.isawaitable(result):
                run(result)
        except BaseException as error:  # noqa: BLE001
            raised.append(_logged(hook, error))
    return raised


def _logged(hook: Hook, error: BaseException) -> BaseException:
    log.error("the %s failed", hook, exc_info=error)
    return error


def call_still(hooks: list[Hook], loop: "asyncio.AbstractEventLoop | None") -> None:
    """on_suspend or on_resume: while nothing else of the run moves. What they raise is logged.

    `loop` is the one that is about to block, and whose thread this is: async hooks are brought to their end by turning
    it from here, since what they close belongs to it.
    """

    token = in_standstill.set(True)
    try:
        call_all_blocking(hooks, {}, lambda awaitable: turn(awaitable, loop))
    finally:
        in_standstill.reset(token)


def turn(awaitable: Awaitable[T], loop: "asyncio.AbstractEventLoop | None") -> T:
    """Bring an awaitable to its end by turning the loop that is about to block, or one of its own if there is none."""
    import asyncio  # not where tasks are only defined and triggered

    if loop is None:
        return asyncio.run(_awaiting(awaitable))
    task = loop.create_task(_awaiting(awaitable), name="hook")
    end = time.monotonic() + STANDSTILL_TIMEOUT_S
    wake = loop.call_later(STANDSTILL_TIMEOUT_S, task.cancel)
    while not task.done() and time.monotonic() < end + 1:
        loop._run_once()  # pyright: ignore[reportAttributeAccessIssue] - there is no public way to turn it once
    wake.cancel()
    return task.result()


async def _awaiting(awaitable: Awaitable[T]) -> T:
    return await awaitable
