"""The warm process: imports one version of the user's code once, then forks a runner for each run, in milliseconds.

    supervisor -- Fork --> zygote -- fork --> midwife -- unshare, fork --> runner (pid 1 of its own namespaces)
                                                 | reports the runner's pid, exits: the runner becomes the supervisor's child

It is single-threaded, holds no secret (every run inherits its memory) and knows nothing of payloads. It dies with its
supervisor: the socket's EOF ends it.

Started as `python -m torpor.worker.zygote FD ROOT MODULE…`. With `--bare` it leaves the modules to each child: for a
version whose imports start threads, which a fork would lose.
"""

import ctypes
import gc
import importlib
import os
import signal
import socket
import sys
import time
import traceback

from torpor.sdk import refresh
from torpor.wire import runner as wire
from torpor.wire.framing import Unframer, frame
from torpor.worker import namespaces, runner


def main() -> None:
    bare = "--bare" in sys.argv
    fd, root, *modules = [argument for argument in sys.argv[1:] if argument != "--bare"]
    control = socket.socket(fileno=int(fd))
    control.set_inheritable(False)
    sys.path.insert(0, root)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C at the terminal is the supervisor's business
    began = time.perf_counter()
    refresh.before_user_code()
    try:
        warm_up([] if bare else modules)
    except BaseException as error:  # noqa: BLE001  (user code may raise anything, SystemExit included)
        _say(control, wire.ImportFailed(_told(error)))
        return
    if not _introduce(control, (time.perf_counter() - began) * 1000):
        return
    unframer = Unframer()
    while data := control.recv(65536):
        for body in unframer.feed(data):
            _make_runner(control, wire.to_zygote.decode(body), modules if bare else [])


def warm_up(modules: list[str]) -> None:
    """Import the user's modules, whose `@task` decorators fill the registry, and build what every run needs, so that no run
    has to.
    """
    import asyncio
    import random
    import ssl

    from torpor.sdk import session, task

    for module in modules:
        importlib.import_module(module)
    for each in task.registry().values():
        each.warm()
    _ = asyncio, random, ssl, session
    _tidy_memory()


def _tidy_memory() -> None:
    """Every run carries this memory, and every image of every run: give back what only the import needed."""
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # glibc's own
        libc.malloc_trim(0)
    gc.freeze()  # what is here stays here: the collector of a child shall not touch, and so copy, these pages


def _introduce(control: socket.socket, import_ms: float) -> bool:
    """Tell the supervisor what tasks there are. JSON schemas take megabytes to make, so a short-lived child makes them."""
    threads = _threads()
    child = os.fork() if threads == 1 else 0
    if child:
        return os.waitpid(child, 0)[1] == 0
    status = 1
    try:
        from torpor.sdk import queue, task

        manifests = [each.manifest() for each in task.registry().values()]
        queues = [each.manifest for each in queue.registry()]
        _say(control, wire.ZygoteReady(manifests, threads, import_ms, queues))
        status = 0
    except TypeError as error:  # an annotation has no JSON schema
        _say(control, wire.ImportFailed(_told(error)))
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


def _make_runner(control: socket.socket, request: wire.Fork, modules: list[str]) -> None:
    """Fork twice: the runner's parent, the midwife, is gone at once, so that the supervisor inherits the runner.

    A process can enter a new pid namespace for its children only once; that too is why each birth has its own midwife.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    midwife = os.fork()
    if midwife == 0:
        try:
            if request.isolated:
                namespaces.unshare(namespaces.CLONE_NEWPID | namespaces.CLONE_NEWIPC | namespaces.CLONE_NEWUTS)
            pid = os.fork()
        except OSError:
            traceback.print_exc()
            os._exit(1)
        if pid == 0:
            runner.main(request, modules)
        _say(control, wire.Forked(request.name, pid))
        os._exit(0)
    if os.waitpid(midwife, 0)[1] != 0:
        _say(control, wire.Forked(request.name, 0))


def _say(control: socket.socket, message: wire.ZygoteMessage) -> None:
    control.sendall(frame(wire.from_zygote.encode(message)))


def _told(error: BaseException) -> wire.TaskError:
    """The user's own traceback: without the frames of this file and of importlib above it."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [each for each in frames if each.filename != __file__ and "importlib" not in each.filename]
    lines = traceback.format_list(own) + traceback.format_exception_only(error)
    return wire.TaskError(type(error).__name__, str(error), "".join(lines).rstrip())


if __name__ == "__main__":
    main()
