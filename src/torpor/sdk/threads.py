"""Which of a run's threads are at work? A frozen thread works on nothing, so a run is frozen only when none is.

A thread is asleep when only another thread can wake it: it sits in a lock, event, condition, queue, `join` or
`Future.result` without a timeout. All of these end in one call of the kernel (futex) without a deadline, so we ask the
kernel where each thread is, and not its frames: those look the same a moment after it was woken. That call alone might be a
library's, which waits for threads of its own that compute; so the frames must show one of Python's own sleeping places.

Not looked at: daemon threads (Python ends them with the process, whatever they do, so they are frozen along and go on
after it), and the attendant of a process pool, which waits for its processes in another way. What `time.sleep`, a socket, a
wait with a timeout or a computation keeps busy is at work.
"""

import os
import platform
import sys
import threading
from collections.abc import Collection
from types import FrameType
from typing import Any

_FUTEX = {"x86_64": "202", "aarch64": "98"}.get(platform.machine(), "")
_SLEEPING_PLACES = {
    "/threading.py": {"wait", "join", "_wait_for_tstate_lock", "acquire", "__enter__"},
    "/concurrent/futures/thread.py": {"_worker"},
    "/queue.py": {"get", "put", "join"},
}
_SLEEPING_CALLS = {"acquire", "get", "put", "join", "wait", "__enter__"}
_ENTERING = {"BEFORE_WITH", "LOAD_SPECIAL"}
_NOT_THE_AUTHORS = {"_ExecutorManagerThread"}


FIRST_PAUSE_S = 0.02
LONGEST_PAUSE_S = 1.0


class Pace:
    """How soon to look again at threads that keep a run awake: none of them tells when it falls asleep."""

    def __init__(self) -> None:
        self.pause_s: float | None = None
        """None: no thread keeps it awake, whatever changes that is heard of."""

    def moved(self) -> None:
        """A thread was set going: look again soon."""
        self.pause_s = FIRST_PAUSE_S

    def looked(self, is_up_to_threads: bool) -> None:
        """Later each time, as long as they are at work."""
        if not is_up_to_threads:
            self.pause_s = None
        else:
            self.pause_s = FIRST_PAUSE_S if self.pause_s is None else min(self.pause_s * 2, LONGEST_PAUSE_S)


def at_work(waiting: Collection[int] = ()) -> list[threading.Thread]:
    """The threads besides this one that keep the run awake. Those in `waiting` (idents) are blocked in a Torpor wait."""
    here = threading.get_ident()
    others = [
        thread
        for thread in threading.enumerate()
        if thread.ident not in (here, *waiting) and not thread.daemon and type(thread).__name__ not in _NOT_THE_AUTHORS
    ]
    if not others:
        return []
    frames, places = sys._current_frames(), _places()
    return [thread for thread in others if not _is_asleep(thread, frames.get(thread.ident or 0), places)]


def frame_of(thread: threading.Thread) -> FrameType | None:
    """Its innermost frame."""
    return sys._current_frames().get(thread.ident or 0)


def performer(future: Any) -> threading.Thread | None:
    """The thread of a thread pool that performs what this `concurrent.futures.Future` stands for."""
    by_ident = {thread.ident: thread for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        thread: FrameType | None = frame
        while thread is not None:
            code = thread.f_code
            if code.co_name == "run" and code.co_filename.endswith("/concurrent/futures/thread.py"):
                if getattr(thread.f_locals.get("self"), "future", None) is future:
                    return by_ident.get(ident)
                break
            thread = thread.f_back
    return None


def has_process_pool() -> bool:
    """Whether futures of an executor may be those of processes."""
    return any(type(thread).__name__ in _NOT_THE_AUTHORS for thread in threading.enumerate())


def _is_asleep(thread: threading.Thread, frame: FrameType | None, places: dict[int, str]) -> bool:
    # After a fork Python still has the id that the main thread had in the parent.
    number = os.getpid() if thread is threading.main_thread() else thread.native_id
    if frame is None or number is None:
        return frame is None and number is not None  # it has ended; or is yet to begin
    try:
        with open(f"/proc/self/task/{places.get(number, number)}/syscall") as file:
            call = file.read().split()
    except OSError:
        return False  # can't tell
    # futex(word, operation, value, timeout, ...) without a timeout
    return call[:1] == [_FUTEX] and len(call) > 4 and call[4] == "0x0" and _sleeps_in_python(frame)


def _sleeps_in_python(frame: FrameType) -> bool:
    code = frame.f_code
    for file, names in _SLEEPING_PLACES.items():
        if code.co_filename.endswith(file):
            return code.co_name in names
    import dis  # seldom needed

    # A lock's methods are of C: only the instruction that called tells.
    called: str | None = None
    for instruction in dis.get_instructions(code):
        if instruction.offset > frame.f_lasti:
            break
        if instruction.opname in _ENTERING:
            called = "__enter__"
        elif instruction.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            called = str(instruction.argval)
    return called in _SLEEPING_CALLS


def _places() -> dict[int, str]:
    """Where /proc has each thread, by the id that the thread itself sees: /proc may be that of an outer pid namespace."""
    try:
        if os.readlink("/proc/self") == str(os.getpid()):
            return {}
        found: dict[int, str] = {}
        for name in os.listdir("/proc/self/task"):
            with open(f"/proc/self/task/{name}/status") as file:
                ids = next((line.split()[1:] for line in file if line.startswith("NSpid:")), [name])
            found[int(ids[-1])] = name
        return found
    except OSError:
        return {}
