"""The forked child: takes its place in its own directory, waits for a run, makes one attempt at it, and exits.

One that is `parked` sleeps before it asks for a run, and is frozen there: its image is the warm image of the version. Whoever
is restored from it wakes in the same place, knows its directory by the same path (in mounts of its own), and goes on as if
it had just been forked.

A runner of a bare zygote imports the version itself, in its place: none of the user's code has run before in this process.

It never returns to the zygote's code: whatever happens, it ends in `os._exit`, and how it ends is what the supervisor reads.
"""

import contextlib
import os
import signal
import socket
import sys
import traceback
from typing import NoReturn

from torpor.sdk import refresh
from torpor.sdk.channel import Channel
from torpor.wire import runner as wire
from torpor.wire.framing import frame
from torpor.worker import importing, namespaces, privileges, seccomp

LOST_SUPERVISOR = 70
"""Exit status: the control socket closed though no freeze was going on. The run is taken back from its lease."""


def main(request: wire.Fork, source: importing.Source | None) -> NoReturn:
    """Be a runner, then exit.

    Args:
        source: what it imports for itself; None: its zygote has.
    """
    status = 1
    try:
        _settle(request)
        if source is None or _import(request, source):
            if request.parked:
                _park(request)
            _attempt(request)
            status = 0
    except BaseException:  # noqa: BLE001  (there is nobody above us: the output is the only place left to tell it)
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _settle(request: wire.Fork) -> None:
    """Take our own session, directory, output and signals; leave nothing of the zygote's that a run shouldn't have."""
    from setproctitle import setproctitle

    os.setsid()  # CRIU wants the session's leader inside of the tree
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})  # the wake-up call: only ever taken by sigwait
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Pid 1 of a namespace ignores signals that it has no handler for; SIGTERM is to end it all the same.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
    output = os.open(f"{request.directory}/output.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.closerange(3, os.sysconf("SC_OPEN_MAX") if os.sysconf("SC_OPEN_MAX") < 65536 else 65536)
    if request.room is not None:
        _enter(request.room)
    else:
        os.chdir(f"{request.directory}/work")
        os.environ["TMPDIR"] = f"{request.directory}/tmp"
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError):
            stream.reconfigure(line_buffering=True)  # pyright: ignore[reportAttributeAccessIssue]
    if request.isolated and request.room is None:
        seccomp.refuse_io_uring()
    setproctitle("torpor spare: a process that waits for a run")
    # A fork has its parent's generators: without this every run of a version would draw the same numbers.
    refresh.reseed_all()
    _let_go_of_the_old_place()


def _enter(room: wire.RoomOrder) -> None:
    """Leave the machine for the room. There is no way back: from here on we are nobody, and see nothing else.

    We are pid 1 of our namespace, so the /proc that we mount is that of our pids.
    """
    for processes in room.cgroups:
        with open(processes, "w") as file:
            file.write("0")
    if room.network is not None:
        namespaces.join_file(room.network)
    flags = namespaces.MS_NOSUID | namespaces.MS_NODEV | namespaces.MS_NOEXEC
    namespaces.mount("proc", f"{room.root}/proc", "proc", flags)
    os.chroot(room.root)
    os.chdir(f"{room.own}/work")
    os.umask(0o002)  # all runs have one group: so they can share what they write outside of their rooms
    os.environ.update(room.environment)
    privileges.limit(room.limits)
    privileges.become(room.uid, room.gid)
    seccomp.refuse_dangerous()


def _import(request: wire.Fork, source: importing.Source) -> bool:
    """Import the version; false: it can't be imported, and whoever asked for it was told."""
    place = {"TMPDIR": os.environ["TMPDIR"]} if request.room is None else request.room.environment
    try:
        import_ms = importing.import_here(source, request.environment, place)
    except BaseException as error:
        if not request.tells:
            raise
        _tell(request, wire.ImportFailed(importing.told(error)))
        return False
    return not request.tells or importing.tell(lambda message: _tell(request, message), import_ms)


def _tell(request: wire.Fork, message: wire.RunnerMessage) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(_control_socket(request))
        connection.sendall(frame(wire.from_runner.encode(message)))
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)  # the supervisor has let go: it takes no second connection while it has this one


def _park(request: wire.Fork) -> None:
    """Sleep, with nothing of the supervisor's in our descriptors, until we are woken: as one of many, on any machine.

    Hash seeds stay equal in all of them, as in all forks of one zygote.
    """
    channel = Channel(_control_socket(request))
    channel.send(wire.Hello(request.name))
    channel.close()
    signal.sigwait({signal.SIGUSR1})
    refresh.reseed_all()


def _control_socket(request: wire.Fork) -> str:
    return f"{request.directory if request.room is None else request.room.own}/ctl.sock"


def _let_go_of_the_old_place() -> None:
    """`tempfile` looks at TMPDIR once: what the import has found there is the zygote's, not ours."""
    if tempfile := sys.modules.get("tempfile"):
        tempfile.tempdir = None  # pyright: ignore[reportAttributeAccessIssue]


def _attempt(request: wire.Fork) -> None:
    from torpor.sdk import task
    from torpor.sdk.session import Session, name_process

    session = Session.open(_control_socket(request), request.name)
    asked = session.begin.context.task_id
    name_process(session.begin.context)
    found = task.registry().get(asked)
    if found is None:
        message = f"version {session.begin.context.version} has no task {asked!r}"
        session.finish(wire.Finished(False, error=wire.TaskError("TaskNotFound", message), retryable=False))
        return
    session.finish(session.perform(found))
