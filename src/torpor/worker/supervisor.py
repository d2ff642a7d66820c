"""The worker's main process: asks the server for leases, places them, renews them, and shuts down.

Four duties run side by side: `_take_work` holds a request for leases open, `_hear_news` a stream of what happens to our
runs, `_renew_leases` tells the server that we live, `_tidy` deletes images that nobody needs. Each run that we hold has a
task of its own (`live_run.py`). Heartbeats come from here, never from user code: code that blocks is not a stall.
"""

import asyncio
import base64
import logging
import os
import platform
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from torpor import ids
from torpor.config import Settings
from torpor.errors import ApiError
from torpor.images import Images, Keyring, Workspace
from torpor.images.workspace import MEMORY
from torpor.objects import ObjectsDown, identity, open_objects
from torpor.wire import http
from torpor.worker import capacity
from torpor.worker.cgroups import Cgroups
from torpor.worker.drain import Drain
from torpor.worker.faults import watched_objects
from torpor.worker.garbage import Garbage
from torpor.worker.house import House
from torpor.worker.isolation import Isolation
from torpor.worker.link import Link
from torpor.worker.live_run import LiveRun
from torpor.worker.met import INTERVAL_S as LIMITS_INTERVAL_S
from torpor.worker.network import REFRESH_S, Networks, reached
from torpor.worker.pressure import INTERVAL_S as PRESSURE_INTERVAL_S
from torpor.worker.pressure import Pressure
from torpor.worker.process import watched
from torpor.worker.room import Rooms
from torpor.worker.serve import DRAINED, worker_id
from torpor.worker.variables import Variables
from torpor.worker.version import Version
from torpor.worker.versions import Versions

log = logging.getLogger(__name__)

ORDERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)
LAST_WORDS_S = 2.0


class Supervisor:
    """One worker.

    Args:
        settings: `api_url` and `worker_token` must be set.
        path: the project whose tasks this worker runs.
        run_root: where runs have their directories; the same path on every machine, for images name it.
        isolated: runs get namespaces of their own, which freezing needs.
        unfreezable: why this process can't freeze at all, or None to look for a CRIU.
        isolation: how far runs are kept apart.
        cgroups: where runs get their limits; None: they have none.
    """

    def __init__(
        self,
        settings: Settings,
        path: Path,
        *,
        run_root: Path,
        isolated: bool,
        unfreezable: str | None,
        isolation: Isolation,
        cgroups: Cgroups | None,
    ) -> None:
        assert settings.api_url is not None
        assert settings.worker_token is not None
        self._settings = settings
        self._path = path
        self._isolated = isolated
        self._unfreezable = unfreezable
        self._data = settings.data_dir.resolve() / "worker"
        self._worker_id = worker_id(settings)
        self._instance_id = ids.new("instance")
        self._runs: dict[str, LiveRun] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._draining = asyncio.Event()
        self._in_a_hurry = asyncio.Event()
        self._pressure = Pressure(settings.memory_floor_percent)
        self._leases_news = asyncio.Event()
        self._offer = capacity.offer(settings)
        self._requests = 0
        self._lease_s = settings.lease_s
        self._heartbeat_interval_s = settings.heartbeat_interval_s
        loaded: dict[str, Version] = {}
        self._house = House(
            settings,
            Link(settings.api_url, settings.worker_token, settings.project, settings.environment),
            self._open_images(),
            run_root,
            loaded.get,
            Networks(reached(settings.network_reaches)),
            Variables(self._ask_for_variables),
            lambda revision: self._versions.keep_up(revision),
            isolation=isolation,
            rooms=Rooms(run_root, settings) if isolated else None,
            cgroups=cgroups,
        )
        self._versions = Versions(
            self._house,
            path,
            loaded,
            self._worker_id,
            isolated=isolated,
            introduce=self._introduce,
            spawn=self._spawn,
        )
        self._garbage = Garbage(
            self._house.images,
            self._house.link,
            self._worker_id,
            self._house.strays,
            grace_s=settings.checkpoint_grace_s,
        )

    async def serve(self) -> None:
        """Work until SIGTERM or SIGINT, then move what can be moved and leave. SIGUSR2, or the server's word, does the same, but
        waits for the rest."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._versions.reload)
        loop.add_signal_handler(signal.SIGUSR2, self._draining.set)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ORDERS)
        self._house.images.workspace.sweep()
        await self._house.look_around(self._path, self._unfreezable)
        await self._find_store()
        await self._introduce()
        await self._house.variables.at_least(0)  # an import may look at them
        self._versions.reload()  # meanwhile runs can be restored: an image needs no import
        duties = [self._take_work, self._hear_news, self._renew_leases, self._tidy]
        if sys.platform == "linux":
            duties += [self._reap, self._mind_memory, self._mind_limits, self._mind_networks]
        working = [asyncio.create_task(self._forever(duty)) for duty in duties]
        orders = [asyncio.create_task(event.wait()) for event in (self._stopping, self._draining)]
        await asyncio.wait(orders, return_when=asyncio.FIRST_COMPLETED)
        await self._leave(working)

    def _stop(self) -> None:
        if self._stopping.is_set():
            self._in_a_hurry.set()
        self._stopping.set()

    # -- coming up ----------------------------------------------------------------------------------------------------

    def _open_images(self) -> Images:
        settings = self._settings
        objects = watched_objects(open_objects(settings.object_store, self._data / "store"))
        workspace = Workspace(self._data / "images", MEMORY if self._isolated else None)
        return Images(objects, Keyring(ask=self._ask_for_keys), workspace)

    async def _ask_for_keys(self) -> tuple[dict[str, bytes], str]:
        reply = await self._house.link.send("keys", http.KeysRequest(self._worker_id), http.KeysReply)
        return {each.id: base64.b64decode(each.key) for each in reply.keys}, reply.current

    async def _ask_for_variables(self) -> http.VariablesReply:
        return await self._house.link.send("variables", http.VariablesRequest(self._worker_id), http.VariablesReply)

    async def _find_store(self) -> None:
        """Learn which store this is. Without it no image could be kept or found."""
        delay_s = 0.5
        while self._house.criu is not None:
            try:
                self._house.store_id = await identity(self._house.images.objects)
                return
            except ObjectsDown as error:
                log.error("%s; trying until it does", error)
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, 15.0)

    async def _introduce(self) -> None:
        introduction = http.Introduction(
            self._worker_id,
            self._instance_id,
            platform.node(),
            self._settings.worker_slots,
            self._house.criu is not None,
            {
                **self._house.facts,
                "no_freeze_reason": self._house.no_freeze_reason or None,
                "isolation": self._house.isolation.facts(),
                "trust": str(self._house.trust),
                "networks": self._house.kinds_of_networks(),
                "start_patience_s": self._settings.start_patience_s,  # the engine's boot time-out begins after it
            },
            store_id=self._house.store_id,
            fitness=self._house.machine.digest if self._house.machine else "",
            cpu=self._offer.cpu,
            memory_bytes=self._offer.memory_bytes,
            labels=self._offer.labels,
        )
        welcome = await self._house.link.send("hello", introduction, http.Welcome)
        self._lease_s = welcome.lease_s
        self._heartbeat_interval_s = welcome.heartbeat_interval_s
        self._house.limits = welcome.limits
        if welcome.rescued:
            log.info("took back %d runs that this worker held when it ended", welcome.rescued)

    # -- duties -------------------------------------------------------------------------------------------------------

    async def _forever(self, duty: Callable[[], Awaitable[None]]) -> None:
        """A duty that fails says so and goes on: the worker must not stand still for one bad answer."""
        while True:
            try:
                await duty()
            except (ApiError, ObjectsDown, OSError, msgspec.MsgspecError) as error:
                log.error("%s: %s", getattr(duty, "__name__", "duty").strip("_"), error)
                await asyncio.sleep(1.0)

    async def _take_work(self) -> None:
        free = self._free()
        if free <= 0:
            self._house.vacancy.clear()
            await self._house.vacancy.wait()
            return
        reply = await self._house.link.send_anew("dequeue", self._request_for_work, http.DequeueReply)
        for assignment in reply.assignments:
            run = LiveRun(self._house, assignment)
            former, self._runs[assignment.run_id] = self._runs.get(assignment.run_id), run
            self._spawn(self._hold(run, former))

    async def _say_what_is_here(self) -> None:
        """A run may have been handed out to the request that we have just given up: the engine learns that it isn't here."""
        self._requests += 1
        held = [run.lease for run in self._runs.values()]
        request = http.DequeueRequest(
            self._worker_id, self._instance_id, 0, [], False, wait_s=0.0, number=self._requests, holding=held
        )
        await self._house.link.send("dequeue", request, http.DequeueReply)

    def _request_for_work(self) -> http.DequeueRequest:
        """Made for each try: by number and list the engine knows what never arrived (its rescue.py says how).

        So this list must hold every run that a reply has brought, and no two requests may be under way at once.
        """
        self._requests += 1
        return http.DequeueRequest(
            self._worker_id,
            self._instance_id,
            self._free(),
            self._versions.names,
            self._house.criu is not None,
            number=self._requests,
            holding=[run.lease for run in self._runs.values()],
        )

    def _free(self) -> int:
        """A run that waits takes no slot, or parents that are held could keep out the children they wait for. But memory
        is not endless: beyond `worker_held` of them, they count. Whether a run fits here is for the engine to know (its
        placement.py): it has what we offered at hello, and knows what we hold.
        """
        if self._house.refusal is not None:
            return 0
        waiting = sum(run.is_waiting for run in self._runs.values())
        working = len(self._runs) - waiting
        return self._settings.worker_slots - working - max(0, waiting - self._settings.worker_held)

    async def _hold(self, run: LiveRun, former: LiveRun | None) -> None:
        try:
            if former is not None:
                # We hold this run under an older lease, which is over: that process must end before this one begins.
                former.tell(http.News("stale", run.lease.run_id, former.lease.lease))
                await former.gone.wait()
            if self._runs.get(run.lease.run_id) is run:  # else a newer lease has come meanwhile
                await run.live()
        finally:
            run.gone.set()
            if self._runs.get(run.lease.run_id) is run:
                del self._runs[run.lease.run_id]
            self._house.vacancy.set()

    async def _hear_news(self) -> None:
        async for news in self._house.link.news(self._worker_id, self._instance_id):
            self._hand_on(news)
        await asyncio.sleep(0.2)

    async def _renew_leases(self) -> None:
        await asyncio.sleep(self._heartbeat_interval_s)
        leases = [run.lease for run in self._runs.values()]
        heartbeat = http.HeartbeatRequest(self._worker_id, self._instance_id, leases, self._disk())
        reply = await self._house.link.send("heartbeat", heartbeat, http.HeartbeatReply)
        if reply.current_key is not None:
            self._house.images.keys.announce(reply.current_key)
        if reply.variables_revision > self._versions.kept_up:
            self._spawn(self._versions.keep_up(reply.variables_revision))
        if not reply.known:
            await self._introduce()
            await self._versions.load()
        for news in reply.news:
            self._hand_on(news)
        if reply.drain:
            self._draining.set()

    def _disk(self) -> http.Disk:
        usage = shutil.disk_usage(self._data)
        return http.Disk(usage.total, usage.free)

    def _hand_on(self, news: http.News) -> None:
        run = self._runs.get(news.run_id)
        if run is not None and news.lease == run.lease.lease:
            run.tell(news)

    async def _tidy(self) -> None:
        """Delete objects of the store that nobody needs."""
        if self._house.store_id:
            await self._garbage.step(now=datetime.now(UTC))
        await asyncio.sleep(self._settings.tidy_interval_s)

    async def _mind_memory(self) -> None:
        """Freeze runs that wait when memory is short."""
        for run_id in self._pressure.step(self._runs.values()):
            log.info("memory is short: run %s, which waits, is frozen", run_id)
        await asyncio.sleep(PRESSURE_INTERVAL_S)

    async def _mind_limits(self) -> None:
        """Look which runs have met their limits."""
        await asyncio.sleep(LIMITS_INTERVAL_S)
        for run in list(self._runs.values()):
            run.look_at_limits()

    async def _mind_networks(self) -> None:
        """Keep runs with private networks away from addresses that this machine has got meanwhile."""
        await asyncio.sleep(REFRESH_S)
        await self._house.networks.refresh()

    async def _reap(self) -> None:
        """As pid 1 of our namespace we inherit what others leave behind; nobody else would collect it."""
        await asyncio.sleep(1.0)
        known = watched | self._versions.zygotes | {*self._house.networks.pids}
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None or ended.si_pid in known:
                return
            os.waitpid(ended.si_pid, os.WNOHANG)

    # -- going down ---------------------------------------------------------------------------------------------------

    async def _leave(self, duties: list[asyncio.Task[None]]) -> None:
        """Take no more work, freeze what can be frozen, and leave. What still runs is taken back when this worker comes up
        again. A drain waits for it, unless it is told to stop as well.
        """
        duties[0].cancel()
        await asyncio.wait([duties[0]])
        if self._runs:
            log.info("moving %d runs before leaving", len(self._runs))
        window_s = self._settings.drain_s

        def is_over(since_s: float) -> bool:
            if self._in_a_hurry.is_set():
                return True
            return since_s > window_s and (self._stopping.is_set() or not self._draining.is_set())

        reason = "the worker is drained" if self._draining.is_set() else "the worker stops"
        saying = asyncio.create_task(self._say_what_is_here())
        await Drain(self._runs, self._data / DRAINED, window_s).perform(reason, is_over=is_over)
        await asyncio.wait([saying], timeout=LAST_WORDS_S)
        saying.cancel()
        for each in [*duties, *self._tasks]:
            each.cancel()
        await asyncio.gather(*duties, *self._tasks, return_exceptions=True)
        await self._versions.stop()
        await self._house.networks.stop()
        await self._house.link.close()

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._spawned_ended)
        return task

    def _spawned_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a run's attendant failed; its lease will run out", exc_info=error)
