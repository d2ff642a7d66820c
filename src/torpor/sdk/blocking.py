"""The door of sync tasks: a wait blocks its thread, which reads the control socket itself.

There is no loop and no thread of ours to read for everybody. So among the threads that wait for something, one at a
time is the reader: it hands out what comes, and when it has its own answer another one takes over.

The run is idle when its main thread is blocked in a wait. Other threads that are at work then are frozen along, and go
on after it: they are part of what the process holds.
"""

import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import msgspec

from torpor.sdk import idle
from torpor.sdk.canceling import Cancellation
from torpor.sdk.channel import Channel
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


class _Box:
    """A slot that a blocked thread looks into."""

    def __init__(self) -> None:
        self._is_done = False
        self.value: Any = None

    def done(self) -> bool:
        return self._is_done

    def set_result(self, result: Any, /) -> None:
        self.value, self._is_done = result, True


class BlockingDoor:
    """Waits and calls for code without an event loop.

    Args:
        freeze: stand still for a checkpoint, given where the run stands; None if that was not possible.
        cancellation: asked to end, the run's threads are told where they wait.
    """

    def __init__(
        self,
        channel: Channel,
        ledger: Ledger,
        freeze: Callable[[list[dict[str, Any]]], Awoken | None],
        cancellation: Cancellation,
    ) -> None:
        self._channel = channel
        self._ledger = ledger
        self._freeze = freeze
        self._cancellation = cancellation
        self._turn = threading.Condition()  # guards all below, and writing to the channel
        self._has_reader = False
        self._waiting: set[int] = set()  # threads that are blocked in a wait

    def wait(self, new: NewWait) -> Answer:
        """Block this thread until the wait is answered.

        Raises:
            RunCanceled: the run is to end.
        """
        box, thread = _Box(), threading.get_ident()
        self._cancellation.enter()
        try:
            with self._turn:
                self._ledger.enter(new, box)
                self._waiting.add(thread)
                try:
                    self._tell()
                    self._read_until(box, is_wait=True)
                finally:
                    self._waiting.discard(thread)
                    self._ledger.leave(new.wait_id)  # a signal handler of user code may have thrown us out
                    self._tell()
        finally:
            self._cancellation.leave()
        self._cancellation.check()
        return box.value

    def call(self, kind: str, body: bytes) -> Result:
        """Have the supervisor ask the server something.

        Raises:
            RunCanceled: the run is to end. The server has answered all the same.
        """
        box = _Box()
        self._cancellation.enter()
        try:
            with self._turn:
                call_id = self._ledger.calling(box)
                try:
                    self._channel.send(Call(call_id, kind, msgspec.Raw(body)))
                    self._read_until(box, is_wait=False)
                finally:
                    self._ledger.hang_up(call_id)
                    self._tell()  # other threads may be blocked in waits, and this call kept the run awake
        finally:
            self._cancellation.leave()
        self._cancellation.check()
        return box.value

    def _read_until(self, box: _Box, *, is_wait: bool) -> None:
        while not box.done():
            if is_wait:
                self._cancellation.check()
            if self._has_reader:
                self._turn.wait()
                continue
            self._has_reader = True
            try:
                self._turn.release()
                try:
                    message = self._channel.receive()
                finally:
                    self._turn.acquire()
                self._dispatch([message, *self._channel.left_over()])
            finally:
                self._has_reader = False
                self._turn.notify_all()

    def _look(self) -> idle.Verdict:
        main = threading.main_thread().ident
        if main in self._waiting:
            return idle.Verdict(not self._ledger.is_calling, [])
        frame = self._users_frame()
        where = f" at {idle.short_path(frame.f_code.co_filename)}:{frame.f_lineno}" if frame else ""
        return idle.Verdict(False, [f"the main thread is at work{where}"])

    def _standing(self) -> list[dict[str, Any]]:
        frame = self._users_frame()
        return [idle.place("main thread", frame)] if frame else []

    def _users_frame(self) -> FrameType | None:
        """Where the author's code stands in the main thread."""
        frame = sys._current_frames().get(threading.main_thread().ident or 0)
        while frame is not None and not idle.is_users(frame.f_code.co_filename):
            frame = frame.f_back
        return frame

    def _tell(self) -> None:
        verdict = self._look()
        if block := self._ledger.tell(verdict.is_idle, verdict.blockers):
            self._channel.send(block)

    def _dispatch(self, messages: list[SupervisorMessage]) -> None:
        while messages:
            match messages.pop(0):
                case Answers(answers):
                    self._ledger.answer(answers)
                case Result() as result:
                    self._ledger.reply(result)
                case Suspend():
                    messages += self._suspend()
                case Cancel(reason):
                    self._cancellation.ask(reason)
                case _:
                    pass  # not for a run that works

    def _suspend(self) -> list[SupervisorMessage]:
        verdict = self._look()
        if not verdict.is_idle or self._ledger.has_moved or not self._ledger.has_waits:
            reasons = verdict.blockers or ["something moved since the run was idle"]
            self._channel.send(StayingAwake(reasons, moved=True))
            self._ledger.tell_again()
        elif awoken := self._freeze(self._standing()):
            self._ledger.answer(awoken.answers)
            return self._channel.left_over()
        return []
