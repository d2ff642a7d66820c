"""The warm image of a version: a process that has imported it and waits for a run, frozen once.

    parked runner --freeze--> files at hand --store--> object store, and the engine knows
                                   |                         | find, on this worker or another
                                   +---------- thaw ---------+--> a runner, as if it had just been forked

It has two uses. Images of runs are compared with it: what a run's memory shares with that of its origin is not stored again.
And it is a way to start: where the version was never imported, and for versions that can't be forked.

Whoever is thawed was imported elsewhere, so more must be equal than for a run that goes on: all installed packages, the place of
the project, and the environment variables, which code may have read while it was imported. An image that doesn't fit, is damaged
or isn't restored is refused, and the version is imported: it is never an error of a run.
"""

import asyncio
import contextlib
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from blake3 import blake3

from torpor import ids
from torpor.errors import ApiError, CriuError, ImageDamaged
from torpor.images import Draft, Images, Laid, Published
from torpor.objects import ObjectsDown
from torpor.wire import http, runner
from torpor.wire.networks import HOST
from torpor.worker import checkpoint, criu, fitness, namespaces, restore, usage
from torpor.worker.cgroups import Cgroups
from torpor.worker.discovery import Project
from torpor.worker.link import Link
from torpor.worker.network import Networks
from torpor.worker.process import Closed, RunProcess
from torpor.worker.room import Rooms
from torpor.worker.trust import Trust

log = logging.getLogger(__name__)

STORE_RETRY_S = 30.0
_WORDY = ("files", "tasks", "queues")
"""Facts that are in the image alone: rows and messages needn't carry them."""
_OF_THE_MACHINE = re.compile(
    r"_|(OLD)?PWD|SHLVL|HOST(NAME|_IP)|TERM\w*|COLORTERM|COLUMNS|LINES|DISPLAY|WINDOWID|(SSH|XDG|DBUS|SYSTEMD|LISTEN|WATCHDOG)_\w+"
    r"|INVOCATION_ID|JOURNAL_STREAM|NOTIFY_SOCKET|MAINPID|CREDENTIALS_DIRECTORY|(POD|NODE)_(NAME|IP)|KUBERNETES_\w+"
    r"|\w+_SERVICE_(HOST|PORT)(_\w+)?|\w+_PORT_\d+_(TCP|UDP)\w*|PYTEST_CURRENT_TEST"
)
"""Variables that differ between machines and terminals and mean nothing to code that is imported; a thawed process gets those
of its worker, as all others."""


@dataclass(frozen=True)
class Place:
    """Where warm images of one worker come from and go to."""

    worker_id: str
    store_id: str
    images: Images
    link: Link
    criu: criu.Criu
    machine: fitness.Machine
    facts: Mapping[str, Any]
    run_root: Path
    secret: str
    """what the servers' workers have in common: the environment is digested under it"""
    rooms: Rooms | None = None
    cgroups: Cgroups | None = None
    networks: Networks = field(default_factory=Networks)


@dataclass(frozen=True)
class WarmImage:
    """A warmed process as files at hand, from which any number of runners can be thawed."""

    image_id: str
    files: Draft | Laid
    facts: dict[str, Any]
    dump_ms: float = 0.0
    rss_bytes: int = 0

    @property
    def imported(self) -> runner.Imported:
        """What is in it."""
        tasks = msgspec.convert(self.facts["tasks"], list[runner.TaskManifest])
        queues = msgspec.convert(self.facts["queues"], list[runner.QueueManifest])
        return runner.Imported(tasks, self.facts["threads"], 0.0, queues)


class Warm:
    """Warm images of one version, for one worker.

    Args:
        place: the worker's.
        project: the version.
        environment: what user code has here.
        trust: how far it is trusted here: what was imported with more privileges, or with less, is another process.
    """

    def __init__(
        self, place: Place, project: Project, environment: Mapping[str, str], trust: Trust = Trust.OWN
    ) -> None:
        self._place = place
        self._project = project
        self._trust = trust
        self._environment = _digest(environment, place.secret)

    # -- making one ---------------------------------------------------------------------------------------------------

    async def freeze(self, process: RunProcess, imported: runner.Imported) -> WarmImage:
        """Write the image of a parked runner, which is stopped by that and of no other use.

        Raises:
            CriuError: it can't be dumped.
            OSError: the disk is full or broken.
        """
        pid = process.pid
        assert pid is not None
        image_id = ids.new("warm")
        rss_bytes, inherited_bytes = checkpoint.resident_bytes(pid), usage.anonymous_bytes(pid)
        draft = self._place.images.begin(image_id, expected_bytes=rss_bytes)
        began = asyncio.get_running_loop().time()
        try:
            await criu.dump(self._place.criu, pid=pid, images=draft.criu, real_uid=process.belongings.real_uid)
            dump_ms = (asyncio.get_running_loop().time() - began) * 1000
            mapped = await asyncio.to_thread(self._pack, process, draft)
        except BaseException:
            self._place.images.discard(draft)
            raise
        draft.dumped()
        facts = {
            **self._place.facts,
            **process.belongings.facts(),
            "output_position": 0,
            "version": self._project.version,
            "root": str(self._project.root),
            "environment": self._environment,
            "trust": self._trust.value,
            "inherited_bytes": inherited_bytes,
            "threads": imported.threads,
            "files": mapped,
            "tasks": msgspec.to_builtins(imported.tasks),
            "queues": msgspec.to_builtins(imported.queues),
        }
        return WarmImage(image_id, draft, facts, dump_ms, rss_bytes)

    def _pack(self, process: RunProcess, draft: Draft) -> dict[str, list[Any]]:
        checkpoint.pack(process, draft.files)
        return checkpoint.mapped_files(process)

    async def store(self, image: WarmImage) -> bool:
        """Publish it and tell the engine; false if the engine doesn't want it. Until the store takes it, try again."""
        assert isinstance(image.files, Draft)
        without: set[str] = set()
        while True:
            try:
                stored = await self._place.images.publish(
                    image.files, image.facts, base=None, without=without, shelve=True
                )
            except ObjectsDown as error:
                log.info("the warm image of %s can't be stored yet: %s", self._project.version, error)
                await asyncio.sleep(STORE_RETRY_S)
                continue
            report = http.WarmReport(self._place.worker_id, self._project.version, self._told(image, stored))
            try:
                reply = await self._place.link.send("warm", report, http.LeaseReply)
            except ApiError as refused:
                log.info("the server does not want the warm image of %s: %s", self._project.version, refused)
                return False
            if reply.status != "gone":
                self._place.images.accepted(image.files)
                log.info("warm image of %s: %.1f MB", self._project.version, stored.size_bytes / 1e6)
                return True
            without.update(reply.gone)

    def _told(self, image: WarmImage, stored: Published) -> http.StoredCheckpoint:
        return http.StoredCheckpoint(
            id=image.image_id,
            size_bytes=stored.size_bytes,
            dump_ms=image.dump_ms,
            rss_bytes=image.rss_bytes,
            facts={name: value for name, value in image.facts.items() if name not in _WORDY},
            image_id=image.image_id,
            kind="warm",
            store_id=self._place.store_id,
            digest=stored.digest,
            key_id=stored.key_id,
            packs=stored.packs,
            new_bytes=stored.new_bytes,
            shared_bytes=stored.shared_bytes,
        )

    # -- using one ----------------------------------------------------------------------------------------------------

    async def find(self) -> WarmImage | None:
        """One that somebody has stored and that fits here, verified and laid. None: the version must be imported."""
        try:
            question = http.WarmRequest(self._place.worker_id, self._project.version)
            stored = (await self._place.link.send("warm/find", question, http.WarmFound)).checkpoint
        except ApiError:
            return None  # a server that has never heard of them
        if stored is None or self._is_of_another_import(stored.facts):
            return None
        if (reason := fitness.why_unfit(stored.facts, self._place.machine)) is not None:
            await self.refuse(stored.id, reason)
            return None
        try:
            laid = await self._place.images.fetch(stored)
        except ImageDamaged as error:
            await self.refuse(stored.id, str(error), damaged=True)
            return None
        except (ObjectsDown, OSError) as error:
            log.warning("the warm image of %s can't be had now: %s", self._project.version, error)
            return None
        reason = await asyncio.to_thread(fitness.why_unfit, laid.facts, self._place.machine)
        if reason is None:
            return WarmImage(stored.id, laid, laid.facts)
        self._place.images.release(laid)
        await self.refuse(stored.id, reason)
        return None

    def _is_of_another_import(self, facts: Mapping[str, Any]) -> bool:
        """It fits this machine, but its version was imported in another way than it would be here."""
        ours = {
            "packages": self._place.machine.packages,
            "root": str(self._project.root),
            "environment": self._environment,
            "trust": self._trust.value,
        }
        differing = [name for name, value in ours.items() if facts.get(name) != value]
        if differing:
            log.info("there is a warm image of %s, but not of our %s", self._project.version, " and ".join(differing))
        return bool(differing)

    async def thaw(self, image: WarmImage, network: str = HOST) -> RunProcess:
        """A runner that waits for its run.

        Raises:
            NoNetwork: there is no such network for it here.
            CriuError: it could not be restored.
            OSError: the disk is full or broken.
        """
        place = self._place
        prepared = await restore.lay(image.facts, image.files, place.run_root, place.rooms)
        process = restore.process_of(prepared, image.image_id)
        try:
            process.belongings.limit(self._place.cgroups, holds_bytes=prepared.inherited_bytes)
            await process.belongings.join_network(place.networks, network)
            await process.listen()
            with process.belongings.room_for_criu():
                pid = await criu.restore(
                    self._place.criu,
                    images=prepared.criu_images,
                    scratch=prepared.directory,
                    enter=lambda: restore.go_apart(prepared, process.belongings.network),
                    real_uid=process.belongings.real_uid,
                    on_root=process.belongings.stands_in_its_namespaces,
                )
                process.watch(pid)
                await asyncio.to_thread(namespaces.share_host_name, pid)
                process.wake()
                if await process.first_words(runner.Hello) is None:
                    raise CriuError(f"the thawed process did not wake up: {process.end_told()}")
        except BaseException:
            await process.bury()
            raise
        return process

    async def refuse(self, image_id: str, reason: str, *, damaged: bool = False) -> None:
        """Tell the engine that this worker, or with `damaged` nobody, can use it."""
        log.warning("the warm image of %s is of no use here: %s", self._project.version, reason)
        refusal = http.WarmRefusal(self._place.worker_id, image_id, reason, damaged)
        with contextlib.suppress(ApiError):
            await self._place.link.send("warm/refuse", refusal, http.LeaseReply)

    def let_go(self, image: WarmImage) -> None:
        """Its files are no longer needed."""
        if isinstance(image.files, Draft):
            self._place.images.discard(image.files)
        else:
            self._place.images.release(image.files)


async def parked(process: RunProcess) -> None:
    """Wait until a runner that was asked to has let go of its connection, and sleeps.

    Raises:
        CriuError: it has ended instead.
    """
    if await process.first_words(Closed) is None:
        raise CriuError(process.end_told())


def _digest(environment: Mapping[str, str], secret: str) -> str:
    digest = blake3(blake3(secret.encode()).digest(), key=blake3(b"torpor: environment of an import").digest())
    for name, value in sorted(environment.items()):
        if not _OF_THE_MACHINE.fullmatch(name):
            digest.update(f"{name}={value}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]
