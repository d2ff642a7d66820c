"""Import a version of the user's code, and say what is in it: in the zygote, or in a runner that imports for itself.

Where it happens decides what this code may do. The zygote has the worker's privileges. A runner has entered its room, so what
it imports, the code that packages run at start-up included, can do no more than a run can.
"""

import ctypes
import gc
import importlib
import linecache
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torpor.sdk import refresh
from torpor.wire.runner import Imported, ImportFailed, TaskError

Say = Callable[[Imported | ImportFailed], None]
MAX_SOURCE_BYTES = 4 << 20
"""So much of the author's text is kept for tracebacks, which is a hundred thousand lines."""


@dataclass(frozen=True)
class Source:
    """Where a version's modules are: `root` goes on sys.path."""

    root: str
    modules: list[str]


def get_ready() -> None:
    """Before user code: note how things are, and import what every run needs, so that no run has to."""
    import asyncio
    import random
    import ssl

    from torpor.sdk import session, task

    _ = asyncio, random, ssl, session, task
    refresh.before_user_code()


def import_version(source: Source) -> float:
    """Import its modules, whose `@task` decorators fill the registry; return how many milliseconds that took. We are ready.

    Raises:
        BaseException: user code may raise anything, SystemExit included.
    """
    from torpor.sdk import task

    began = time.perf_counter()
    sys.path.insert(0, source.root)
    for module in source.modules:
        importlib.import_module(module)
    for each in task.registry().values():
        each.warm()
    _keep_lines()
    _tidy_memory()
    return (time.perf_counter() - began) * 1000


def import_here(source: Source, environment: Mapping[str, str] | None, place: Mapping[str, str]) -> float:
    """As `import_version`, in a process of a bare zygote: its packages and variables are those of user code from now on.

    Args:
        environment: the variables of user code, if they aren't those of the zygote.
        place: those that come from where this process is, and stay.

    Raises:
        PermissionError: it is foreign code, and this process could do harm. It is in no room, so that is a fault of ours.
    """
    if sys.flags.no_site and os.geteuid() == 0:
        raise PermissionError("foreign code is not imported by root")
    if environment is not None:
        os.environ.clear()
        os.environ.update(environment)
        refresh.before_user_code()  # with nothing of our place in it: that isn't the worker's to change
        os.environ.update(place)
        if hasattr(time, "tzset"):
            time.tzset()
    if sys.flags.no_site:
        _open_packages()
    return import_version(source)


def _open_packages() -> None:
    """Find modules as any Python would, and run the start-up code of site-packages, which a bare zygote was started without."""
    import site

    site.main()
    for entry in reversed(os.environ.get("PYTHONPATH", "").split(os.pathsep)):
        if entry:
            sys.path.insert(0, entry)


def _keep_lines() -> None:
    """Read the author's own modules, for tracebacks of runs and for where they stand.

    A run is nobody, who may be kept from reading what was imported; and it may come back when its version's files have long
    become another's.
    """
    from torpor.sdk.idle import is_users

    left = MAX_SOURCE_BYTES
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and file.endswith(".py") and is_users(file):
            lines = linecache.getlines(file)
            if (left := left - sum(map(len, lines))) < 0:
                return
            if lines:
                linecache.cache[file] = (len(lines), None, lines, file)  # without a time, it isn't looked at again


def _tidy_memory() -> None:
    """Every run carries this memory, and every image of every run: give back what only the import needed."""
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # glibc's own
        libc.malloc_trim(0)
    gc.freeze()  # what is here stays here: the collector of a child shall not touch, and so copy, these pages


def tell(say: Say, import_ms: float) -> bool:
    """Say what tasks there are; false: they can't be told, which was said instead. JSON schemas take megabytes to make, so a
    short-lived child makes them.
    """
    threads = _threads()
    child = os.fork() if threads == 1 else 0
    if child:
        return os.waitpid(child, 0)[1] == 0
    status = 1
    try:
        from torpor.sdk import queue, task

        manifests = [each.manifest() for each in task.registry().values()]
        queues = [each.manifest for each in queue.registry()]
        say(Imported(manifests, threads, import_ms, queues))
        status = 0
    except Exception as error:  # noqa: BLE001 - an annotation without a JSON schema, or one that user code makes itself
        say(ImportFailed(told(error)))
    finally:
        if threads == 1:
            os._exit(status)
    return status == 0


def _threads() -> int:
    """How many threads run here; without /proc only Python's own can be counted."""
    if os.path.isdir("/proc/self/task"):
        return len(os.listdir("/proc/self/task"))
    import threading

    return threading.active_count()


def told(error: BaseException) -> TaskError:
    """The user's own traceback: without the frames of ours and of importlib above it."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = os.path.dirname(__file__) + os.sep
    own = [each for each in frames if not each.filename.startswith(ours) and "importlib" not in each.filename]
    lines = traceback.format_list(own) + traceback.format_exception_only(error)
    return TaskError(type(error).__name__, str(error), "".join(lines).rstrip())
