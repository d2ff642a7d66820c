"""The door of async tasks: waits and calls are futures, and the event loop tells us when it is about to block.

That moment is the one where a run may be idle: every callback has run, and nothing happens until a descriptor or a timer
does something. asyncio has no hook for it, but it asks its selector then, and the selector may be ours.

Timers of the loop count wall time, also that in which the run was frozen: `time()` is moved on by it after each restore.
And when the run is idle the engine is told when the first timer is due, the *alarm*, a wait of our own: so a run that is
frozen in `asyncio.timeout(3600)` comes back after an hour. The alarm is told anew when it changes, and dropped with the
last wait.

That moment is also the one for save points: whatever asyncio tasks are up to, none of them is in the middle of a step. And
when the supervisor has let go of the connection, to freeze the run without asking, it is opened again wherever that is
noticed; what it brings is handed out by the loop.
"""

import asyncio
import contextlib
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from torpor.sdk import fresh, idle, threads, waits
from torpor.sdk.channel import Channel, LetGo
from torpor.sdk.idle import CallFuture, SaveFuture, WaitFuture
from torpor.sdk.ledger import Ledger
from torpor.sdk.outbox import Outbox
from torpor.sdk.standstill import Standstill
from torpor.wire.runner import (
    Answer,
    Answers,
    Awoken,
    Call,
    Cancel,
    Known,
    NewWait,
    Result,
    RunnerMessage,
    StayingAwake,
    SupervisorMessage,
    Suspend,
)

T = TypeVar("T")

LOOK_SHARE = 10
"""While a run is kept awake we look again after this many times what looking took, so it costs a tenth at most."""
PATIENCE_S = 1.0
PAUSE_S = 0.005
SLEW_S = 0.1
"""Wall clock and monotonic clock don't part by more between two looks, unless one was set, or the process was frozen."""


class LoopDoor:
    """Everything here runs in the loop's own thread, but `say`.

    Args:
        standstill: what is done while nothing of the run moves.
        cancel: have the run's main task end.
    """

    def __init__(
        self,
        channel: Channel,
        ledger: Ledger,
        outbox: Outbox,
        standstill: Standstill,
        cancel: Callable[[Cancel], None],
    ) -> None:
        self.loop: _Loop | None = None
        self._thread = 0
        self._channel = channel
        self._ledger = ledger
        self._outbox = outbox
        self._is_saying = False
        self._standstill = standstill
        self._cancel = cancel
        self._listening = -1
        self._saves: list[tuple[str, SaveFuture]] = []
        self._has_new_life = False  # restored, and hooks are yet to be called
        self._should_suspend = False
        self._is_still = False
        self._look_again_at = 0.0
        self._alarm_at = 0.0  # by the loop's time
        self._pace = threads.Pace()

    def make_loop(self) -> asyncio.AbstractEventLoop:
        """The run's event loop. Not uvloop: it doesn't say when it is about to block."""
        self.loop = _Loop(_SettlingSelector(self))
        self._thread = threading.get_ident()
        self._listen()
        return self.loop

    async def wait(self, new: NewWait) -> Answer:
        """Block this asyncio task until the wait is answered. Cancelling the task drops the wait."""
        future = WaitFuture(loop=self.loop)
        self._ledger.enter(new, future)
        try:
            return await future
        finally:
            self._ledger.leave(new.wait_id)

    async def call(self, kind: str, body: bytes) -> Result:
        """Have the supervisor ask the server something."""
        while self._saves:  # its reply would come to a process that a restore of that save point knows nothing of
            await asyncio.wait([self._saves[0][1]])
        future = CallFuture(loop=self.loop)
        call_id = self._ledger.calling(future)
        try:
            self._send(Call(call_id, kind, msgspec.Raw(body)))
            return await future
        finally:
            self._ledger.hang_up(call_id)

    async def save(self, name: str) -> Awoken:
        """Have a checkpoint taken, and go on. It is put off until no call is under way."""
        assert self.loop is not None
        future = SaveFuture(loop=self.loop)
        self._saves.append((name, future))
        return await future

    def say(self) -> None:
        """Send what is in the outbox. Other threads have the loop do it, and wait a while if it has too much to do."""
        if threading.get_ident() == self._thread:
            if not self._channel.in_use:  # else this is a signal's handler in there: it is sent with what comes next
                self._say()
            return
        assert self.loop is not None
        with contextlib.suppress(RuntimeError):  # the loop is closed: the end is about to be told, and this before it
            self.loop.call_soon_threadsafe(self._say)
        until = time.monotonic() + PATIENCE_S  # no longer: the loop's thread may itself be waiting for this one
        while self._outbox.is_full and time.monotonic() < until:
            time.sleep(PAUSE_S)

    def look(self) -> None:
        """A signal says that there may be news. Code that computes is not in the way of connecting again."""
        while self.loop is not None and not self._channel.in_use and self._channel.was_let_go():
            self._come_back()

    # -- what the selector calls --

    def about_to_select(self, timeout: float | None) -> float | None:
        """The loop has gone once through all that was ready. Returns how long it may block."""
        assert self.loop is not None
        self.loop.look_at_clocks()
        self._say()
        if self._saves and not self._ledger.is_calling:
            self._save()
            return 0
        if timeout is None or timeout > 0:
            return self._about_to_block(timeout)
        self._is_busy()
        return timeout

    def _about_to_block(self, timeout: float | None) -> float | None:
        """Nothing is left to do."""
        if self._has_new_life:
            self._has_new_life = False
            self._stand_still(self._standstill.resumed)
            return 0
        if self._should_suspend:
            self._should_suspend = False
            return self._suspend(timeout)
        if not self._ledger.has_waits:
            if self._ledger.has_alarm:
                self._ledger.set_alarm(None)
            if not self._ledger.has_moved:
                return timeout
        now = time.monotonic()
        if now < self._look_again_at:
            rest = self._look_again_at - now
            return rest if timeout is None else min(timeout, rest)
        verdict = self._look()
        if verdict.is_idle and self._ledger.has_waits:
            self._set_alarm()
        if block := self._ledger.tell(verdict.is_idle, verdict.blockers):
            self._send(block)
        self._look_again_at = 0.0 if verdict.is_idle else now + LOOK_SHARE * (time.monotonic() - now)
        self._pace.looked(verdict.is_up_to_threads)
        pauses = [pause for pause in (timeout, self._pace.pause_s) if pause is not None]
        return min(pauses, default=None)

    def is_still(self) -> bool:
        """Whether a freeze is going on: user code doesn't move."""
        return self._is_still

    def _is_busy(self) -> None:
        """The loop goes on without blocking."""
        if self._should_suspend:
            self._should_suspend = False
            self._stay_awake(["the event loop has work to do"])

    # -- inside --

    def _look(self) -> idle.Verdict:
        assert self.loop is not None
        return idle.look(self.loop)

    def _set_alarm(self) -> None:
        """Tell the engine of the loop's first timer, unless it knows."""
        assert self.loop is not None
        first = self.loop.first_timer()
        if first is None:
            self._ledger.set_alarm(None)
        elif not self._ledger.has_alarm or first != self._alarm_at:
            self._alarm_at = first
            self._ledger.set_alarm(waits.alarm(max(first - self.loop.time(), 0.0)))

    def _suspend(self, timeout: float | None) -> float | None:
        verdict = self._look()
        if not verdict.is_idle or self._ledger.has_moved or not self._ledger.has_waits:
            self._stay_awake(verdict.blockers or ["something moved since the run was idle"])
            return 0
        assert self.loop is not None
        self._listen_no_more()
        self.loop.take_clocks()
        where = idle.standing(self.loop)
        # After on_resume hooks, which turn the loop: timers that are overdue by now are user code, and come later.
        awoken = self._stand_still(lambda: self._standstill.freeze(where))
        self._listen()
        if awoken is None:
            return timeout
        self._take_up(awoken)
        return 0

    def _save(self) -> None:
        """For all who ask for it, one after the other. Tasks that are ready stand still as well, whatever hooks do."""
        assert self.loop is not None
        name, future = self._saves[0]
        if future.done():  # its task was cancelled
            del self._saves[0]
            return
        if block := self._ledger.tell(False, []):
            self._send(block)
        self._listen_no_more()
        if not self._channel.was_let_go():
            self.loop.take_clocks()
        where = idle.standing(self.loop)
        ready = self.loop.set_aside()
        try:
            awoken = self._stand_still(lambda: self._standstill.save(name, where, lambda: None))
        finally:
            self.loop.put_back(ready)
        self._listen()
        self._take_up(awoken)
        if awoken.saved or awoken.error:  # else it was not heard of, and is tried again
            del self._saves[0]
            future.set_result(awoken)

    def _stand_still(self, what: Callable[[], T]) -> T:
        self._is_still = True
        try:
            return what()
        finally:
            self._is_still = False

    def _come_back(self) -> None:
        """The supervisor has let go of us. What it says now is for the loop to hand out, wherever we are here."""
        assert self.loop is not None
        self._should_suspend = False  # whoever asked has forgotten it
        awoken = self._standstill.come_back()
        self._has_new_life |= awoken.restored
        self.loop.call_soon_threadsafe(self._caught_up, awoken)  # it wakes the loop, should it be about to block

    def _caught_up(self, awoken: Awoken) -> None:
        self._listen()
        self._take_up(awoken)

    def _take_up(self, awoken: Awoken) -> None:
        assert self.loop is not None
        self.loop.was_asleep(awoken.restored)
        self._ledger.answer(awoken.answers)
        self._dispatch(self._channel.left_over())

    def _say(self) -> None:
        if self._is_saying:
            return
        self._is_saying = True
        try:
            while (message := self._outbox.take()) is not None:
                self._put(message)
                if not self._channel.keeps(message):
                    self._outbox.has_left(message)
        finally:
            self._is_saying = False

    def _send(self, message: RunnerMessage) -> None:
        self._say()
        self._put(message)

    def _put(self, message: RunnerMessage) -> None:
        try:
            self._channel.send(message)
        except LetGo:
            self._come_back()  # which sends it

    def _stay_awake(self, reasons: list[str]) -> None:
        self._send(StayingAwake(reasons, moved=True))
        self._ledger.tell_again()

    def _listen(self) -> None:
        """To the connection that there is now."""
        assert self.loop is not None
        self._listen_no_more()
        self._listening = self._channel.fileno()
        self.loop.add_reader(self._listening, self._hear)

    def _listen_no_more(self) -> None:
        assert self.loop is not None
        if self._listening >= 0:
            self.loop.remove_reader(self._listening)
            self._listening = -1

    def _hear(self) -> None:
        try:
            messages = self._channel.received()
        except LetGo:
            self._come_back()
        else:
            self._dispatch(messages)

    def _dispatch(self, messages: list[SupervisorMessage]) -> None:
        for message in messages:
            match message:
                case Answers(answers):
                    self._ledger.answer(answers)
                case Result():
                    self._ledger.reply(message)
                case Known():
                    self._outbox.learn(message)
                case Suspend():
                    self._should_suspend = True
                case Cancel():
                    self._cancel(message)
                case _:
                    pass  # not for a run that works


class _Loop(asyncio.SelectorEventLoop):
    """A loop whose time goes on while the run is frozen."""

    _ready: deque[asyncio.Handle]

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._asleep_s = 0.0
        self._apart_s = _apart_s()
        super().__init__(selector)

    def time(self) -> float:
        return super().time() + self._asleep_s

    def look_at_clocks(self) -> None:
        """Follow a wall clock that is put right bit by bit: a leap may have been a freeze that nobody was asked for."""
        if abs((now := _apart_s()) - self._apart_s) < SLEW_S:
            self._apart_s = now

    def take_clocks(self) -> None:
        """They are right, whatever has become of the wall clock: a freeze is about to begin."""
        self._apart_s = _apart_s()

    def was_asleep(self, is_restored: bool) -> None:
        """Count the time for which this process's own clock stood still. A wall clock that was set is no sleep."""
        now = _apart_s()
        if is_restored:
            self._asleep_s += max(now - self._apart_s, 0.0)
        self._apart_s = now

    def set_aside(self) -> list[asyncio.Handle]:
        """What is ready to run, so that hooks can turn the loop without it."""
        ready = list(self._ready)
        self._ready.clear()
        return ready

    def put_back(self, ready: list[asyncio.Handle]) -> None:
        self._ready.extendleft(reversed(ready))

    def first_timer(self) -> float | None:
        """When the first timer is due, by `time()`. Those that only look after idle connections don't count."""
        scheduled: list[asyncio.TimerHandle] = getattr(self, "_scheduled", [])
        timers = sorted((timer for timer in scheduled if not timer.cancelled()), key=asyncio.TimerHandle.when)
        return next((timer.when() for timer in timers if not self._is_upkeep(timer)), None)

    def _is_upkeep(self, timer: asyncio.TimerHandle) -> bool:
        callback: Any = getattr(timer, "_callback", None)
        arguments: tuple[Any, ...] = getattr(timer, "_args", None) or ()
        owner = getattr(callback, "__self__", None)
        # A timeout of a task: from Python 3.12 on it knows its task, before that only what the task waits for.
        task = getattr(owner, "_task", None)
        if task is None and arguments and asyncio.isfuture(arguments[0]):
            task = next((each for each in asyncio.all_tasks(self) if _awaited(each) is arguments[0]), None)
        if isinstance(task, asyncio.Task):
            owner = task.get_coro()
        return owner is not None and fresh.is_upkeep(owner)


def _awaited(task: "asyncio.Task[Any]") -> Any:
    return getattr(task, "_fut_waiter", None)


def _apart_s() -> float:
    """Wall clock minus the process's own."""
    return time.time() - time.monotonic()


class _SettlingSelector(selectors.DefaultSelector):
    """The platform's selector, which says when its loop is about to block."""

    def __init__(self, door: LoopDoor) -> None:
        super().__init__()
        self._door = door

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if not self._door.is_still():  # hooks around a freeze turn the loop: what they await says nothing about the run
            timeout = self._door.about_to_select(timeout)
        return super().select(timeout)
