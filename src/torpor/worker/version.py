"""One version of the user's code, seen from the supervisor: how its runners are made.

One runner is always made ahead: it has its place and its connection, and only waits to hear which run it is to perform.
So a run starts without waiting for a fork.

    forked    by the zygote, which has imported the version: in milliseconds
    thawed    from a warm image (warm.py): of our own, or one that another worker has stored
    imported  by a fork of a bare zygote, each for itself: as slow as the import

Which of them is decided in `Version.way`. Only an image at hand and one question matter: may the zygote import the version?

    own code                           yes. Until it has, runners are thawed if somebody has stored an image
    its imports start threads          no: a fork would lose them
    foreign code                       no: the zygote has privileges (trust.py)

Where the zygote may not, a first runner imports the version in its place and is frozen there: runners are thawed from its
image. Without CRIU, or when it can't be frozen, each imports for itself. Of foreign code it is that first runner, too, which
tells what tasks there are.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import partial
from pathlib import Path

from torpor import ids
from torpor.wire import runner as wire
from torpor.wire.framing import MAX_MESSAGE_BYTES
from torpor.wire.networks import HOST, strictest
from torpor.worker import discovery, first_runner, usage
from torpor.worker.cgroups import Cgroups
from torpor.worker.discovery import Project
from torpor.worker.forking import ImportFailed, NotForked, Zygote, ZygoteDied
from torpor.worker.network import Networks
from torpor.worker.process import Origin, RunProcess
from torpor.worker.room import Rooms
from torpor.worker.router import NoNetwork
from torpor.worker.trust import Trust
from torpor.worker.uninterrupted import uninterrupted
from torpor.worker.warm import Warm
from torpor.worker.warming import Warming

log = logging.getLogger(__name__)

IMPORT_TIMEOUT_S = 120.0
TRIES = 2


class Way(StrEnum):
    """How a runner is made."""

    FORKED = "forked"
    THAWED = "thawed"
    IMPORTED = "imported"


class Version:
    """A version and its zygote.

    Args:
        project: where the code is and which modules hold tasks.
        run_root: where runners have their directories.
        on_changed: called when the project's files are no longer those of this version: what is imported from them now
            would not be this version.
        isolated: runners get namespaces of their own.
        environment: what user code has, and has when it is imported.
        own_environment: what of that is the worker's own; None: all.
        trust: how far it is trusted.
        warm: where its warm images are; None where nothing can be frozen.
        rooms: in which runners are; None: in none.
        networks: where theirs come from.
        network: what they reach, unless a run wants less.
        import_timeout_s: how long its import may take.
        cgroups: where runners get their limits; None: they have none.

    Attributes:
        tasks, queues, import_ms: what is in it, once that is known.
        network: as above; it may change.
    """

    def __init__(
        self,
        project: Project,
        run_root: Path,
        *,
        isolated: bool,
        environment: Mapping[str, str],
        own_environment: Mapping[str, str] | None = None,
        trust: Trust = Trust.OWN,
        on_changed: Callable[[], object] = lambda: None,
        warm: Warm | None = None,
        rooms: Rooms | None = None,
        networks: Networks | None = None,
        network: str = HOST,
        import_timeout_s: float = IMPORT_TIMEOUT_S,
        cgroups: Cgroups | None = None,
    ) -> None:
        self.project = project
        self.name = project.version
        self.environment = dict(environment)
        self.trust = trust
        self._run_root = run_root
        self._isolated = isolated
        self._on_changed = on_changed
        self._rooms = rooms
        self._networks = networks or Networks()
        self.network = network
        self._import_timeout_s = import_timeout_s
        self._cgroups = cgroups
        self._imported: wire.Imported | None = None
        self._may_fork = trust is Trust.OWN
        own = self.environment if own_environment is None else own_environment
        self._zygote = Zygote(project, trust, self.environment, own, import_timeout_s=import_timeout_s)
        self._one_at_a_time = asyncio.Lock()
        self._warming = Warming(warm, self.name)
        self._spare: RunProcess | None = None
        self._making_ahead: asyncio.Task[None] | None = None
        self._origin = Origin()

    @property
    def tasks(self) -> list[wire.TaskManifest]:
        return self._imported.tasks if self._imported else []

    @property
    def queues(self) -> list[wire.QueueManifest]:
        return self._imported.queues if self._imported else []

    @property
    def import_ms(self) -> float:
        return self._imported.import_ms if self._imported else 0.0

    @property
    def zygote_pid(self) -> int | None:
        return self._zygote.pid

    @property
    def way(self) -> Way:
        """How a runner is made now."""
        if self._warming.image is not None:
            return Way.THAWED  # put away as soon as forks are to be had
        return Way.FORKED if self._may_fork else Way.IMPORTED

    @property
    def needs_import(self) -> bool:
        """It is thawed, and could be forked: that is faster."""
        return self._may_fork

    # -- coming up ----------------------------------------------------------------------------------------------------

    async def find_image(self) -> bool:
        """Take up a warm image that somebody has stored. If there is one the version can be used at once, and `start` has time,
        unless `needs_import` says that there is nothing to be gained by it.
        """
        if not await self._warming.find():
            return False
        assert self._warming.image is not None
        self._take(self._warming.image.imported)
        return True

    async def start(self) -> None:
        """Import the version.

        Raises:
            ImportFailed: the user's code does not import.
            ZygoteDied: the process died or hung while importing.
        """
        async with self._one_at_a_time:
            await self._start_zygote()
        if self._imported is None:
            await self._ask_first_runner()

    def _take(self, imported: wire.Imported) -> None:
        self._imported = imported
        self._may_fork = self.trust is Trust.OWN and imported.threads == 1

    async def _start_zygote(self) -> None:
        if discovery.find(self.project.path).version != self.name:
            self._zygote.stop()
            self._on_changed()
            raise ZygoteDied(
                f"the files of version {self.name} have changed since; they are being imported as a new one"
            )
        if self._may_fork:
            self._take(await self._zygote.start())
        if not self._may_fork:
            await self._zygote.start_bare()
        self._origin = Origin()  # the memory of this zygote is no other's
        if self._imported is None:
            return
        if self._may_fork:
            self._warming.make(self._parked, self._imported, to_thaw=False)
            self._warming.put_away()
        elif self._warming.image is None:
            self._warming.make(self._parked, self._imported, to_thaw=True)

    async def _ask_first_runner(self) -> None:
        """Foreign code: a runner imports it and tells what tasks there are. Then it is frozen, or performs a run."""
        process = await self._forked(self.network, parked=self._warming.is_possible, tells=True)
        assert self._imported is not None
        if self._warming.is_possible:
            self._warming.make(process, self._imported, to_thaw=True)
        else:
            self._spare = process

    # -- runners ------------------------------------------------------------------------------------------------------

    def network_of(self, task_id: str) -> str:
        """What a run of that task reaches."""
        return strictest(self.network, *(task.network for task in self.tasks if task.id == task_id))

    async def runner(self, network: str = HOST) -> RunProcess:
        """A process that waits to be told its run; the one made ahead, if it lives, and reaches neither more nor less.

        Raises:
            ZygoteDied: none could be made, even after a fresh start.
            ImportFailed: it had to be imported first, and could not be.
            NoNetwork: there is no such network for it here.
        """
        self._warming.is_noisy()
        if network != self.network:
            return await self._make_runner(network)
        if self._making_ahead is not None:
            await asyncio.wait([self._making_ahead])
        spare, self._spare = self._spare, None
        if spare is not None and not (spare.is_connected and spare.belongings.network_kind == network):
            await spare.bury()
            spare = None
        return spare or await self._make_runner(network)

    def make_ahead(self) -> None:
        """Make the spare runner in the background, unless there is one. Call it when a run has begun."""
        if self._spare is None and (self._making_ahead is None or self._making_ahead.done()):
            self._making_ahead = asyncio.create_task(self._make_spare())

    async def _make_spare(self) -> None:
        # Whatever fails, the next run finds out, and its story tells.
        with contextlib.suppress(ZygoteDied, ImportFailed, NoNetwork, OSError):
            self._spare = await self._make_runner(self.network)

    async def _make_runner(self, network: str) -> RunProcess:
        if self.way is Way.IMPORTED and self._imported is not None:
            if self._zygote.is_up and self._warming.may_try_again:
                self._warming.make(self._parked, self._imported, to_thaw=True)
            await self._warming.settled()  # it is being imported to be thawed: to do so beside would take as long
        return await self._warming.thaw(network) or await self._forked(network)

    async def _parked(self) -> RunProcess:
        # Nothing of a network gets into its image.
        return await self._forked(self.network if self._rooms else HOST, parked=True)

    async def _forked(self, network: str, *, parked: bool = False, tells: bool = False) -> RunProcess:
        for _ in range(TRIES - 1):
            with contextlib.suppress(NotForked):
                return await self._forked_once(network, parked=parked, tells=tells)
        return await self._forked_once(network, parked=parked, tells=tells)

    async def _forked_once(self, network: str, *, parked: bool, tells: bool) -> RunProcess:
        process = RunProcess(self._run_root / ids.new("runner"))
        process.trust = self.trust
        try:
            process.belongings.limit(self._cgroups)
            await uninterrupted(partial(process.belongings.furnish, self._rooms, self.project.root))
            await process.belongings.join_network(self._networks, network)
            await process.listen()
            process.watch(await self._fork(process, parked=parked, tells=tells))
            if self._may_fork:  # what it imports itself it shares with nobody
                process.origin = self._origin
                process.belongings.inherited_bytes = usage.anonymous_bytes(self.zygote_pid or 0)
            if self.trust is Trust.FOREIGN:
                await self._hear_foreign(process, tells=tells)
            elif await process.first_words(wire.Hello, self._import_timeout_s) is None:
                told = first_runner.output(process).strip()
                raise ZygoteDied(
                    f"a process of version {self.name} ended before it had a run: {told or 'it said nothing'}"
                )
        except BaseException:
            await process.bury()
            raise
        return process

    async def _hear_foreign(self, process: RunProcess, *, tells: bool) -> None:
        process.largest_message = first_runner.LARGEST_MESSAGE_BYTES
        if tells:
            self._take(await first_runner.imported(process, self.name, within_s=self._import_timeout_s))
            if told := first_runner.output(process).strip():
                log.info("the import of version %s printed:\n%s", self.name, first_runner.tamed(told, 2000))
        await first_runner.expect(process, wire.Hello, self.name, within_s=self._import_timeout_s)
        process.largest_message = MAX_MESSAGE_BYTES

    async def _fork(self, process: RunProcess, *, parked: bool, tells: bool) -> int:
        environment = self.environment if self.trust is Trust.FOREIGN else None
        directory, order = process.directory, process.belongings.order()
        request = wire.Fork(directory.name, str(directory), self._isolated, parked, order, tells, environment)
        async with self._one_at_a_time:
            if not self._zygote.is_up:
                await self._start_zygote()
            return await self._zygote.fork(request)

    # -- ends ---------------------------------------------------------------------------------------------------------

    async def stop(self) -> None:
        """End the zygote and the spare runner. Runners that perform a run are not touched."""
        if self._making_ahead is not None:
            self._making_ahead.cancel()
            await asyncio.wait([self._making_ahead])
        await self._warming.stop()
        if self._spare is not None:
            await self._spare.bury()
            self._spare = None
        self._zygote.stop()
