"""The process that forks a runner for each run, in milliseconds; as a rule it has imported the version of the user's code.

    supervisor -- Fork --> zygote -- fork --> midwife -- unshare, fork --> runner (pid 1 of its own namespaces)
                                                 | reports the runner's pid, exits: the runner becomes the supervisor's child

It is single-threaded, holds no secret (every run inherits its memory) and knows nothing of payloads. It dies with its
supervisor: the socket's EOF ends it.

Its arguments are FD ROOT MODULE…. With `--bare` it leaves the modules to each child: for code that must not run with its
privileges, and for a version whose imports start threads, which a fork would lose.
"""

import os
import signal
import socket
import sys
import traceback

from torpor.wire import runner as wire
from torpor.wire.framing import Unframer, frame
from torpor.worker import importing, namespaces, runner

BARE = "--bare"


def main() -> None:
    is_bare = BARE in sys.argv
    fd, root, *modules = [argument for argument in sys.argv[1:] if argument != BARE]
    source = importing.Source(root, modules)
    control = socket.socket(fileno=int(fd))
    control.set_inheritable(False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C at the terminal is the supervisor's business
    importing.get_ready()
    if is_bare:
        _say(control, wire.ZygoteReady())
    else:
        try:
            import_ms = importing.import_version(source)
        except BaseException as error:  # noqa: BLE001  (user code may raise anything, SystemExit included)
            _say(control, wire.ImportFailed(importing.told(error)))
            return
        if not importing.tell(lambda message: _say(control, message), import_ms):
            return
    unframer = Unframer()
    while data := control.recv(65536):
        for body in unframer.feed(data):
            _make_runner(control, wire.to_zygote.decode(body), source if is_bare else None)


def _make_runner(control: socket.socket, request: wire.Fork, source: importing.Source | None) -> None:
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
            runner.main(request, source)
        _say(control, wire.Forked(request.name, pid))
        os._exit(0)
    if os.waitpid(midwife, 0)[1] != 0:
        _say(control, wire.Forked(request.name, 0))


def _say(control: socket.socket, message: wire.ZygoteMessage) -> None:
    control.sendall(frame(wire.from_zygote.encode(message)))


if __name__ == "__main__":
    main()
