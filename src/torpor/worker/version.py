"""One version of the user's code, seen from the supervisor: its zygote, started, asked for runners, started again.

One runner is always forked ahead: it has its place and its connection, and only waits to hear which run it is to perform.
So a run starts without waiting for a fork.

A version whose imports start threads can't be forked safely (the threads would be missing in the child): its zygote
stays bare, and each runner imports for itself. That is slower to start and otherwise the same.
"""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from torpor import ids
from torpor.errors import TorporError
from torpor.wire import runner as wire
from torpor.wire.framing import Unframer, frame
from torpor.worker import cpu, discovery
from torpor.worker.discovery import Project
from torpor.worker.process import RunProcess

START_TIMEOUT_S = 120.0
FORK_TIMEOUT_S = 10.0
HIDDEN = ("TORPOR_", "TRIGGER_")  # our settings and keys: user code runs without them


class ImportFailed(TorporError):
    """The user's modules can't be imported; `.error` has their own traceback."""

    def __init__(self, error: wire.TaskError) -> None:
        super().__init__(f"{error.name}: {error.message}")
        self.error = error


class ZygoteDied(TorporError):
    """The zygote is gone; it will be started again for the next run."""


class Version:
    """A version and its zygote.

    Args:
        project: where the code is and which modules hold tasks.
        run_root: where runners have their directories.
        on_changed: called when the project's files are no longer those of this version: what is imported from them now
            would not be this version.
        isolated: runners get namespaces of their own.
        cpu_baseline: see `cpu.environment`.
    """

    def __init__(
        self,
        project: Project,
        run_root: Path,
        *,
        isolated: bool,
        on_changed: Callable[[], object] = lambda: None,
        cpu_baseline: str | None = None,
    ) -> None:
        self.project = project
        self.name = project.version
        self.tasks: list[wire.TaskManifest] = []
        self.queues: list[wire.QueueManifest] = []
        self.import_ms = 0.0
        self._run_root = run_root
        self._isolated = isolated
        self._on_changed = on_changed
        self._cpu_baseline = cpu_baseline
        self._spare: RunProcess | None = None
        self._forking_ahead: asyncio.Task[None] | None = None
        self._bare = False
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._inbox: list[bytes] = []
        self._unframer = Unframer()
        self._one_at_a_time = asyncio.Lock()

    @property
    def zygote_pid(self) -> int | None:
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Import the version.

        Raises:
            ImportFailed: the user's code does not import.
            ZygoteDied: the process died or hung while importing.
        """
        async with self._one_at_a_time:
            await self._start()

    async def runner(self) -> RunProcess:
        """A process that waits to be told its run; the one forked ahead, if it lives.

        Raises:
            ZygoteDied: none could be made, even after a fresh start.
        """
        if self._forking_ahead is not None:
            await asyncio.wait([self._forking_ahead])
        spare, self._spare = self._spare, None
        if spare is not None and not spare.is_connected:
            await spare.bury()
            spare = None
        return spare or await self._make_runner()

    def fork_ahead(self) -> None:
        """Make the spare runner in the background, unless there is one. Call it when a run has begun."""
        if self._spare is None and (self._forking_ahead is None or self._forking_ahead.done()):
            self._forking_ahead = asyncio.create_task(self._make_spare())

    async def _make_spare(self) -> None:
        with contextlib.suppress(ZygoteDied, ImportFailed, OSError):  # then the next run finds out, and its story tells
            self._spare = await self._make_runner()

    async def _make_runner(self) -> RunProcess:
        process = RunProcess(self._run_root / ids.new("runner"))
        try:
            process.furnish()
            await process.listen()
            process.watch(await self._fork(process.directory))
            if await process.first_words(wire.Hello) is None:
                told = (process.directory / "output.log").read_text(errors="replace").strip()
                raise ZygoteDied(
                    f"a process of version {self.name} ended before it had a run: {told or 'it said nothing'}"
                )
        except BaseException:
            await process.bury()
            raise
        return process

    async def _fork(self, directory: Path) -> int:
        request = wire.Fork(directory.name, str(directory), self._isolated)
        async with self._one_at_a_time:
            for _ in range(2):
                if self._control is None:
                    await self._start()
                try:
                    reply = await self._ask(wire.to_zygote.encode(request), FORK_TIMEOUT_S)
                except ZygoteDied:
                    continue
                if isinstance(reply, wire.Forked) and reply.name == directory.name and reply.pid > 0:
                    return reply.pid
                self._stop_zygote()
        raise ZygoteDied(f"the zygote of version {self.name} could not fork")

    async def stop(self) -> None:
        """End the zygote and the spare runner. Runners that perform a run are not touched."""
        if self._forking_ahead is not None:
            self._forking_ahead.cancel()
            await asyncio.wait([self._forking_ahead])
        if self._spare is not None:
            await self._spare.bury()
            self._spare = None
        self._stop_zygote()

    def _stop_zygote(self) -> None:
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

    async def _start(self) -> None:
        self._stop_zygote()
        if discovery.find(self.project.path).version != self.name:
            self._on_changed()
            raise ZygoteDied(
                f"the files of version {self.name} have changed since; they are being imported as a new one"
            )
        ready = await self._launch()
        if self._bare:
            return
        self.tasks, self.queues, self.import_ms = ready.tasks, ready.queues, ready.import_ms
        if ready.threads > 1:
            self._bare = True
            self._stop_zygote()
            await self._launch()

    async def _launch(self) -> wire.ZygoteReady:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        command = [sys.executable, "-m", "torpor.worker.zygote", *(["--bare"] if self._bare else [])]
        with theirs:
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno()), str(self.project.root), *self.project.modules],
                pass_fds=[theirs.fileno()],
                cwd=self.project.root,
                stdin=subprocess.DEVNULL,
                env=user_environment(self._cpu_baseline),
            )
        self._control = ours
        match await self._reply(START_TIMEOUT_S):
            case wire.ZygoteReady() as ready:
                return ready
            case wire.ImportFailed(error):
                self._stop_zygote()
                raise ImportFailed(error)
            case other:
                self._stop_zygote()
                raise ZygoteDied(
                    f"the zygote of version {self.name} said {type(other).__name__} instead of being ready"
                )

    async def _ask(self, body: bytes, timeout_s: float) -> wire.ZygoteMessage:
        assert self._control is not None
        try:
            await asyncio.get_running_loop().sock_sendall(self._control, frame(body))
        except OSError:
            self._stop_zygote()
            raise ZygoteDied(f"the zygote of version {self.name} is gone") from None
        return await self._reply(timeout_s)

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
            self._stop_zygote()
            raise ZygoteDied(f"the zygote of version {self.name} did not answer within {timeout_s:.0f} s") from None
        except OSError:
            self._stop_zygote()
            raise ZygoteDied(f"the zygote of version {self.name} died") from None
        return wire.from_zygote.decode(self._inbox.pop(0))


def user_environment(cpu_baseline: str | None = None) -> dict[str, str]:
    """The environment of user code: ours, without our own settings and secrets, and with what holds it to the baseline."""
    theirs = {name: value for name, value in os.environ.items() if not name.startswith(HIDDEN)}
    return theirs | cpu.environment(cpu_baseline, theirs)
