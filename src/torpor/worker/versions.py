"""The versions of the project that a worker has imported: as a rule one, the project as it is now.

    the project changes (SIGHUP, a zygote that finds other files)  ---+
    the environment's variables change                             ---+--> imported again, or thawed; then it takes
    the worker comes up                                            ---+    the place of those before

Their runs live on. What can't be imported is told, and the version before goes on.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

from torpor.errors import ApiError, ConfigError
from torpor.wire import http
from torpor.worker import discovery
from torpor.worker.forking import ImportFailed, ZygoteDied
from torpor.worker.house import House
from torpor.worker.router import NoNetwork
from torpor.worker.version import Version, Way
from torpor.worker.warm import Place as WarmPlace
from torpor.worker.warm import Warm

log = logging.getLogger(__name__)

IMPORT_RETRY_S, LONGEST_IMPORT_RETRY_S = 5.0, 300.0
SHOWN_TASKS = 50

Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]


class Versions:
    """The versions that one worker has.

    Args:
        house: the worker's.
        path: the project.
        loaded: takes them, by their names.
        worker_id: whose they are.
        isolated: runs get namespaces of their own.
        introduce: says to the server what this worker is, as other images fit it from now on.
        spawn: has something done beside.

    Attributes:
        kept_up: the revision of the environment's variables that they were imported with, or are about to be.
    """

    def __init__(
        self,
        house: House,
        path: Path,
        loaded: dict[str, Version],
        worker_id: str,
        *,
        isolated: bool,
        introduce: Callable[[], Awaitable[None]],
        spawn: Spawn,
    ) -> None:
        self._house = house
        self._path = path
        self._loaded = loaded
        self._worker_id = worker_id
        self._isolated = isolated
        self._introduce = introduce
        self._spawn = spawn
        self._one_import = asyncio.Lock()
        self._import_retry_s = IMPORT_RETRY_S
        self._keeping_up: asyncio.Task[None] | None = None
        self.kept_up = 0

    @property
    def names(self) -> list[str]:
        return list(self._loaded)

    @property
    def zygotes(self) -> set[int | None]:
        """The pids of their zygotes."""
        return {version.zygote_pid for version in self._loaded.values()}

    async def stop(self) -> None:
        """End all zygotes and runners that have no run."""
        for version in self._loaded.values():
            await version.stop()

    def reload(self) -> None:
        """Import the project as it is now, soon."""
        self._spawn(self.load())

    async def load(self) -> None:
        """Import the project as it is now; on success it becomes the current version. One at a time: the last one wins."""
        async with self._one_import:
            await self._import_project()

    async def _import_project(self) -> None:
        try:
            project = discovery.find(self._path)
            if self._house.hold_for(project, self._path):
                await self._introduce()  # other images fit from now on
            if self._house.refusal is not None:
                log.error("nothing runs here: %s", self._house.refusal)
                return
            version, is_thawed = self._loaded.get(project.version), False
            if version is None or not self._fits(version):
                version = self._new_version(project)
                is_thawed = await self._replace_versions(version)
            else:
                version.network = self._house.network
                await self._report(version, project.machine)
            version.make_ahead()
            if not self._fits(version):  # they have changed while it was imported
                self.reload()
            self._house.vacancy.set()
            self._import_retry_s = IMPORT_RETRY_S
            names = ", ".join(task.id for task in version.tasks[:SHOWN_TASKS]) or "no tasks"
            names += f" and {more} more" if (more := len(version.tasks) - SHOWN_TASKS) > 0 else ""
            how = "thawed" if is_thawed else f"imported in {version.import_ms:.0f} ms"
            log.info("version %s: %s (%s)", version.name, names, how)
            if is_thawed and version.needs_import:
                self._spawn(self._import_too(version))
        except ImportFailed as failed:
            log.error("the tasks in %s can't be imported\n%s", self._path, failed.error.stack_trace)
        except (ZygoteDied, OSError) as error:
            # What killed it (an operator, the OOM killer), or kept it from coming up (a full disk), may be over; without a
            # version this worker starts nothing.
            log.error("%s; importing again in %.0f s", error, self._import_retry_s)
            asyncio.get_running_loop().call_later(self._import_retry_s, self.reload)
            self._import_retry_s = min(self._import_retry_s * 2, LONGEST_IMPORT_RETRY_S)
        except (ConfigError, ApiError, NoNetwork) as error:
            log.error("%s", error)

    def _fits(self, version: Version) -> bool:
        """It was imported with as much trust as would be now, and with the variables that there are now."""
        return version.trust is self._house.trust and version.environment == self._house.environment

    async def keep_up(self, revision: int) -> None:
        """A run that starts finds the variables in `os.environ`, and what its modules have read of them at import is no older.

        Where the import fails with the new ones, the version stays as it was imported; its runs have the new ones all the same.
        """
        if revision > self.kept_up:
            self.kept_up, self._keeping_up = revision, self._spawn(self._take_up(revision))
        if self._keeping_up is not None:
            # Shielded: a run that is taken back meanwhile must not end what others wait for.
            await asyncio.shield(self._keeping_up)

    async def _take_up(self, revision: int) -> None:
        try:
            await self._house.variables.at_least(revision)
        except ApiError:
            self.kept_up = 0  # whoever needs them next asks again
            raise
        # Where there is none its import may have failed, for want of a variable.
        if not self._loaded or not all(map(self._fits, self._loaded.values())):
            log.info("variables of the environment have changed: the project is imported again")
            await self.load()

    async def _replace_versions(self, version: Version) -> bool:
        """Import it, or thaw it (true), and let it take the place of those before, whose runs live on. If that fails nothing of
        it is left, and they go on.
        """
        former = dict(self._loaded)
        try:
            is_thawed = await version.find_image()
            if not is_thawed:
                await version.start()
            self._loaded[version.name] = version  # the server may hand out its runs as soon as it knows of it
            await self._report(version, version.project.machine)
        except BaseException:
            self._loaded.clear()
            self._loaded.update(former)
            await version.stop()
            raise
        for name, each in former.items():
            await each.stop()
            if self._loaded[name] is each:
                del self._loaded[name]
        return is_thawed

    async def _report(self, version: Version, machine: str | None) -> None:
        report = http.VersionReport(self._worker_id, version.name, version.tasks, version.queues, machine)
        await self._house.link.send("versions", report, http.VersionAccepted)

    def _new_version(self, project: discovery.Project) -> Version:
        house, warm = self._house, None
        environment = house.environment
        if house.criu is not None:
            assert house.machine is not None
            assert self._house.settings.worker_token is not None
            warm = Warm(
                WarmPlace(
                    self._worker_id,
                    house.store_id,
                    house.images,
                    house.link,
                    house.criu,
                    house.machine,
                    house.facts,
                    house.run_root,
                    secret=self._house.settings.worker_token,
                    rooms=house.rooms,
                    cgroups=house.cgroups,
                    networks=house.networks,
                ),
                project,
                environment,
                house.trust,
            )
        return Version(
            project,
            house.run_root,
            isolated=self._isolated,
            environment=environment,
            own_environment=house.own_environment,
            trust=house.trust,
            on_changed=self.reload,
            warm=warm,
            rooms=house.rooms if house.isolation.level != "off" else None,
            networks=house.networks,
            network=house.network,
            import_timeout_s=self._house.settings.import_timeout_s,
            cgroups=house.cgroups,
        )

    async def _import_too(self, version: Version) -> None:
        """A version that is thawed can be used already; forks are faster. What killed the import may be over by and by."""
        pause_s = IMPORT_RETRY_S
        while self._loaded.get(version.name) is version and version.way is not Way.FORKED:
            try:
                await version.start()
                told = "%s is imported here, too (in %.0f ms): its runs are forked from now on"
                log.info(told, version.name, version.import_ms)
                return
            except ImportFailed as failed:
                log.warning("%s is thawed, but can't be imported here: %s", version.name, failed)
                return
            except (ZygoteDied, OSError) as error:
                told = "%s is thawed, but can't be imported here: %s; trying again in %.0f s"
                log.warning(told, version.name, error, pause_s)
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, LONGEST_IMPORT_RETRY_S)
