"""A run's process, seen from the supervisor: its directory, its control socket, its pid, its end.

Whoever made it, a fork or a restore, it is the same: we listen, it connects, it talks, and some day it ends. All that it
says and that happens to it arrives in one inbox, in order.
"""

import asyncio
import logging
import os
import shutil
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from torpor.wire import runner
from torpor.wire.framing import FramingError, Unframer, frame
from torpor.worker import files

log = logging.getLogger(__name__)

FIRST_WORDS_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Closed:
    """The process has let go of its connection, or lost it."""


@dataclass(frozen=True)
class Exited:
    """The process has ended, with this wait status."""

    status: int

    def __str__(self) -> str:
        code = os.waitstatus_to_exitcode(self.status)
        if code < 0:
            return f"the run's process was killed by signal {-code} ({signal.Signals(-code).name})"
        return f"the run's process ended with exit status {code} before the task was done"


class RunProcess:
    """A process in its directory.

    Args:
        directory: its own: `ctl.sock`, `output.log`, `work/` (its working directory), `tmp/`. The name must be unique among
            all runs, for an image that names it is restored into the same path.

    Attributes:
        inbox: what it says, and `Closed` and `Exited`. Its keeper may put in messages of its own.
        exited: done, with the wait status, when it has ended.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.pid: int | None = None
        self.inbox: asyncio.Queue[Any] = asyncio.Queue()
        self.exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._listener: asyncio.Server | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._pidfd: int | None = None

    @property
    def is_connected(self) -> bool:
        return self._writer is not None

    @property
    def is_alive(self) -> bool:
        return self.pid is not None and not self.exited.done()

    def furnish(self) -> None:
        """An empty directory for a process that is to be forked."""
        shutil.rmtree(self.directory, ignore_errors=True)
        for name in files.PRIVATE:
            (self.directory / name).mkdir(parents=True, mode=0o700)

    async def listen(self) -> None:
        """Before it is forked or restored, so that it can connect at once."""
        path = self.directory / "ctl.sock"
        path.unlink(missing_ok=True)
        self._listener = await asyncio.start_unix_server(self._on_connect, str(path))

    def watch(self, pid: int) -> None:
        """It exists: be told of its end, and collect it."""
        self.pid = pid
        if not hasattr(os, "pidfd_open"):
            return  # no Linux: its end is learnt from its socket
        try:
            self._pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            self._ended(0)  # it has lived so short that it was collected with what nobody knew
        else:
            asyncio.get_running_loop().add_reader(self._pidfd, self._on_exit)

    async def first_words(self, kind: type[Any]) -> Any:
        """What it says when it connects. None: it has ended, or kept silent and is killed; `Exited` is in the inbox."""
        others: list[Any] = []
        try:
            async with asyncio.timeout(FIRST_WORDS_TIMEOUT_S):
                while not isinstance(event := await self.inbox.get(), kind):
                    others.append(event)
                    if isinstance(event, Exited):
                        return None
                return event
        except TimeoutError:
            log.warning("%s: no word from its process in %.0f s", self.directory.name, FIRST_WORDS_TIMEOUT_S)
            self.kill()
            return None
        finally:
            for other in others:
                self.inbox.put_nowait(other)

    def say(self, message: runner.SupervisorMessage) -> None:
        """To the process; into the wind while it is not connected."""
        if self._writer is not None:
            self._writer.write(frame(runner.from_supervisor.encode(message)))

    def wake(self) -> None:
        """End the sleep in which a checkpoint was taken."""
        self._signal(signal.SIGUSR1)

    def kill(self) -> None:
        """End the whole tree: with its pid 1, or its session's leader, go all the others."""
        if self.is_alive:
            assert self.pid is not None
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            self._signal(signal.SIGKILL)

    async def bury(self) -> None:
        """Leave nothing: no process, no socket, no directory."""
        self.kill()
        if self._pidfd is not None:
            await self.exited
        if self._listener is not None:
            self._listener.close()
        if self._writer is not None:
            self._writer.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _signal(self, number: signal.Signals) -> None:
        if self.is_alive:
            assert self.pid is not None
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def _on_connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._writer is not None:
            writer.close()  # one process, one connection: a second one is somebody else in its tree
            return
        self._writer = writer
        unframer = Unframer()
        try:
            while data := await reader.read(65536):
                for body in unframer.feed(data):
                    self.inbox.put_nowait(runner.from_runner.decode(body))
        except (OSError, FramingError, msgspec.DecodeError) as error:
            log.warning("%s: its control socket can't be understood: %s", self.directory.name, error)
            self.kill()
        finally:
            self._writer = None
            writer.close()
            self.inbox.put_nowait(Closed())
            if not hasattr(os, "pidfd_open"):
                self._ended(0)

    def _on_exit(self) -> None:
        assert self.pid is not None
        assert self._pidfd is not None
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        try:
            _, status = os.waitpid(self.pid, 0)
        except ChildProcessError:
            status = 0  # not our child (a machine without namespaces): how it ended is not to be known
        self._ended(status)

    def _ended(self, status: int) -> None:
        if not self.exited.done():
            self.exited.set_result(status)
            self.inbox.put_nowait(Exited(status))
