"""A version's zygote, seen from the supervisor: started, asked for forks, ended."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping

from torpor.errors import TorporError
from torpor.wire import runner as wire
from torpor.wire.framing import Unframer, frame
from torpor.worker.discovery import Project
from torpor.worker.trust import Trust, bare_command, environment_of_bare_zygote
from torpor.worker.zygote import BARE

FORK_TIMEOUT_S = 10.0


class ImportFailed(TorporError):
    """The user's modules can't be imported; `.error` has their own traceback."""

    def __init__(self, error: wire.TaskError) -> None:
        super().__init__(f"{error.name}: {error.message}")
        self.error = error


class ZygoteDied(TorporError):
    """The zygote is gone; it will be started again for the next run."""


class NotForked(ZygoteDied):
    """It was asked for a runner and has not said that there is one. There may be one all the same, in the place that it was
    given: nobody else may be born there.
    """


class Zygote:
    """The zygote of one version, running or not.

    Args:
        project: where the code is and which modules hold tasks.
        trust: under `foreign` it is only ever started bare, and finds nothing of the user's.
        environment: the variables of user code.
        own_environment: those of them that are the worker's own: a bare zygote of foreign code has no others.
        import_timeout_s: how long an import may take.
    """

    def __init__(
        self,
        project: Project,
        trust: Trust,
        environment: Mapping[str, str],
        own_environment: Mapping[str, str],
        *,
        import_timeout_s: float,
    ) -> None:
        self._project = project
        self._trust = trust
        self._environment = environment
        self._own_environment = own_environment
        self._import_timeout_s = import_timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._inbox: list[bytes] = []
        self._unframer = Unframer()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def is_up(self) -> bool:
        """As far as is known: whether it still lives is found out when it is asked."""
        return self._control is not None

    async def start(self) -> wire.Imported:
        """Have it import the version; its forks are runners.

        Raises:
            ImportFailed: the user's code does not import.
            ZygoteDied: the process died or hung while importing.
        """
        assert self._trust is Trust.OWN, "foreign code is never imported with privileges"
        match await self._launch(self._ordinary_command(), self._environment, self._import_timeout_s):
            case wire.Imported() as imported:
                return imported
            case wire.ImportFailed(error):
                self.stop()
                raise ImportFailed(error)
            case other:
                raise self._misunderstood(other)

    async def start_bare(self) -> None:
        """Have it import nothing of the user's; its forks do that, each for itself.

        Raises:
            ZygoteDied: it could not be started.
        """
        if self._trust is Trust.FOREIGN:
            command = bare_command(self._arguments(BARE))
            environment = environment_of_bare_zygote(self._own_environment)
        else:
            command, environment = self._ordinary_command(BARE), self._environment
        reply = await self._launch(command, environment, FORK_TIMEOUT_S)
        if not isinstance(reply, wire.ZygoteReady):
            raise self._misunderstood(reply)

    async def fork(self, request: wire.Fork) -> int:
        """The runner's pid.

        Raises:
            NotForked: there is none, as far as is known.
        """
        try:
            reply = await self._ask(request)
            while isinstance(reply, wire.Forked) and reply.name != request.name:
                _end(reply.pid)  # that was the answer to somebody who no longer waited for it
                reply = await self._reply(FORK_TIMEOUT_S)
        except ZygoteDied as error:
            raise NotForked(str(error)) from None
        if isinstance(reply, wire.Forked) and reply.pid > 0:
            return reply.pid
        self.stop()
        raise NotForked(f"the zygote of version {self._project.version} could not fork")

    def stop(self) -> None:
        """End it. Its runners aren't its children any more."""
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None
        self._unframer = Unframer()
        self._inbox.clear()

    # -- its process --------------------------------------------------------------------------------------------------

    def _ordinary_command(self, *options: str) -> list[str]:
        return [sys.executable, "-m", "torpor.worker.zygote", *self._arguments(*options)]

    def _arguments(self, *options: str) -> list[str]:
        return [*options, "FD", str(self._project.root), *self._project.modules]

    async def _launch(self, command: list[str], environment: Mapping[str, str], timeout_s: float) -> wire.ZygoteMessage:
        self.stop()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            self._process = subprocess.Popen(
                [str(theirs.fileno()) if each == "FD" else each for each in command],
                pass_fds=[theirs.fileno()],
                cwd=self._project.root if self._trust is Trust.OWN else "/",
                stdin=subprocess.DEVNULL,
                env=dict(environment),
            )
        self._control = ours
        try:
            return await self._reply(timeout_s)
        except asyncio.CancelledError:
            self.stop()  # what it says would be taken for the answer to something else
            raise

    async def _ask(self, request: wire.Fork) -> wire.ZygoteMessage:
        assert self._control is not None
        try:
            await asyncio.get_running_loop().sock_sendall(self._control, frame(wire.to_zygote.encode(request)))
        except OSError:
            raise self._gone("is gone") from None
        except asyncio.CancelledError:
            self.stop()  # it has a part of the request
            raise
        return await self._reply(FORK_TIMEOUT_S)

    async def _reply(self, timeout_s: float) -> wire.ZygoteMessage:
        assert self._control is not None
        try:
            async with asyncio.timeout(timeout_s):
                while not self._inbox:
                    data = await asyncio.get_running_loop().sock_recv(self._control, 65536)
                    if not data:
                        raise ConnectionResetError
                    self._inbox += self._unframer.feed(data)
        except TimeoutError:
            raise self._gone(f"did not answer within {timeout_s:.0f} s") from None
        except OSError:
            raise self._gone("died") from None
        return wire.from_zygote.decode(self._inbox.pop(0))

    def _misunderstood(self, said: wire.ZygoteMessage) -> ZygoteDied:
        return self._gone(f"said {type(said).__name__} instead of being ready")

    def _gone(self, how: str) -> ZygoteDied:
        self.stop()
        return ZygoteDied(f"the zygote of version {self._project.version} {how}")


def _end(pid: int) -> None:
    if pid > 0:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
