"""One version of the user's code, seen from the supervisor: its zygote, started, asked for runners, started again.

One runner is always made ahead: it has its place and its connection, and only waits to hear which run it is to perform.
So a run starts without waiting for a fork.

    imported here, no threads      fork, in milliseconds
    not imported here (yet)        thaw of a warm image that another worker has stored (warm.py)
    its imports start threads      a fork would lose them: thaw of a warm image, another's or our own. Until there is one, and
                                   where nothing can be frozen, the zygote stays bare and each runner imports for itself
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from torpor import ids
from torpor.errors import CriuError, ImageDamaged, TorporError
from torpor.wire import runner as wire
from torpor.wire.framing import Unframer, frame
from torpor.worker import cpu, discovery
from torpor.worker.discovery import Project
from torpor.worker.process import Origin, RunProcess
from torpor.worker.room import Rooms
from torpor.worker.warm import Warm, WarmImage, parked

log = logging.getLogger(__name__)

START_TIMEOUT_S = 120.0
FORK_TIMEOUT_S = 10.0
QUIET_S = 1.0
"""A warm image is made when no run has begun for so long: it is in no hurry, and a start is."""
LONGEST_NOISE_S = 30.0
"""But where it is never quiet it is needed most."""
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
        environment: what user code has; see `user_environment`.
        warm: where its warm images are; None where nothing can be frozen.
        rooms: in which runners are; None: in none.
    """

    def __init__(
        self,
        project: Project,
        run_root: Path,
        *,
        isolated: bool,
        on_changed: Callable[[], object] = lambda: None,
        environment: Mapping[str, str] | None = None,
        warm: Warm | None = None,
        rooms: Rooms | None = None,
    ) -> None:
        self.project = project
        self.name = project.version
        self.tasks: list[wire.TaskManifest] = []
        self.queues: list[wire.QueueManifest] = []
        self.import_ms = 0.0
        self._run_root = run_root
        self._isolated = isolated
        self._on_changed = on_changed
        self.environment = dict(user_environment() if environment is None else environment)
        self._warm = warm
        self._rooms = rooms
        self._image: WarmImage | None = None
        self._thawing = Counter[str]()
        self._warming: asyncio.Task[None] | None = None
        self._is_frozen = asyncio.Event()  # our own warm image is at hand, or there won't be one
        self._began_at = 0.0
        self._spare: RunProcess | None = None
        self._making_ahead: asyncio.Task[None] | None = None
        self._bare = False
        self._ready: wire.ZygoteReady | None = None
        self._origin = Origin()
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

    async def find_image(self) -> bool:
        """Take up a warm image that somebody has stored. If there is one the version can be used at once, and `start` has time,
        unless `needs_import` says that there is nothing to be gained by it.
        """
        if self._warm is None or (found := await self._warm.find()) is None:
            return False
        self._image = found
        self.tasks, self.queues = found.tasks, found.queues
        return True

    @property
    def needs_import(self) -> bool:
        """Forks are faster than thaws. A version with threads is never forked."""
        return self._image is None or not self._image.has_threads

    async def runner(self) -> RunProcess:
        """A process that waits to be told its run; the one made ahead, if it lives.

        Raises:
            ZygoteDied: none could be made, even after a fresh start.
            ImportFailed: it had to be imported first, and could not be.
        """
        self._began_at = time.monotonic()
        if self._making_ahead is not None:
            await asyncio.wait([self._making_ahead])
        spare, self._spare = self._spare, None
        if spare is not None and not spare.is_connected:
            await spare.bury()
            spare = None
        return spare or await self._make_runner()

    def make_ahead(self) -> None:
        """Make the spare runner in the background, unless there is one. Call it when a run has begun."""
        if self._spare is None and (self._making_ahead is None or self._making_ahead.done()):
            self._making_ahead = asyncio.create_task(self._make_spare())

    async def _make_spare(self) -> None:
        with contextlib.suppress(ZygoteDied, ImportFailed, OSError):  # then the next run finds out, and its story tells
            self._spare = await self._make_runner()

    async def _make_runner(self) -> RunProcess:
        if self._bare and self._warming is not None and self._image is None:
            await self._is_frozen.wait()  # it is being imported for that: to import it beside would take as long
        if self._image is not None:
            with contextlib.suppress(CriuError, OSError):
                return await self._thaw(self._image)
        return await self._forked()

    async def _thaw(self, image: WarmImage) -> RunProcess:
        assert self._warm is not None
        self._thawing[image.image_id] += 1
        try:
            return await self._warm.thaw(image)
        except CriuError as error:
            if self._image is image:
                self._image = None
                await self._warm.refuse(image.image_id, error.reason)
            raise
        finally:
            self._thawing[image.image_id] -= 1
            self._let_go_of(image)

    async def _forked(self, *, parked: bool = False) -> RunProcess:
        process = RunProcess(self._run_root / ids.new("runner"))
        try:
            await asyncio.to_thread(process.furnish, self._rooms, self.project.root)
            await process.listen()
            process.watch(await self._fork(process, parked=parked))
            process.origin = Origin() if self._bare else self._origin  # who imports for itself has no memory in common
            if await process.first_words(wire.Hello, START_TIMEOUT_S) is None:
                told = (process.directory / "output.log").read_text(errors="replace").strip()
                raise ZygoteDied(
                    f"a process of version {self.name} ended before it had a run: {told or 'it said nothing'}"
                )
        except BaseException:
            await process.bury()
            raise
        return process

    async def _fork(self, process: RunProcess, *, parked: bool) -> int:
        directory, room = process.directory, process.room
        order = None if room is None else room.order()
        request = wire.Fork(directory.name, str(directory), self._isolated, parked, order)
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

    # -- the warm image -----------------------------------------------------------------------------------------------

    def _warm_up_soon(self) -> None:
        """Make this zygote's warm image in the background."""
        if self._warm is not None:
            if self._warming is not None:
                self._warming.cancel()
            self._began_at = time.monotonic()
            self._is_frozen.clear()
            self._warming = asyncio.create_task(self._warm_up(self._warm))

    async def _warm_up(self, warm: Warm) -> None:
        try:
            if not self._bare:
                await self._quiet()
            process, image = await self._freeze(warm)
        except (CriuError, ZygoteDied, ImportFailed, OSError) as error:
            log.warning("version %s has no warm image: %s", self.name, error)
            return
        finally:
            self._is_frozen.set()
        try:
            if await warm.store(image):
                process.origin.image_id = image.image_id
        except (ImageDamaged, OSError) as error:
            log.warning("the warm image of %s can't be stored: %s", self.name, error)
        finally:
            self._let_go_of(image)

    async def _freeze(self, warm: Warm) -> tuple[RunProcess, WarmImage]:
        assert self._ready is not None
        process = await self._forked(parked=True)
        try:
            await parked(process)
            image = await warm.freeze(process, self._ready)
        finally:
            await process.bury()
        if self._bare:
            self._image = image
        return process, image

    async def _quiet(self) -> None:
        """No run has begun for a while."""
        end = time.monotonic() + LONGEST_NOISE_S
        while (now := time.monotonic()) < min(self._began_at + QUIET_S, end):
            await asyncio.sleep(min(self._began_at + QUIET_S, end) - now)

    def _let_go_of(self, image: WarmImage) -> None:
        """Remove its files, if nobody is going to thaw from them."""
        if self._warm is not None and image is not self._image and not self._thawing[image.image_id]:
            self._warm.let_go(image)

    # -- ends ---------------------------------------------------------------------------------------------------------

    async def stop(self) -> None:
        """End the zygote and the spare runner. Runners that perform a run are not touched."""
        for task in (self._making_ahead, self._warming):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        if self._spare is not None:
            await self._spare.bury()
            self._spare = None
        if (image := self._image) is not None:
            self._image = None
            self._let_go_of(image)
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
        if not self._bare:
            self._ready = ready
            self.tasks, self.queues, self.import_ms = ready.tasks, ready.queues, ready.import_ms
            if ready.threads > 1:
                self._bare = True
                self._stop_zygote()
                await self._launch()
        self._origin = Origin()  # the memory of this zygote is no other's
        if not self._bare or self._image is None:
            self._warm_up_soon()
        if not self._bare and (image := self._image) is not None:
            self._image = None  # from now on runners are forked
            self._let_go_of(image)

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
                env=self.environment,
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
