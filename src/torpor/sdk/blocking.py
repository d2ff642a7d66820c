"""The door of sync tasks: a wait blocks its thread, which reads the control socket itself.

There is no loop and no thread of ours to read for everybody. So among the threads that wait for something, one at a
time is the reader: it hands out what comes, and when it has its own answer another one takes over.

The run is idle when every thread is blocked in a wait, or asleep until another one wakes it (threads.py). A thread that is
at work keeps the run in memory: frozen, it would work on nothing until the wait ends. Only daemon threads are frozen along.

When the supervisor lets go of the connection, the reader opens it again, or whoever wants to send when there is none. For a
save point the reader is sent away first: a socket isn't closed as long as a thread reads from it.
"""

import threading
from typing import Any

import msgspec

from torpor.sdk import idle, threads
from torpor.sdk.canceling import Cancellation
from torpor.sdk.channel import Channel, LetGo
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

HANDLER_PATIENCE_S = 0.5
"""How long a signal's handler waits for a thread that sends something."""


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
        standstill: what is done while nothing of the run moves.
        cancellation: asked to end, the run's threads are told where they wait.
    """

    def __init__(
        self,
        channel: Channel,
        ledger: Ledger,
        outbox: Outbox,
        standstill: Standstill,
        cancellation: Cancellation,
    ) -> None:
        self._channel = channel
        self._ledger = ledger
        self._outbox = outbox
        self._is_saying = False
        self._is_receiving = False  # the reader, just now
        self._standstill = standstill
        self._cancellation = cancellation
        cancellation.look = self._read_now
        self._turn = threading.Condition()  # guards all below, and writing to the channel
        self._reader: int | None = None  # the thread that reads
        self._is_saving = False  # calls have to wait
        self._is_shut = False  # nobody may read, or connect again
        self._has_new_life = False  # restored, and hooks are yet to be called
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
                    self._call_hooks()
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
                self._call_hooks()
                while (
                    self._is_saving
                ):  # its reply would come to a process that a restore of that save point knows nothing of
                    self._turn.wait()
                call_id = self._ledger.calling(box)
                try:
                    self._send(Call(call_id, kind, msgspec.Raw(body)))
                    self._read_until(box, is_wait=False)
                finally:
                    self._ledger.hang_up(call_id)
                    self._tell()  # other threads may be blocked in waits, and this call kept the run awake
        finally:
            self._cancellation.leave()
        self._cancellation.check()
        return box.value

    def say(self) -> None:
        """Send what is in the outbox, and take in what has come meanwhile: code that computes reads at no other time.

        Raises:
            RunCanceled: the run is to end. What was to be said is said all the same.
        """
        self._cancellation.enter()
        try:
            # A thread that keeps its turn for long takes the rest along.
            if self._turn.acquire(timeout=HANDLER_PATIENCE_S):
                try:
                    self._say()
                finally:
                    self._turn.release()
                self._read_now()
        finally:
            self._cancellation.leave()
        self._cancellation.check()

    def save(self, name: str) -> Awoken:
        """Have a checkpoint taken, and go on. Other threads stand still wherever they are.

        Raises:
            RunCanceled: the run is to end.
        """
        self._cancellation.enter()
        try:
            with self._turn:
                while self._is_saving:
                    self._turn.wait()
                self._is_saving = True
                try:
                    awoken = self._save(name)
                finally:
                    self._is_saving = False
                    self._turn.notify_all()
        finally:
            self._cancellation.leave()
        self._cancellation.check()
        return awoken

    def _save(self, name: str) -> Awoken:
        while True:
            while self._ledger.is_calling:
                self._read_once()
            if block := self._ledger.tell(False, []):
                self._send(block)
            self._is_shut = True
            try:
                awoken = self._standstill.save(name, idle.threads_standing(), self._until_nobody_reads)
            finally:
                self._is_shut = False
            self._take_up(awoken)
            if awoken.saved or awoken.error:  # else it was not heard of
                return awoken

    def _until_nobody_reads(self) -> None:
        while self._reader not in (None, threading.get_ident()):
            self._turn.wait()

    def _read_until(self, box: _Box, *, is_wait: bool) -> None:
        while not box.done():
            if is_wait:
                self._cancellation.check()
            self._read_once()

    def _read_once(self) -> None:
        """Read and hand out what comes, or let another thread do it. May return for no reason."""
        if self._is_shut or self._reader is not None:
            self._turn.wait()
            return
        self._reader = threading.get_ident()
        try:
            self._turn.release()
            try:
                # No thread tells us when it falls asleep.
                self._is_receiving = True
                message = self._channel.receive() if self._has_news() else None
            finally:
                self._is_receiving = False
                self._turn.acquire()
            if message is None:
                self._tell()
            else:
                self._dispatch([message, *self._channel.left_over()])
        except LetGo:
            if not self._is_shut:
                self._come_back()
                self._tell()
        finally:
            self._reader = None
            self._turn.notify_all()

    def _has_news(self) -> bool:
        pause_s = self._pace.pause_s
        return pause_s is None or self._channel.has_news(pause_s)

    def _read_now(self) -> None:
        """Read what has come, unless another thread is at it. Outside of waits and calls."""
        if self._turn.acquire(timeout=HANDLER_PATIENCE_S):
            try:
                while self._reader is None and not self._is_shut and self._channel.has_news():  # twice in a row
                    self._reader = threading.get_ident()
                    try:
                        self._is_receiving = True
                        try:
                            messages = self._channel.received()
                        finally:
                            self._is_receiving = False
                        self._dispatch(messages)
                    except LetGo:
                        self._come_back()
                    finally:
                        self._reader = None
                        self._turn.notify_all()
            finally:
                self._turn.release()

    def _say(self) -> None:
        if self._is_saying or (self._is_receiving and self._reader == threading.get_ident()):
            return  # a signal's handler, in the middle of sending or receiving: it is sent with what comes next
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
            if self._reader in (None, threading.get_ident()) and not self._is_shut:
                self._come_back()  # which sends it
            # Else the reader finds it out as well, or whoever has shut it connects again.

    def _come_back(self) -> None:
        """The supervisor has let go of us."""
        awoken = self._standstill.come_back()
        self._has_new_life |= awoken.restored
        self._take_up(awoken)

    def _take_up(self, awoken: Awoken) -> None:
        self._ledger.answer(awoken.answers)
        self._pace.moved()
        self._turn.notify_all()
        self._dispatch(self._channel.left_over())

    def _call_hooks(self) -> None:
        """After a restore in the middle of anything this is the first place where the author's code may be called."""
        if self._has_new_life and threading.current_thread() is threading.main_thread():
            self._has_new_life = False
            self._standstill.resumed()

    def _look(self) -> idle.Verdict:
        if self._ledger.is_calling:
            return idle.Verdict(False, [])
        if any(box.done() for box in self._waiting.values()):
            # Its thread is about to go on, and to fall asleep in something else: whoever reads must look again by itself.
            return idle.Verdict(False, [], is_up_to_threads=True)
        busy = threads.at_work(self._waiting)
        if threading.get_ident() not in self._waiting:
            busy.append(threading.current_thread())
        return idle.Verdict(not busy, sorted(map(idle.thread_told, busy)), is_up_to_threads=bool(busy))

    def _tell(self) -> None:
        self._say()
        verdict = self._look()
        self._pace.looked(verdict.is_up_to_threads)
        if block := self._ledger.tell(verdict.is_idle, verdict.blockers):
            self._send(block)

    def _dispatch(self, messages: list[SupervisorMessage]) -> None:
        while messages:
            match messages.pop(0):
                case Answers(answers):
                    self._ledger.answer(answers)
                    self._pace.moved()  # another thread may go on now, and fall asleep in something else
                case Result() as result:
                    self._ledger.reply(result)
                    self._pace.moved()
                case Known() as known:
                    self._outbox.learn(known)
                case Suspend():
                    self._suspend()
                    messages += self._channel.left_over()
                case Cancel(reason):
                    self._cancellation.ask(reason)
                case _:
                    pass  # not for a run that works

    def _suspend(self) -> None:
        verdict = self._look()
        if not verdict.is_idle or self._ledger.has_moved or not self._ledger.has_waits:
            reasons = verdict.blockers or ["something moved since the run was idle"]
            self._send(StayingAwake(reasons, moved=True))
            self._ledger.tell_again()
        elif awoken := self._standstill.freeze(idle.threads_standing()):
            self._ledger.answer(awoken.answers)
            self._pace.moved()
