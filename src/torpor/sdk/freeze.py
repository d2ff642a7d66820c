"""Stand still, so that a checkpoint can be taken, and come back: from a wait, from a save point, and from any place at all.

    1. refuse      something is open that no image can hold, or that could change meanwhile: say which descriptor
    2. flush       text in Python's buffers would otherwise reach the log after the freeze
    3. park        descriptors of outside files are let go, by path and offset (descriptors.py); UDP by its peer (datagrams.py)
    4. close       `Suspending` or `SavePoint`, then the socket: no descriptor of ours is in the image
    5. sleep       in sigwait(SIGUSR1). The signal is blocked before we announce it, so it can't be lost.
                   The image is taken here. Days may pass; or the dump was given up and the signal comes at once
    6. unpark, connect, `Resumed`, `Awoken`
    7. refresh     what must not repeat or go stale (refresh.py)

All of it happens inside one blocking call of the thread that asked, so the event loop sees one consistent cut.

A save point differs in this: the run goes on, so what can't be parked is left open rather than refused. And the image may be
restored much later, after a crash, when the process that made it has long gone on: it wakes in the same `sigwait` again.

A supervisor that moves a run, or saves it by itself, asks nobody: it closes its end of the socket. Then only the last two steps
are left to do (`come_back`).
"""

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from torpor.sdk import datagrams, descriptors, refresh
from torpor.sdk.channel import Channel, LetGo
from torpor.wire.runner import Awoken, NotSaved, Resumed, SavePoint, StayingAwake, Suspending

WAKE = signal.SIGUSR1
"""What ends the sleep: sent after a restore, and after a dump that was given up."""


class Freezer:
    """How this process stands still.

    Args:
        channel: the connection to the supervisor.
        told: the run's id, and those of its open waits that the supervisor has heard of.
        environment: its variables, as they were given.
        run_directory: what is in it travels with the image.
    """

    def __init__(
        self,
        channel: Channel,
        told: Callable[[], tuple[str, list[str]]],
        environment: refresh.Environment,
        run_directory: str,
    ) -> None:
        self._channel = channel
        self._told = told
        self._environment = environment
        self._run_directory = run_directory

    def freeze(self, waiting_at: list[dict[str, Any]]) -> Awoken | None:
        """Let a checkpoint be taken. None if that is not possible: the supervisor is told why, nothing has changed."""
        with self._hands_off():
            found = self._look()
            if reasons := found.never + found.could_change:
                return self._stay_awake(StayingAwake(reasons))
            _flush()
            parked = descriptors.park(found.to_park)
            if self._channel.has_news():  # most likely an answer: then the freeze would be for nothing
                descriptors.unpark(parked)
                return self._stay_awake(StayingAwake(["an answer has just come"], moved=True))
            return self._stand_still(Suspending([file.told for file in parked], waiting_at), parked)

    def save(self, name: str, waiting_at: list[dict[str, Any]], until_nobody_reads: Callable[[], None]) -> Awoken:
        """Let a checkpoint be taken and go on. `saved` or `error` of the reply says what became of it.

        With neither of them the supervisor never heard of it: it had closed the connection just then, to freeze the run by
        itself. Then it is to be tried again.
        """
        with self._hands_off():
            found = self._look()
            if found.never:
                with contextlib.suppress(LetGo):  # it is kept, and the next to use the socket finds out
                    self._channel.send(NotSaved(name, found.never))
                return Awoken(restored=False, error="; ".join(found.never))
            _flush()
            parked = descriptors.park(found.to_park)
            told = [file.told for file in parked]
            announcement = SavePoint(name, told, found.could_change, waiting_at, self._told()[1])
            return self._stand_still(announcement, parked, until_nobody_reads)

    def come_back(self, lost: list[str] | None = None) -> Awoken:
        """Connect again and take up what has changed: in this process after a freeze, or in what was restored from it."""
        with self._hands_off():
            refresh.reseed_openssl()  # at once: whether it was restored is not known yet
            awoken = self._channel.reconnect(Resumed(*self._told(), lost or []), Awoken)
            self._environment.update(awoken.env, awoken.env_all)
            if awoken.restored:
                refresh.reseed_unseeded()
            return awoken

    def _stand_still(
        self,
        announcement: Suspending | SavePoint,
        parked: list[descriptors.Parked],
        until_nobody_reads: Callable[[], None] = lambda: None,
    ) -> Awoken:
        # It has been blocked since birth, but user code may have unblocked it. The kernel drops an unblocked signal that has
        # no handler if process 1 is to get it, though it sits in sigwait. It stays blocked: the signal is ours, and one
        # that comes late (a supervisor repeats it) must not reach a handler of user code.
        signal.pthread_sigmask(signal.SIG_BLOCK, {WAKE})
        while WAKE in signal.sigpending():  # left from an earlier, doubled one: it must not wake us now
            signal.sigwait({WAKE})
        connected = descriptors.connections({self._channel.fileno()})
        let_go = datagrams.let_go({self._channel.fileno()})
        with _timers_stopped():
            try:
                self._channel.send(announcement)
            except LetGo:
                # We were frozen without being asked: nobody knows that we would sleep.
                self._channel.withdraw(announcement)
                return self.come_back(descriptors.unpark(parked) + datagrams.connect_again(let_go))
            self._channel.shut_down()
            until_nobody_reads()
            self._channel.close()

            signal.sigwait({WAKE})

        lost = descriptors.unpark(parked) + datagrams.connect_again(let_go) + descriptors.lost_connections(connected)
        awoken = self.come_back(lost)
        if isinstance(announcement, SavePoint) and not (awoken.saved or awoken.error):
            return msgspec.structs.replace(awoken, error="the worker did not say what became of it")
        return awoken

    def _stay_awake(self, why: StayingAwake) -> None:
        with contextlib.suppress(LetGo):  # it is kept, and the next to use the socket finds out
            self._channel.send(why)

    def _look(self) -> descriptors.Findings:
        return descriptors.look(self._run_directory, {self._channel.fileno()})

    @contextlib.contextmanager
    def _hands_off(self) -> Iterator[None]:
        self._channel.in_use += 1
        try:
            yield
        finally:
            self._channel.in_use -= 1


@contextlib.contextmanager
def _timers_stopped() -> Iterator[None]:
    """Interval timers go on afterwards with the time that they had left.

    CRIU notes a process's timers and the signals that are on their way to it one after the other: the signal of a timer that
    falls due in between would be lost.
    """
    kinds = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
    stopped = [(kind, *signal.setitimer(kind, 0)) for kind in kinds]
    try:
        yield
    finally:
        for kind, left_s, interval_s in stopped:
            if left_s:
                signal.setitimer(kind, left_s, interval_s)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed or replaced by user code
            stream.flush()
