"""Is every asyncio task blocked in a Torpor wait, or in something that only those can wake? And if not: what isn't?

A frozen process answers nobody and works on nothing. So a run may be frozen only when nothing but an answer to one of
its waits could make it go on. For each task we look at the future that it awaits:

    our own wait                                         asleep
    another task, or a gather/shield/asyncio.wait of     asleep, if that one is (it is looked at as well)
    such things; a TaskGroup; Lock, Event, Condition,
    Semaphore, Barrier, Queue: only tasks wake these
    a thread of an executor                              asleep, if the thread is: blocked in a Torpor wait, or until
                                                         another thread wakes it (threads.py)
    asyncio.sleep, a socket, stream or subprocess, and   awake: a blocker, told in words
    any future that we don't know

What a future is, is told by the innermost frames of the coroutine chain and by the callbacks that asyncio hangs on it;
both are the same from 3.11 to 3.14, and what can't be recognised counts as awake. That errs on the safe side.

Timers that no task sleeps on (`asyncio.timeout`, `wait_for`, `call_later`) don't keep a run awake: the engine is told when
the first is due, and wakes the run (loop.py). A thread that no task awaits keeps it awake while it is at work, unless it is
a daemon.
"""

import asyncio
import gc
import linecache
import os
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import AsyncGeneratorType, CodeType, CoroutineType, FrameType, GeneratorType
from typing import Any

from torpor.sdk import threads
from torpor.wire.runner import Answer, Awoken, Result

_TORPOR = str(Path(__file__).resolve().parent.parent) + os.sep
_STDLIB = os.path.dirname(os.path.abspath(os.__file__)) + os.sep
_WOKEN_BY_TASKS = {"asyncio.locks", "asyncio.queues", "asyncio.taskgroups"}
_WOKEN_BY_TASKS_IN_ANYIO = ("TaskGroup.__aexit__", "Lock.acquire", "Semaphore.acquire")
_SUSPENDED = (CoroutineType, GeneratorType, AsyncGeneratorType)


class WaitFuture(asyncio.Future[Answer]):
    """Resolves when a Torpor wait is answered."""


class CallFuture(asyncio.Future[Result]):
    """Resolves when the server has replied to a call: soon, so it's not worth telling."""


class SaveFuture(asyncio.Future[Awoken]):
    """Resolves when a save point was made, or not: at once, but for calls that are under way."""


@dataclass(frozen=True)
class Verdict:
    """`blockers` may be empty though the run isn't idle: then it will be in a moment."""

    is_idle: bool
    blockers: list[str]
    is_up_to_threads: bool = False  # look again in a while: nobody tells when they fall asleep


@dataclass(frozen=True)
class _Scene:
    """What a look is at."""

    loop: asyncio.AbstractEventLoop
    busy: list[threading.Thread]  # at work
    told: set[threading.Thread] = field(default_factory=set[threading.Thread])  # of those, by whoever awaits them


def look(loop: asyncio.AbstractEventLoop) -> Verdict:
    """Whether the run may be frozen. To be asked when the loop has nothing left to do."""
    blockers: list[str] = []
    is_idle = True
    scene = _Scene(loop, threads.at_work())
    for task in asyncio.all_tasks(loop):
        future = getattr(task, "_fut_waiter", None)
        if isinstance(future, WaitFuture):
            continue
        if future is None or future.done() or isinstance(future, CallFuture | SaveFuture):
            is_idle = False  # it is about to run, or calls the server
            continue
        frames = _frames(task.get_coro())
        if why := _why_awake(future, frames, scene):
            is_idle = False
            blockers.append(f"task '{task.get_name()}' {why}{_where(frames)}")
    blockers += [thread_told(thread) for thread in scene.busy if thread not in scene.told]
    return Verdict(is_idle and not scene.busy, sorted(blockers), bool(scene.busy))


def standing(loop: asyncio.AbstractEventLoop) -> list[dict[str, Any]]:
    """Where each asyncio task of the author's stands, and then each of its other threads: name, file, line, source line."""
    places: list[dict[str, Any]] = []
    for task in asyncio.all_tasks(loop):
        frames = _frames(task.get_coro())
        if (index := _user_frame(frames)) is not None:
            places.append(place(task.get_name(), frames[index]))
    here = threading.current_thread()
    return sorted(places, key=lambda one: one["task"]) + threads_standing(
        each for each in _threads() if each is not here
    )


def threads_standing(some: Iterable[threading.Thread] | None = None) -> list[dict[str, Any]]:
    """The same of threads, in order: those in which there is code of the author's."""
    places: list[dict[str, Any]] = []
    for thread in _threads() if some is None else some:
        if (frame := users_frame(threads.frame_of(thread))) is not None:
            name = "main thread" if thread is threading.main_thread() else f"thread {thread.name}"
            places.append(place(name, frame))
    return places


def _threads() -> list[threading.Thread]:
    main = threading.main_thread()
    return sorted(threading.enumerate(), key=lambda each: (each is not main, each.name))


def place(name: str, frame: FrameType) -> dict[str, Any]:
    """Where a frame stands, in words for the run's story."""
    file, line = frame.f_code.co_filename, frame.f_lineno
    return {"task": name, "file": short_path(file), "line": line, "source": linecache.getline(file, line).strip()}


# -- one future -------------------------------------------------------------------------------------------------------


def _why_awake(future: Any, frames: list[FrameType], scene: _Scene) -> str | None:
    """None if only answers can bring this future about."""
    if isinstance(future, WaitFuture) or future.done():
        return None
    if isinstance(future, asyncio.Task):
        # The loop's tasks are all looked at on their own.
        return None if future.get_loop() is scene.loop else f"awaits task '{future.get_name()}' of another event loop"
    if (children := getattr(future, "_children", None)) is not None:  # asyncio.gather
        return _any_awake(children, scene)
    held = _callback_variables(future)
    if "inner" in held:  # asyncio.shield
        return _why_awake(held["inner"], [], scene)
    if "source" in held:  # an executor's future, wrapped
        return _executor(held["source"], frames, scene)
    return _by_frame(frames, scene)


def _any_awake(futures: Any, scene: _Scene) -> str | None:
    return next((why for future in futures if (why := _why_awake(future, [], scene))), None)


def _by_frame(frames: list[FrameType], scene: _Scene) -> str | None:
    """Judge by the function that awaits the future."""
    if not frames:
        return "awaits a future that only code outside of tasks can complete"
    frame = frames[-1]
    module, name = frame.f_globals.get("__name__", ""), frame.f_code.co_qualname
    if module == "asyncio.tasks":
        variables = frame.f_locals
        if name == "_wait":  # asyncio.wait
            return _any_awake(list(variables["fs"]), scene)
        if name in ("wait_for", "_cancel_and_wait"):
            return _why_awake(variables["fut"], [], scene)
    if module == "asyncio.queues" and (completing := _as_completed(frames)) is not None:
        return _any_awake(completing, scene)
    if name.endswith("run_sync_in_worker_thread") and isinstance(
        worker := frame.f_locals.get("worker"), threading.Thread
    ):
        if worker not in scene.busy:  # anyio.to_thread
            return None
        scene.told.add(worker)
    if module in _WOKEN_BY_TASKS or (module == "anyio._backends._asyncio" and name in _WOKEN_BY_TASKS_IN_ANYIO):
        return None
    return _awaits(frames)


def _as_completed(frames: list[FrameType]) -> list[Any] | None:
    """The futures behind `asyncio.as_completed`, whose queue is filled by them and not by a task.

    Before Python 3.13 they can't be reached from here. Mostly they are tasks, which are looked at on their own.
    """
    for frame in frames[:-1]:
        todo = getattr(frame.f_locals.get("self"), "_todo", None)
        if todo is not None and frame.f_globals.get("__name__") == "asyncio.tasks":
            return list(todo)
    return None


def _callback_variables(future: Any) -> dict[str, Any]:
    """What the callbacks that asyncio itself has hung on a future know: its functions are closures."""
    variables: dict[str, Any] = {}
    for callback, _ in getattr(future, "_callbacks", None) or ():
        code: CodeType | None = getattr(callback, "__code__", None)
        if code is not None and getattr(callback, "__module__", "").startswith("asyncio."):
            for name, cell in zip(code.co_freevars, callback.__closure__ or (), strict=True):
                try:
                    variables[name] = cell.cell_contents
                except ValueError:
                    continue  # an empty cell
    return variables


# -- in words ---------------------------------------------------------------------------------------------------------


def _executor(source: Any, frames: list[FrameType], scene: _Scene) -> str | None:
    """A future of concurrent.futures: asleep if the thread that performs it is, or if it is in line for such threads."""
    thread = threads.performer(source)
    if thread is not None and thread not in scene.busy:
        return None
    if thread is None and not source.done() and not threads.has_process_pool() and not scene.busy:
        return None
    if thread is not None:
        scene.told.add(thread)
    for frame in frames:
        if frame.f_globals.get("__name__") == "asyncio.threads" and frame.f_code.co_name == "to_thread":
            function = frame.f_locals.get("func")
            return f"awaits a thread of asyncio.to_thread that runs {getattr(function, '__qualname__', repr(function))}"
    return "awaits a thread or process of an executor"


def thread_told(thread: threading.Thread) -> str:
    """A thread that is at work, and where."""
    frame = users_frame(threads.frame_of(thread))
    where = f" at {short_path(frame.f_code.co_filename)}:{frame.f_lineno}" if frame else ""
    name = "the main thread" if thread is threading.main_thread() else f"thread '{thread.name}'"
    return f"{name} is at work{where}"


def users_frame(frame: FrameType | None) -> FrameType | None:
    """The innermost frame of the author's, from this one outwards."""
    while frame is not None and not is_users(frame.f_code.co_filename):
        frame = frame.f_back
    return frame


def _awaits(frames: list[FrameType]) -> str:
    """Name what user code called: the frame below its own last one."""
    place = _user_frame(frames)
    if place is None and frames:
        place = -1  # a task made of a library's coroutine itself, such as gather(asyncio.sleep(1))
    if place is None or place + 1 >= len(frames):
        return "awaits a future that only code outside of tasks can complete"
    called = frames[place + 1]
    package = called.f_globals.get("__name__", "").partition(".")[0]
    name = called.f_code.co_qualname
    return f"awaits {package}.{name}" if package and package != "__main__" else f"awaits {name}"


def _where(frames: list[FrameType]) -> str:
    place = _user_frame(frames)
    if place is None:
        return ""
    return f" at {short_path(frames[place].f_code.co_filename)}:{frames[place].f_lineno}"


def _user_frame(frames: list[FrameType]) -> int | None:
    """Index of the innermost frame that is the author's own; else the innermost that isn't Python's or ours."""
    files = [frame.f_code.co_filename for frame in frames]
    own = [index for index, file in enumerate(files) if is_users(file)]
    others = [index for index, file in enumerate(files) if not file.startswith(_TORPOR) and not _is_stdlib(file)]
    return own[-1] if own else others[-1] if others else None


def _is_stdlib(file: str) -> bool:
    return file.startswith((_STDLIB, "<frozen ")) and "-packages" not in file


def is_users(file: str) -> bool:
    """Whether a source file is the author's own: not Python's, not an installed library's, not ours."""
    return not file.startswith((_TORPOR, _STDLIB, "<frozen ")) and "-packages" not in file


def short_path(file: str) -> str:
    """A source file as its author knows it: below the folder it was imported from.

    >>> short_path("/nowhere/app.py")
    'app.py'
    """
    roots = (entry.rstrip(os.sep) + os.sep for entry in sys.path if entry)
    below = [file[len(root) :] for root in roots if file.startswith(root)]
    return min(below, key=len, default=os.path.basename(file))


# -- the chain of frames ----------------------------------------------------------------------------------------------


def _frames(coroutine: Any) -> list[FrameType]:
    """The suspended frames of a coroutine and of all that it awaits, outermost first."""
    frames: list[FrameType] = []
    while coroutine is not None and len(frames) < 1000:
        frame, inner = _step(coroutine)
        if frame is not None:
            frames.append(frame)
        coroutine = inner
    return frames


def _step(link: Any) -> tuple[FrameType | None, Any]:
    for kind, inner in (("cr", "cr_await"), ("gi", "gi_yieldfrom"), ("ag", "ag_await")):
        if hasattr(link, f"{kind}_frame"):
            return getattr(link, f"{kind}_frame"), getattr(link, inner)
    # `async for` and `__await__` of a coroutine put objects of C in between, which keep what they wrap to themselves.
    return None, next((held for held in gc.get_referents(link) if isinstance(held, _SUSPENDED)), None)
