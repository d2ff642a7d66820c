"""The door of sync tasks: a wait blocks its thread, which reads the control socket itself.

There is no loop and no thread of ours to read for everybody. So among the threads that wait for something, one at a
time is the reader: it hands out what comes, and when it has its own answer another one takes over.

The run is idle when every thread is blocked in a wait, or asleep until another one wakes it (threads.py). A thread that is
at work keeps the run in memory: frozen, it would work on nothing until the wait ends. Only daemon threads are frozen along.
"""

import threading
from collections.abc import Callable
from typing import Any

import msgspec

from torpor.sdk import idle, threads
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
        cancellation.look = self._read_now
        self._turn = threading.Condition()  # guards all below, and writing to the channel
        self._has_reader = False
        self._waiting: dict[int, _Box] = {}  # threads that are blocked in a wait
        self._pace = threads.Pace()

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
                self._waiting[thread] = box
                try:
                    self._tell()
                    self._read_until(box, is_wait=True)
                finally:
                    self._waiting.pop(thread, None)
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
                self._cancellation.check(once_heard=True)  # a message that was signaled is read here
            if self._has_reader:
                self._turn.wait()
                continue
            self._has_reader = True
            try:
                self._turn.release()
                try:
                    # No thread tells us when it falls asleep.
                    message = self._channel.receive() if self._has_news() else None
                finally:
                    self._turn.acquire()
                if message is None:
                    self._tell()
                else:
                    self._dispatch([message, *self._channel.left_over()])
            finally:
                self._has_reader = False
                self._turn.notify_all()

    def _has_news(self) -> bool:
        pause_s = self._pace.pause_s
        return pause_s is None or self._channel.has_news(pause_s)

    def _read_now(self) -> None:
        """Read what has come, unless another thread is at it. In the main thread, outside of waits and calls."""
        if self._turn.acquire(blocking=False):
            try:
                if not self._has_reader and self._channel.has_news():
                    self._dispatch(self._channel.received())
            finally:
                self._turn.release()

    def _look(self) -> idle.Verdict:
        if self._ledger.is_calling or any(box.done() for box in self._waiting.values()):
            return idle.Verdict(False, [])
        busy = threads.at_work(self._waiting)
        if threading.get_ident() not in self._waiting:
            busy.append(threading.current_thread())
        return idle.Verdict(not busy, sorted(map(idle.thread_told, busy)), is_up_to_threads=bool(busy))

    def _standing(self) -> list[dict[str, Any]]:
        """Where the author's code stands, in the main thread first."""
        main = threading.main_thread()
        places: list[dict[str, Any]] = []
        for thread in sorted(threading.enumerate(), key=lambda each: (each is not main, each.name)):
            if (frame := idle.users_frame(threads.frame_of(thread))) is not None:
                places.append(idle.place("main thread" if thread is main else thread.name, frame))
        return places

    def _tell(self) -> None:
        verdict = self._look()
        self._pace.looked(verdict.is_up_to_threads)
        if block := self._ledger.tell(verdict.is_idle, verdict.blockers):
            self._channel.send(block)

    def _dispatch(self, messages: list[SupervisorMessage]) -> None:
        while messages:
            match messages.pop(0):
                case Answers(answers):
                    self._ledger.answer(answers)
                    self._pace.moved()  # another thread may go on now, and fall asleep in something else
                case Result() as result:
                    self._ledger.reply(result)
                    self._pace.moved()
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
            self._pace.moved()
            return self._channel.left_over()
        return []
