"""One run in this process: from the supervisor's `Begin` to its `Finishing`.

    session = Session.open("…/ctl.sock", name)       connected; session.begin says what to do
    outcome = session.perform(task)                  user code runs, waits, is frozen and thawed, and ends
    session.finish(outcome)                          the supervisor has it: the process may exit

`perform` opens one of two doors, by the kind of the task: `loop.LoopDoor` for async functions, `blocking.BlockingDoor`
for others. What goes through them is written once: requests and replies in waits.py and task.py, the state of all waits
in ledger.py, standing still in freeze.py. There is no thread of ours: a process with few threads is easy to freeze.
"""

import asyncio
import contextlib
import io
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from torpor.errors import (
    ApiError,
    NotFound,
    NotInRun,
    NotYet,
    RateLimited,
    ServerError,
    Unauthorized,
    Unprocessable,
)
from torpor.sdk import freeze, fresh, hooks, logger, outcome, refresh, running, waits
from torpor.sdk.app import app
from torpor.sdk.attempt import Attempt
from torpor.sdk.blocking import BlockingDoor
from torpor.sdk.canceling import Cancellation
from torpor.sdk.channel import Channel, LetGo
from torpor.sdk.fresh.library import Turn
from torpor.sdk.inputs import Line
from torpor.sdk.ledger import Ledger
from torpor.sdk.loop import LoopDoor
from torpor.sdk.outbox import Outbox
from torpor.sdk.standstill import Standstill
from torpor.wire.runner import (
    Answer,
    Awoken,
    Begin,
    Cancel,
    Finished,
    Finishing,
    Hello,
    NewWait,
    Op,
    Part,
    Result,
    RunContext,
    StayingAwake,
    Target,
)

if TYPE_CHECKING:
    from torpor.sdk.task import Task

T = TypeVar("T")


def name_process(context: RunContext) -> None:
    """Have `ps` show which run this process is."""
    from setproctitle import setproctitle

    setproctitle(f"torpor run {context.task_id} {context.run_id}")


class Session:
    """The run that this process performs. Made by `open`, used once."""

    def __init__(
        self, channel: Channel, begin: Begin, cancellation: Cancellation, environment: refresh.Environment
    ) -> None:
        self.begin = begin
        self.context = begin.context
        """What `torpor.current` shows."""
        self._channel = channel
        self._ledger = Ledger()
        self._outbox = Outbox(begin.context)
        self._inputs: dict[str, Line] = {}
        self._door: LoopDoor | BlockingDoor | None = None
        self._freezer = freeze.Freezer(channel, self._told, environment, run_directory=str(Path(channel.path).parent))
        self._standstill = Standstill(self._freeze, self._save, self._come_back, self._resumed)
        self._cancellation = cancellation
        self._main_task: asyncio.Task[Any] | None = None
        self._task: Task[..., Any] | None = None
        self._is_hook_loop = False

    @classmethod
    def open(cls, socket_path: str | os.PathLike[str], name: str) -> "Session":
        """Connect to the supervisor, say hello, and learn what to do, which may take a while: a process forked ahead waits
        here for its run. The run's environment variables are set.

        Blocks SIGUSR1 in this thread and all that it will start: only `freeze` may take that signal.

        Raises:
            OSError: nobody listens on the socket.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, {freeze.WAKE})
        fresh.watch()
        cancellation = Cancellation()
        cancellation.listen()
        channel = Channel(os.fspath(socket_path))
        begin = _begin(channel, Hello(name))
        return cls(channel, begin, cancellation, refresh.Environment(begin.env, begin.env_all))

    def perform(self, task: "Task[..., Any]") -> Finished:
        """Run the task to its end. Nothing that user code does comes out as an exception."""
        running.session = self
        _capture_output()
        self._cancellation.is_async = task.is_async
        self._task = task
        attempt, hook = Attempt(task, self.begin, self._cancellation, self._run_hook), self.begin.hook
        if task.is_async:
            made = attempt.perform() if hook is None else attempt.perform_hook(hook)
            try:
                return self._in_loop(made, task.id)
            except BaseException as error:  # noqa: BLE001 - such as sys.exit() in a task of its own: it ends the loop
                return outcome.failed(error)
        self._door = BlockingDoor(self._channel, self._ledger, self._outbox, self._standstill, self._cancellation)
        return attempt.perform_blocking() if hook is None else attempt.perform_hook_blocking(hook)

    def finish(self, outcome: Finished) -> None:
        """Hand over the outcome; returns when the supervisor holds it."""
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):  # closed or replaced by user code
                stream.flush()
        running.session = None
        self._cancellation.look = lambda: None
        while True:
            try:
                while (said := self._outbox.take()) is not None:
                    self._channel.send(said)
                self._channel.send(outcome)
                while not isinstance(self._channel.receive(), Finishing):
                    pass  # an answer or a Suspend that crossed with the end
            except LetGo:  # the supervisor may have it or not: told twice is once
                self._channel.withdraw(outcome)
                self._come_back()
            else:
                break
        self._channel.close()

    def _in_loop(self, made: Coroutine[Any, Any, Finished], name: str) -> Finished:
        door = self._door = LoopDoor(self._channel, self._ledger, self._outbox, self._standstill, self._cancel)

        async def main() -> Finished:
            self._main_task = asyncio.current_task()
            assert self._main_task is not None
            self._main_task.set_name(name)  # blockers name tasks
            return await made

        self._cancellation.look = door.look
        try:
            with asyncio.Runner(loop_factory=door.make_loop) as runner:
                return runner.run(main())
        finally:
            self._cancellation.look = lambda: None

    def _run_hook(self, awaitable: Awaitable[Any]) -> Any:
        """An async hook of a sync task, in a loop of its own. Its waits and calls block that loop: nothing else is in it."""

        async def awaiting() -> Any:
            return await awaitable

        self._is_hook_loop = True
        try:
            return asyncio.run(awaiting())
        finally:
            self._is_hook_loop = False

    def _cancel(self, asked: Cancel) -> None:
        """In the event loop: have the main task end."""
        self._cancellation.ask(asked.reason)
        if self._main_task is not None and self._cancellation.take():
            self._main_task.cancel(asked.reason)

    # -- standing still, for the doors --

    def _freeze(self, waiting_at: list[dict[str, Any]]) -> Awoken | None:
        assert self._task is not None
        if reasons := fresh.in_use() if self._drops_connections else []:
            return self._stay_awake(StayingAwake(reasons))
        hooks.call_still(hooks.of("on_suspend", self._task), self._loop)
        if self._drops_connections:
            fresh.drop(self._turn)
        if self._ledger.has_moved:  # a timer of user code, most likely
            self._stay_awake(StayingAwake(["something moved while connections were closed"], moved=True))
            awoken = None
        else:
            awoken = self._freezer.freeze(waiting_at)
            if awoken is None or awoken.restored:
                # It was refused, or the engine takes it for executing. After a dump that was given up it still waits.
                self._ledger.tell_again()
            if awoken is not None:
                self._take_up(awoken)
        if self._drops_connections:
            fresh.reopen(self._turn)
        hooks.call_still(hooks.of("on_resume", self._task), self._loop)
        return awoken

    def _stay_awake(self, why: StayingAwake) -> None:
        with contextlib.suppress(LetGo):  # it is kept, and the next to use the socket finds out
            self._channel.send(why)
        if why.moved:
            self._ledger.tell_again()

    def _save(self, name: str, waiting_at: list[dict[str, Any]], until_nobody_reads: Callable[[], None]) -> Awoken:
        """Connections stay open in the process that goes on, so hooks are due only in one that was restored."""
        awoken = self._freezer.save(name, waiting_at, until_nobody_reads)
        self._take_up(awoken)
        self._ledger.tell_again()
        if awoken.restored:
            self._resumed()
        return awoken

    def _come_back(self) -> Awoken:
        awoken = self._freezer.come_back()
        self._take_up(awoken)
        self._ledger.tell_again()
        return awoken

    def _resumed(self) -> None:
        """In a process that was restored without having been asked to suspend: its connections are dead."""
        assert self._task is not None
        if self._drops_connections:
            fresh.drop(self._turn)
            fresh.reopen(self._turn)
        hooks.call_still(hooks.of("on_resume", self._task), self._loop)

    @property
    def _drops_connections(self) -> bool:
        assert self._task is not None
        return next((wish for wish in (self._task.drops_connections, app.drops_connections) if wish is not None), True)

    @property
    def _turn(self) -> Turn | None:
        loop = self._loop
        return None if loop is None else lambda awaitable: hooks.turn(awaitable, loop)

    @property
    def _loop(self) -> asyncio.AbstractEventLoop | None:
        return self._door.loop if isinstance(self._door, LoopDoor) else None

    def _told(self) -> tuple[str, list[str]]:
        return self.context.run_id, self._ledger.open_waits(self._channel.unsent)

    def _take_up(self, awoken: Awoken) -> None:
        if awoken.context is not None:
            self._outbox.restored(awoken.context)
            is_fork = awoken.context.run_id != self.context.run_id
            self.context = awoken.context
            if is_fork:  # the image has the name of the run that it was taken of
                name_process(self.context)

    # -- what user code says of the run, from any thread --

    @property
    def metadata(self) -> dict[str, Any]:
        """The run's own, as user code sees it. Not to be changed in place."""
        return self._outbox.metadata

    @property
    def tags(self) -> list[str]:
        """The same of its tags."""
        return self._outbox.tags

    @property
    def has_room(self) -> bool:
        """Whether something can be said without having to wait for the supervisor."""
        return not self._outbox.is_full and self._channel.has_room()

    def change(self, target: Target, op: Op | None = None, tags: Sequence[str] = (), *, size: int = 0) -> None:
        """Have metadata changed, or tags added. The size is that of the value, as JSON."""
        self._outbox.change(self._whose(target), op, tags, size=size)
        self._say()

    def append(self, target: Target, key: str, part: Part) -> None:
        """Have something appended to a stream. Blocks while the supervisor has enough of it."""
        self._outbox.warn_if_slow(self.has_room)
        self._outbox.append(self._whose(target), key, part)
        self._say()

    def input_line(self, name: str) -> Line:
        """What was read of an input."""
        return self._inputs.setdefault(name, Line(name))

    def _whose(self, target: Target) -> Target:
        """What a run does to a parent or root that it doesn't have, it does to itself."""
        above = {"parent": self.context.parent_run_id, "root": self.context.root_run_id}.get(target)
        return "self" if above in (None, self.context.run_id) else target

    def _say(self) -> None:
        if self._door is not None:
            self._door.say()

    # -- what the SDK asks of the run: each once awaited and once blocking --

    async def wait(self, new: NewWait) -> Answer:
        """Block until the engine has an answer.

        Raises:
            WaitCycle: there will never be one.
        """
        self._refuse_while_still()
        match self._door:
            case BlockingDoor() as door if self._is_hook_loop:
                return waits.checked(door.wait(new))
            case LoopDoor() as door if door.loop is asyncio.get_running_loop():
                return waits.checked(await door.wait(new))
            case LoopDoor(loop=asyncio.AbstractEventLoop() as loop):  # user code's own loop, in a thread of its own
                return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self.wait(new), loop))
            case _:
                raise _own_loop("wait")

    async def call(self, kind: str, body: msgspec.Struct) -> msgspec.Raw:
        """Ask the server something.

        Raises:
            ApiError: it said no.
        """
        self._refuse_while_still()
        match self._door:
            case BlockingDoor() as door if self._is_hook_loop:
                return _read(door.call(kind, msgspec.json.encode(body)))
            case LoopDoor() as door if door.loop is asyncio.get_running_loop():
                return _read(await door.call(kind, msgspec.json.encode(body)))
            case LoopDoor(loop=asyncio.AbstractEventLoop() as loop):
                return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self.call(kind, body), loop))
            case _:
                raise _own_loop("call")

    def wait_blocking(self, new: NewWait) -> Answer:
        """As `wait`, for code that does not await."""
        self._refuse_while_still()
        if isinstance(self._door, BlockingDoor):
            return waits.checked(self._door.wait(new))
        return self._from_thread(self.wait(new))

    def call_blocking(self, kind: str, body: msgspec.Struct) -> msgspec.Raw:
        """As `call`, for code that does not await."""
        self._refuse_while_still()
        if isinstance(self._door, BlockingDoor):
            return _read(self._door.call(kind, msgspec.json.encode(body)))
        return self._from_thread(self.call(kind, body))

    async def save(self, name: str) -> Awoken:
        """Have a checkpoint taken, and go on."""
        self._refuse_while_still()
        match self._door:
            case BlockingDoor() as door if self._is_hook_loop:
                return door.save(name)
            case LoopDoor() as door if door.loop is asyncio.get_running_loop():
                return await door.save(name)
            case LoopDoor(loop=asyncio.AbstractEventLoop() as loop):
                return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self.save(name), loop))
            case _:
                raise _own_loop("checkpoint")

    def save_blocking(self, name: str) -> Awoken:
        """As `save`, for code that does not await."""
        self._refuse_while_still()
        if isinstance(self._door, BlockingDoor):
            return self._door.save(name)
        return self._from_thread(self.save(name))

    def _refuse_while_still(self) -> None:
        if hooks.in_standstill.get():
            raise NotInRun(
                "on_suspend and on_resume hooks can neither wait nor trigger: the run stands still around them"
            )

    def _from_thread(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Blocking code of an async task, such as a function in asyncio.to_thread: the loop does it for us."""
        assert isinstance(self._door, LoopDoor)
        assert self._door.loop is not None
        return asyncio.run_coroutine_threadsafe(coroutine, self._door.loop).result()


def _begin(channel: Channel, hello: Hello) -> Begin:
    """What to do. A process may be frozen while it waits for that, and restored many times: then it says hello anew."""
    try:
        channel.send(hello)
        while not isinstance(begin := channel.receive(), Begin):
            pass
    except LetGo:
        refresh.reseed_openssl()
        begin = channel.reconnect(hello, Begin)
        refresh.reseed_all()
    return begin


def _own_loop(what: str) -> NotYet:
    return NotYet(
        f"an awaited {what} in an event loop that a blocking task has started can't be followed: "
        "make the task itself `async def`, or use torpor.sync"
    )


def _read(result: Result) -> msgspec.Raw:
    if result.ok:
        return result.body
    try:
        body = msgspec.json.decode(result.body)
    except msgspec.DecodeError:
        body = None
    kinds = {401: Unauthorized, 404: NotFound, 422: Unprocessable, 429: RateLimited}
    kind = kinds.get(result.status, ServerError if result.status >= 500 else ApiError)
    raise kind(result.status, result.error or "the server said no more", body)


def _capture_output() -> None:
    """Lines reach the log as they are printed: stdout is a file here, which Python would buffer by the block."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(OSError, ValueError):  # closed or replaced by user code
                stream.reconfigure(line_buffering=True, errors="backslashreplace")
    logger.take_over_logging()


def _in_forked_child() -> None:
    """A child that user code forks must neither speak for the run nor keep its connection alive."""
    if running.session is not None:
        running.session._cancellation.look = lambda: None
        running.session._channel.close()
        running.session, running.is_fork = None, True


os.register_at_fork(after_in_child=_in_forked_child)
