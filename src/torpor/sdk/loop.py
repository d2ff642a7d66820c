"""The door of async tasks: waits and calls are futures, and the event loop tells us when it is about to block.

That moment is the one where a run may be idle: every callback has run, and nothing happens until a descriptor or a timer
does something. asyncio has no hook for it, but it asks its selector then, and the selector may be ours.

Timers of the loop count wall time, also that in which the run was frozen: `time()` is moved on by it after each restore.
And when the run is idle the engine is told when the first timer is due, the *alarm*, a wait of our own: so a run that is
frozen in `asyncio.timeout(3600)` comes back after an hour. The alarm is told anew when it changes, and dropped with the
last wait.
"""

import asyncio
import selectors
import time
from collections.abc import Callable
from typing import Any

import msgspec

from torpor.sdk import idle, threads, waits
from torpor.sdk.channel import Channel
from torpor.sdk.idle import CallFuture, WaitFuture
from torpor.sdk.ledger import Ledger
from torpor.wire.runner import (
    Answer,
    Answers,
    Awoken,
    Call,
    Cancel,
    NewWait,
    Result,
    StayingAwake,
    SupervisorMessage,
    Suspend,
)

LOOK_SHARE = 10
"""While a run is kept awake we look again after this many times what looking took, so it costs a tenth at most."""


class LoopDoor:
    """Everything here runs in the loop's own thread.

    Args:
        freeze: stand still for a checkpoint, given where the run stands; None if that was not possible.
        cancel: have the run's main task end.
    """

    def __init__(
        self,
        channel: Channel,
        ledger: Ledger,
        freeze: Callable[[list[dict[str, Any]]], Awoken | None],
        cancel: Callable[[Cancel], None],
    ) -> None:
        self.loop: _Loop | None = None
        self._channel = channel
        self._ledger = ledger
        self._freeze = freeze
        self._cancel = cancel
        self._should_suspend = False
        self._is_still = False
        self._look_again_at = 0.0
        self._alarm_at = 0.0  # by the loop's time
        self._pace = threads.Pace()

    def make_loop(self) -> asyncio.AbstractEventLoop:
        """The run's event loop. Not uvloop: its io_uring can't be in an image."""
        self.loop = _Loop(_SettlingSelector(self))
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
        future = CallFuture(loop=self.loop)
        call_id = self._ledger.calling(future)
        try:
            self._channel.send(Call(call_id, kind, msgspec.Raw(body)))
            return await future
        finally:
            self._ledger.hang_up(call_id)

    # -- what the selector calls --

    def about_to_block(self, timeout: float | None) -> float | None:
        """Nothing is left to do. Returns how long the loop may block."""
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
            self._channel.send(block)
        self._look_again_at = 0.0 if verdict.is_idle else now + LOOK_SHARE * (time.monotonic() - now)
        self._pace.looked(verdict.is_up_to_threads)
        pauses = [pause for pause in (timeout, self._pace.pause_s) if pause is not None]
        return min(pauses, default=None)

    def is_still(self) -> bool:
        """Whether a freeze is going on: user code doesn't move."""
        return self._is_still

    def is_busy(self) -> None:
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
        self.loop.remove_reader(self._channel.fileno())
        wall, counted = time.time(), time.monotonic()
        self._is_still = True
        try:
            awoken = self._freeze(idle.standing(self.loop))
        finally:
            self._is_still = False
        # After on_resume hooks, which turn the loop: timers that are overdue by now are user code, and come later.
        if awoken is not None and awoken.restored:
            self.loop.was_asleep((time.time() - wall) - (time.monotonic() - counted))
        self._listen()
        if awoken is None:
            return timeout
        self._ledger.answer(awoken.answers)
        self._dispatch(self._channel.left_over())
        return 0

    def _stay_awake(self, reasons: list[str]) -> None:
        self._channel.send(StayingAwake(reasons, moved=True))
        self._ledger.tell_again()

    def _listen(self) -> None:
        assert self.loop is not None
        self.loop.add_reader(self._channel.fileno(), lambda: self._dispatch(self._channel.received()))

    def _dispatch(self, messages: list[SupervisorMessage]) -> None:
        for message in messages:
            match message:
                case Answers(answers):
                    self._ledger.answer(answers)
                case Result():
                    self._ledger.reply(message)
                case Suspend():
                    self._should_suspend = True
                case Cancel():
                    self._cancel(message)
                case _:
                    pass  # not for a run that works


class _Loop(asyncio.SelectorEventLoop):
    """A loop whose time goes on while the run is frozen."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._asleep_s = 0.0
        super().__init__(selector)

    def time(self) -> float:
        return super().time() + self._asleep_s

    def was_asleep(self, seconds: float) -> None:
        """The process's own clock stood still for so long. A wall clock that was set back counts for nothing."""
        self._asleep_s += max(seconds, 0.0)

    def first_timer(self) -> float | None:
        """When the first timer is due, by `time()`."""
        scheduled: list[asyncio.TimerHandle] = getattr(self, "_scheduled", [])
        return min((timer.when() for timer in scheduled if not timer.cancelled()), default=None)


class _SettlingSelector(selectors.DefaultSelector):
    """The platform's selector, which says when its loop is about to block."""

    def __init__(self, door: LoopDoor) -> None:
        super().__init__()
        self._door = door

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self._door.is_still():
            pass  # hooks around a freeze turn the loop: what they await says nothing about the run
        elif timeout is None or timeout > 0:
            timeout = self._door.about_to_block(timeout)
        else:
            self._door.is_busy()
        return super().select(timeout)
