"""The run was asked to end: how user code in this process learns of it, once.

    async task    its main asyncio task is cancelled: asyncio.CancelledError where it awaits
    sync task     RunCanceled, raised in the wait that blocks, or in the main thread while it computes

The request is a message on the control socket. Nobody reads that while a sync task computes, so the supervisor sends a
signal after it; its handler runs in the main thread, between two bytecodes. It doesn't raise while that thread is inside a
wait or a call of ours, which will see the message itself, nor outside of the author's code.

The signal says no more than "look at the socket". It comes as well when the supervisor has let go of it, for a freeze that
nobody was asked for: then looking means to connect again.
"""

import signal
import threading
from collections.abc import Callable
from types import FrameType

from torpor.errors import RunCanceled

INTERRUPT: int = signal.SIGRTMIN + 7 if hasattr(signal, "SIGRTMIN") else signal.SIGUSR2
"""A real-time signal, which libraries leave alone; SIGUSR1 is the wake-up call after a freeze."""


class Cancellation:
    """Whether this run was asked to end, and who has been told."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.is_delivered = False
        """User code's main thread or task has been told: whatever it does now, the run is canceled."""
        self.is_async = False
        self.look: Callable[[], None] = lambda: None
        """Looks at the socket; called in the main thread, outside of waits and calls."""
        self._is_asked = False
        self._is_signaled = False  # inside of a wait or call, which may have been about to leave
        self._is_open = False
        self._depth = 0
        self._told_threads: set[int] = set()

    def listen(self) -> None:
        """Take the signal. Only the main thread can; elsewhere (a test) only waits will notice."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(INTERRUPT, self._interrupted)

    def ask(self, reason: str | None) -> None:
        """The message has come. Twice is once."""
        self._is_asked = True
        self.reason = self.reason or reason
        main = threading.main_thread()
        if not self.is_async and threading.current_thread() is not main and main.ident is not None:
            signal.pthread_kill(main.ident, INTERRUPT)  # another thread has read it: the main thread may be computing

    def take(self) -> bool:
        """Whether the main thread or task is to be told now; from then on it has been."""
        if not (self._is_asked and self._is_open) or self.is_delivered:
            return False
        self.is_delivered = True
        return True

    def open(self) -> None:
        """The author's code begins: it may be told."""
        self._is_open = True

    def close(self) -> None:
        """The author's code has ended: too late to tell it."""
        self._is_open = False

    # -- sync tasks --

    def enter(self) -> None:
        """This thread goes into a wait or call of ours."""
        if threading.current_thread() is threading.main_thread():
            self._depth += 1

    def leave(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._depth -= 1
            if self._is_signaled and self._depth == 0:
                self._is_signaled = False
                self.look()

    def check(self) -> None:
        """Tell this thread if it has not been told yet.

        Raises:
            RunCanceled: it is to end.
        """
        if threading.current_thread() is threading.main_thread():
            if self.take():
                raise self._error()
        elif self._is_asked and self._is_open and threading.get_ident() not in self._told_threads:
            self._told_threads.add(threading.get_ident())
            raise self._error()

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        """The signal's handler."""
        if self._depth > 0:
            self._is_signaled = True
            return
        self.look()
        # Code of an async task that never awaits can't be told: its event loop does it.
        if not self.is_async and self.take():
            raise self._error()

    def _error(self) -> RunCanceled:
        return RunCanceled(self.reason)
