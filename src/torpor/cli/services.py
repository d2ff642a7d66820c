"""One service of `torpor dev` as a child process: kept alive, listened to, and ended with nothing left."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping

from torpor.cli.lifeline import VARIABLE

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0
STEADY_S = 10.0
"""A service that lived this long is started again at once, without the pauses that its earlier deaths had grown to."""
STOP_S = 20.0
"""How long a service may take to end after SIGTERM, beside the work that it is given time for."""


class Service:
    """A `torpor` command in a process group of its own, so that a Ctrl-C at the terminal reaches `torpor dev` alone.

    Args:
        name: as it is told.
        arguments: of the `torpor` command.
        environment: all of it.
        stop_s: how long it may take to end after SIGTERM.
        say: called with each line that the service prints.
        notice: called with a sentence when it dies.
        changed: called whenever the pid has changed.
    """

    def __init__(
        self,
        name: str,
        arguments: list[str],
        environment: Mapping[str, str],
        *,
        stop_s: float = STOP_S,
        say: Callable[[str], None],
        notice: Callable[[str], None],
        changed: Callable[[], None],
    ) -> None:
        self.name = name
        self.pid: int | None = None
        self.deaths = 0
        self.stop_s = stop_s
        self._command = [sys.executable, "-P", "-m", "torpor", *arguments]
        self._environment = {**environment, VARIABLE: str(os.getpid())}
        self._say = say
        self._notice = notice
        self._changed = changed
        self._stopping = False
        self._process: asyncio.subprocess.Process | None = None

    async def keep_alive(self) -> None:
        """Start it, and again whenever it dies, until `stop`."""
        pause_s = FIRST_PAUSE_S
        while not self._stopping:
            began = time.monotonic()
            process = await self._start()
            reading = asyncio.create_task(self._read(process))
            try:
                status = await process.wait()
                # What it said last may still be in the pipe; a grandchild that holds the pipe open isn't waited for.
                await asyncio.wait({reading}, timeout=0.5)
            finally:
                reading.cancel()
                self.pid = None
            if self._stopping:
                return
            self.deaths += 1
            if time.monotonic() - began > STEADY_S:
                pause_s = FIRST_PAUSE_S
            self._notice(f"the {self.name} {_ending(status)}; it is started again")
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    async def _start(self) -> asyncio.subprocess.Process:
        self._process = process = await asyncio.create_subprocess_exec(
            *self._command,
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            limit=1024 * 1024,
        )
        self.pid = process.pid
        self._changed()
        return process

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:  # longer than the limit; what there is of it has been dropped
                continue
            if not line:
                return
            self._say(line.decode(errors="replace").rstrip("\n"))

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it runs."""
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def stop(self) -> None:
        """End it: SIGTERM, patience, then SIGKILL to whatever is left of its group."""
        self._stopping = True
        process = self._process
        if process is None:
            return
        self.signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), self.stop_s)
        self.kill()
        await process.wait()

    def kill(self) -> None:
        """End its whole group now."""
        self._stopping = True
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)


def _ending(status: int) -> str:
    """How a process ended, in words.

    >>> _ending(-9), _ending(2)
    ('was killed (SIGKILL)', 'ended with exit code 2')
    """
    if status < 0:
        return f"was killed ({signal.Signals(-status).name})"
    return f"ended with exit code {status}"
