"""A run's process, seen from the supervisor: its directory, its control socket, its pid, its end.

Whoever made it, a fork or a restore, it is the same: we listen, it connects, it talks, and some day it ends. All that it
says and that happens to it arrives in one inbox, in order.
"""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from torpor.images import Later
from torpor.sdk.canceling import INTERRUPT
from torpor.wire import http, runner
from torpor.wire.framing import MAX_MESSAGE_BYTES, FramingError, frame
from torpor.worker import criu, files, standing, usage
from torpor.worker.belongings import Belongings
from torpor.worker.control_socket import Connection
from torpor.worker.inbox import Inbox
from torpor.worker.lazy import LazyMemory
from torpor.worker.runner import LOST_SUPERVISOR
from torpor.worker.trust import Trust

log = logging.getLogger(__name__)

FIRST_WORDS_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 2.0

watched: set[int] = set()
"""Processes whose end is awaited here: whoever collects orphans leaves these alone."""


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
        if code == LOST_SUPERVISOR:
            return "the run's process lost its connection to the worker (did the task close descriptors that are not its own?)"
        return f"the run's process ended with exit status {code} before the task was done"


@dataclass
class Origin:
    """The memory that a process began with, and that its image need not hold again where it is the same.

    Forks of one zygote share theirs, and a warm image is made of it once, at some time; until then there is none.
    """

    image_id: str | None = None


class RunProcess:
    """A process in its directory.

    Args:
        directory: its own: `ctl.sock`, `output.log`, `work/` (its working directory), `tmp/`. A forked process knows it by
            this path, and its images name it. A restored one has the path that its image names, in mounts of its own.
        home: of a restored process, what is removed with it: a directory that holds its own, and is `known_as.parent` to it.
        known_as: the path by which the process knows its directory.
        origin: whose memory it began with.

    Attributes:
        lives_on: its image is the run now, here or elsewhere: what it shares with nobody can go.
        trust: how far its code was trusted when it was imported.
        largest_message: how much it may say at once.
        shared: its files in the machine's `/dev/shm`, as they were at its last dump.
        inbox: what it says, and `Closed` and `Exited`. Its keeper may put in messages of its own.
        exited: done, with the wait status, when it has ended.
        belongings: what it has on this machine: its room, its limits, its network.
    """

    def __init__(
        self,
        directory: Path,
        home: Path | None = None,
        origin: Origin | None = None,
        known_as: Path | None = None,
    ) -> None:
        self.directory = directory
        self.known_as = known_as or directory
        self.origin = origin or Origin()
        self.lives_on = False
        self.largest_message = MAX_MESSAGE_BYTES
        self.trust = Trust.OWN
        self.shared: list[Path] = []
        self.belongings = Belongings(directory, home or directory)
        self._began_at = time.time()
        self.pid: int | None = None
        self.inbox = Inbox(self._listen_on)
        self.exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._listener: asyncio.Server | None = None
        self._connection: Connection | None = None
        self._pidfd: int | None = None
        self._killed_for: str | None = None
        self._used = http.Usage()
        self._wake_watch: asyncio.TimerHandle | None = None
        self.memory: LazyMemory | None = None
        self._closing_memory: asyncio.Task[None] | None = None

    @property
    def base(self) -> str | None:
        """The warm image that its own image is to be compared with; recorded there, so that a restored process has it too."""
        return self.origin.image_id

    @property
    def is_connected(self) -> bool:
        return self._connection is not None

    @property
    def is_alive(self) -> bool:
        return self.pid is not None and not self.exited.done()

    @property
    def is_dying(self) -> bool:
        """It was killed, and is not gone yet: to give much memory back takes a while where there are other things to do."""
        return standing.is_dying(self.pid or 0)

    async def listen(self) -> None:
        """Before it is forked or restored, so that it can connect at once."""
        path = self.belongings.place / "ctl.sock"
        path.unlink(missing_ok=True)
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_unix_server(lambda: Connection(self), str(path))
        path.chmod(0o666)  # user code may have changed its user; who may come near is decided by the directories above

    def watch(self, pid: int) -> None:
        """It exists: be told of its end, and collect it."""
        self.pid = pid
        if not hasattr(os, "pidfd_open"):
            return  # no Linux: its end is learnt from its socket
        try:
            self._pidfd = os.pidfd_open(pid)
            watched.add(pid)
        except ProcessLookupError:
            self._ended(0)  # it has lived so short that it was collected with what nobody knew
        else:
            asyncio.get_running_loop().add_reader(self._pidfd, self._on_exit)
        self._look_at_memory()  # it may have failed in the moment in which there was nothing to kill yet

    # -- memory that comes later --------------------------------------------------------------------------------------

    def wait_for_memory(self, later: Sequence[Later]) -> None:
        """Before it is restored: it will run without this part of its memory, which comes when it is wanted, or by and by."""
        self.memory = LazyMemory(later)
        self.memory.whole.add_done_callback(lambda _: self._look_at_memory())
        self.memory.listen(self.directory)

    @property
    def memory_failure(self) -> BaseException | None:
        """Why it can't have the rest of its memory, if so: it is dead, or about to be."""
        return self.memory.failure if self.memory is not None else None

    async def whole(self) -> None:
        """Wait until all of its memory is there; only then can it be dumped.

        Raises:
            ImageDamaged, MemoryLost: it never will be, and the process is killed.
        """
        if self.memory is not None:
            await asyncio.shield(self.memory.whole)

    def _look_at_memory(self) -> None:
        if self.memory_failure is not None:
            self._kill_for(f"the run's process could not be given the rest of its memory: {self.memory_failure}")
        elif self.memory is not None and self.memory.whole.done() and self._closing_memory is None:
            self._closing_memory = asyncio.create_task(self.memory.close())

    async def first_words(self, kind: type[Any], timeout_s: float = FIRST_WORDS_TIMEOUT_S) -> Any:
        """What it says when it connects. None: it has ended, or kept silent and is killed; `Exited` is in the inbox."""
        others: list[Any] = []
        try:
            async with asyncio.timeout(timeout_s):
                while not isinstance(event := await self.inbox.get(), kind):
                    others.append(event)
                    if isinstance(event, Exited):
                        return None
                return event
        except TimeoutError:
            self._kill_silent(f"the run's process gave no sign of life for {timeout_s:.0f} s and was killed")
            await asyncio.wait([self.exited], timeout=FIRST_WORDS_TIMEOUT_S)
            return None
        finally:
            for other in others:
                self.inbox.put_nowait(other)

    def say(self, message: runner.SupervisorMessage) -> None:
        """To the process; into the wind while it is not connected."""
        if self._connection is not None:
            self._connection.write(frame(runner.from_supervisor.encode(message)))

    def wake(self) -> None:
        """End the sleep in which a checkpoint was taken. A process that does not wake up is killed: it never would."""
        # Whoever had stopped it when it was frozen, its image is of a stopped process, and it would not hear us.
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGUSR1)
        told = f"the run's process did not wake up within {FIRST_WORDS_TIMEOUT_S:.0f} s and was killed"
        self._wake_watch = asyncio.get_running_loop().call_later(FIRST_WORDS_TIMEOUT_S, self._kill_silent, told)

    # -- standing still, wherever it is -------------------------------------------------------------------------------

    async def stop(self) -> bool:
        """Have the process that speaks with us stand still, wherever it is, and hear all that it has said until then.

        Its children work on until a dump stops them. False: it could not be stopped, and goes on.
        """
        self._signal(signal.SIGSTOP)
        end = time.monotonic() + STOP_TIMEOUT_S
        while not standing.is_still(self.pid or 0):
            if time.monotonic() > end or not self.is_alive:
                self._signal(signal.SIGCONT)
                return False
            await asyncio.sleep(0.0005)
        await asyncio.sleep(0.002)  # it may have connected, and we not have looked yet
        while self._connection is not None and self._connection.unread():
            if self._connection.is_paused:  # it has said more than anybody could deal with yet
                self._signal(signal.SIGCONT)
                return False
            await asyncio.sleep(0.0005)
        return True

    def has_heard_us(self) -> bool:
        """All that we have said is in its socket's queue, if not read: it is in an image that is taken now."""
        return self._connection is None or self._connection.has_sent_all()

    def let_go(self) -> None:
        """Close our end of a stopped process's connection, so that it can be dumped. It finds out when it goes on."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.close()

    def go_on(self) -> None:
        """After `stop`, and after a dump."""
        assert self.pid is not None
        criu.let_run(self.pid)

    def nudge(self) -> None:
        """Have it look at its connection, though it reads no messages: it was let go, and is to connect again."""
        self._signal(INTERRUPT)

    def ask_to_end(self, cancel: runner.Cancel) -> None:
        """Pass a cancel on. A sync task that computes reads no messages; a signal tells it, and doesn't matter to others."""
        if self.is_connected:
            self.say(cancel)
            self._signal(INTERRUPT)

    @property
    def was_killed(self) -> bool:
        """It was ended here, for something that it did or did not do."""
        return self._killed_for is not None

    def end_told(self) -> str:
        """How it ended, in words."""
        if self._killed_for is not None:
            return self._killed_for
        return str(Exited(self.exited.result())) if self.exited.done() else "the run's process still runs"

    def kill(self) -> None:
        """End the whole tree: with its pid 1, or its session's leader, go all the others."""
        if self.is_alive:
            assert self.pid is not None
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            self._signal(signal.SIGKILL)

    def usage(self) -> http.Usage:
        """What it and its children have used so far, or until its end."""
        if self.belongings.cgroup is not None:
            self._used = usage.most(self._used, self.belongings.cgroup.usage())
        elif self.is_alive and self.pid is not None:
            self._used = usage.most(self._used, usage.of_process(self.pid))
        return self._used

    def _accounted(self, whole: http.Usage) -> http.Usage:
        """A group knows better how much memory was its own."""
        return whole if self.belongings.cgroup is None else http.Usage(whole.cpu_ms)

    async def bury(self) -> None:
        """Leave nothing: no process, no socket, no directory."""
        self._stop_watching_for_waking()
        self.kill()
        if self._pidfd is not None:
            await self.exited
        if self.memory is not None:
            await self.memory.close()  # not before it is dead: see there
        if self._listener is not None:
            self._listener.close()
        if self._connection is not None:
            self._connection.close()
        if self.lives_on and self.shared:
            await asyncio.to_thread(files.release_shared, self.shared, since=self._began_at)
        await asyncio.to_thread(self.belongings.give_back)

    def _kill_for(self, reason: str) -> None:
        log.warning("%s: %s", self.directory.name, reason)
        self._killed_for = reason
        self.kill()

    def _kill_silent(self, reason: str) -> None:
        if self.is_alive and self.pid is not None:
            log.warning("%s: %s", self.directory.name, standing.told(self.pid))
        self._kill_for(reason)

    def _stop_watching_for_waking(self) -> None:
        if self._wake_watch is not None:
            self._wake_watch.cancel()
            self._wake_watch = None

    def _signal(self, number: int) -> None:
        if self.is_alive:
            assert self.pid is not None
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    # -- its connection -----------------------------------------------------------------------------------------------

    def connected(self, connection: Connection) -> bool:
        if self._connection is not None:
            return False  # one process, one connection: a second one is somebody else in its tree
        self._connection = connection
        self._stop_watching_for_waking()
        return True

    def disconnected(self, connection: Connection) -> None:
        if self._connection is connection:
            self._connection = None
            self.inbox.put_nowait(Closed())
            if not hasattr(os, "pidfd_open"):
                self._ended(0)

    def heard(self, connection: Connection, data: bytes) -> None:
        if self._connection is not connection:
            return
        connection.unframer.largest = self.largest_message
        try:
            for body in connection.unframer.feed(data):
                self.inbox.hear(runner.from_runner.decode(body), len(body))
        except (FramingError, msgspec.DecodeError) as error:
            self._kill_for(
                f"the run's process said what can't be understood on its control socket, and was killed: {error}"
            )
        if self.inbox.is_heavy:
            connection.pause()

    def is_not_heard(self) -> None:
        self._kill_for("the run's process asks and does not listen to the answers, and was killed")

    def _listen_on(self) -> None:
        if self._connection is not None:
            self._connection.go_on()

    def _on_exit(self) -> None:
        assert self.pid is not None
        assert self._pidfd is not None
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        watched.discard(self.pid)
        # While the leader is still to be collected its group can't be anybody else's. In a pid namespace all are gone
        # with it; elsewhere its children may live on.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        try:
            _, status, accounts = os.wait4(self.pid, 0)
            self._used = usage.most(self._used, self._accounted(usage.of_ended(accounts)))
        except ChildProcessError:
            status = 0  # not our child (a machine without namespaces): how it ended is not to be known
        self._ended(status)

    def _ended(self, status: int) -> None:
        if not self.exited.done():
            self.exited.set_result(status)
            self.inbox.put_nowait(Exited(status))
