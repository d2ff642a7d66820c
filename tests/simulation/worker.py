"""A worker: takes work, renews leases, hears news, tidies its disk; dies and comes back, or doesn't."""

from typing import TYPE_CHECKING, Any

from torpor import engine, ids
from torpor.wire.http import Assignment, Introduction, News, VersionReport

from .net import Message
from .objects import Shelf, Store
from .process import DRAIN, LiveRun, Process
from .stage import Actor, Inbox

if TYPE_CHECKING:
    from .seed import World

LEASE_S = 30.0
HEARTBEAT_S = 10.0
HOLD_REQUEST_S = 100.0  # longer than the real ones, for the same reason
SWEEP_S = 50.0


class Worker:
    """One data directory, and the instance that lives in it now."""

    def __init__(
        self, world: "World", worker_id: str, slots: int, store: Store | None, fitness: str, *, can_freeze: bool
    ) -> None:
        self.world = world
        self.id = worker_id
        self.slots = slots
        self.can_freeze = can_freeze
        self.disk: dict[str, Process] = {}
        self.settled: list[str] = []
        self.fitness = fitness
        self.cpu: float | None = None
        self.memory_bytes: int | None = None
        self.labels: dict[str, str] = {}
        self.shelf = Shelf(self, store) if store is not None else None
        """Without an object store it has its images on its own disk."""
        self.runs: dict[str, LiveRun] = {}
        self.is_alive = False
        self.instance_id = ""
        self.version = ""
        self.cut_until = 0.0
        self._requests = 0
        self._actors: list[Actor] = []
        self._room: Inbox[None] = Inbox(world.stage)
        self._ear: Inbox[bool] = Inbox(world.stage)

    # -- life ---------------------------------------------------------------------------------------------------------

    def boot(self) -> None:
        self.is_alive = True
        self.instance_id = ids.new("instance")
        self._room = Inbox(self.world.stage)
        self._start("", self._live())

    def die(self) -> None:
        """The kernel ends all its processes with it; what is on the wire arrives all the same."""
        self.world.net.note(self.id, "dies")
        self.is_alive = False
        self.world.servers.ears.pop(self.id, None)
        for actor in self._actors:
            actor.kill()
        self._actors.clear()
        self.runs.clear()

    def drain(self) -> None:
        """All its processes move away, wherever they are."""
        self.world.net.note(self.id, "drains")
        for run in self.runs.values():
            run.inbox.put(DRAIN)

    def is_cut(self) -> bool:
        return self.world.stage.time < self.cut_until

    async def _live(self) -> None:
        await self._introduce()
        self._start(" work", self._take_work())
        self._start(" beat", self._renew_leases())
        self._start(" tidy", self._tidy())

    async def _introduce(self) -> None:
        world = self.world
        intro = Introduction(self.id, self.instance_id, "host", self.slots, self.can_freeze, {})
        intro.cpu, intro.memory_bytes, intro.labels = self.cpu, self.memory_bytes, self.labels
        if self.shelf is not None:
            intro.store_id, intro.fitness = self.shelf.store.id, self.fitness
        await self._say(
            "hello",
            lambda tx, now: engine.register_worker(
                tx, world.environment_id, intro, lease_s=LEASE_S, max_rescues=world.max_rescues, now=now
            ),
        )
        await self.import_version(world.version)

    async def import_version(self, version: str) -> None:
        self.version = version
        report = VersionReport(self.id, version, self.world.manifests(version), self.world.queues())
        environment_id = self.world.environment_id
        await self._say(
            "version", lambda tx, now: engine.register_version(tx, environment_id, report, now=now), version
        )
        self.has_room()

    def redeploy(self, version: str) -> None:
        self._start(" import", self.import_version(version))

    # -- duties -------------------------------------------------------------------------------------------------------

    async def _take_work(self) -> None:
        while True:
            free = self._free()
            if free <= 0:
                await self._room.get()
                continue
            assignments = await self._hold_request(free)
            if assignments is None:
                await self.world.stage.sleep(self.world.rng.choice([0.05, 0.5, 2.0]))
                continue
            for assignment in assignments:
                self._take(assignment)

    def _take(self, assignment: Assignment) -> None:
        run = LiveRun(self, assignment)
        former = self.runs.pop(assignment.run_id, None)
        if former is not None:
            # Held under an older lease, which is over: that process must end before this one begins.
            assert former.actor is not None
            former.actor.kill()
        self.runs[assignment.run_id] = run
        run.actor = self._start(f":{assignment.run_id[-4:]}", run.live())

    async def _hold_request(self, free: int) -> list[Assignment] | None:
        """A request for work, held by the server as server/workers/worker.py does. None: it, or its answer, was lost."""
        world, rng, servers = self.world, self.world.rng, self.world.servers
        weather = world.net.weather
        await world.stage.sleep(rng.uniform(0.0005, 0.01))
        if self.is_cut() or rng.random() < weather.lost:
            return None
        until, was_woken, swept = world.stage.time + HOLD_REQUEST_S, False, False
        back, take = self._request(free)
        if rng.random() < weather.late:
            world.stage.start("late", self._late_request(back, take))
            if rng.random() < 0.5:
                return None
        self._ear.items.clear()
        servers.ears[self.id] = self._ear
        if not weather.is_calm:  # when nothing was ever lost, there is nothing to take back
            await world.net.deliver(back)
        while True:
            assignments = await world.net.deliver(take)
            if swept and assignments:
                world.found_by_sweep(self.id, ", ".join(given.run_id for given in assignments))
            took_all = 0 < len(assignments) < free and not any(given.checkpoint for given in assignments)
            took_all = took_all and not (was_woken and await self._is_short())
            if was_woken and not took_all:
                servers.pass_on(self.id)
            left_s = until - world.stage.time
            if assignments or left_s <= 0:
                break
            was_woken = bool(await self._ear.get(min(left_s, SWEEP_S)))
            swept = not was_woken
        servers.ears.pop(self.id, None)
        await world.stage.sleep(rng.uniform(0.0005, 0.01))
        if assignments and (self.is_cut() or rng.random() < weather.reply_lost):
            world.net.note(self.id, "… and its answer is lost (dequeue)")
            return None
        return assignments

    async def _is_short(self) -> bool:
        world = self.world
        found, _ = await world.store.do(lambda tx: engine.is_short(tx, world.environment_id, self.id))
        return bool(found)

    def _request(self, free: int) -> tuple[Message, Message]:
        """What the server does with a request for work; made anew for each try."""
        self._requests += 1
        number, holding = self._requests, [run.held for run in self.runs.values()]
        instance_id, version, max_rescues = self.instance_id, self.version, self.world.max_rescues
        back = Message(
            self.id,
            "take back",
            lambda tx, now: engine.take_back_lost(
                tx, self.id, instance_id, number, holding, max_rescues=max_rescues, now=now
            ),
            about=f"before {number}",
        )
        take = Message(
            self.id,
            "dequeue",
            lambda tx, now: engine.dequeue(
                tx,
                self.id,
                instance_id,
                free=free,
                versions=[version],
                can_restore=self.can_freeze,
                lease_s=LEASE_S,
                number=number,
                now=now,
            ),
            about=f"{number}, free {free}",
        )
        return back, take

    async def _late_request(self, back: Message, take: Message) -> None:
        """A copy that the server held, though nobody reads its reply any more."""
        await self.world.stage.sleep(self.world.rng.choice([0.01, 1.0, self.world.net.weather.latest_s]))
        await self.world.net.deliver(back, is_late=True)
        await self.world.net.deliver(take, is_late=True)

    def _free(self) -> int:
        waiting = sum(run.is_waiting and bool(run.open) for run in self.runs.values())
        return self.slots - (len(self.runs) - waiting)

    def has_room(self) -> None:
        if not self._room.items:
            self._room.put(None)

    async def _renew_leases(self) -> None:
        world = self.world
        while True:
            await world.stage.sleep(HEARTBEAT_S)
            leases = [run.held for run in self.runs.values()]
            if not leases and world.rng.random() < 0.8:
                continue
            instance_id = self.instance_id
            reply, _ = await self._say(
                "heartbeat",
                lambda tx, now, leases=leases, instance_id=instance_id: engine.heartbeat(
                    tx, self.id, instance_id, leases, lease_s=LEASE_S, now=now
                ),
                once=True,
            )
            if reply is None:
                continue
            if not reply.known:
                await self._introduce()
            for news in reply.news:
                self.hear(news)

    def hear(self, news: News) -> None:
        run = self.runs.get(news.run_id)
        if run is not None and run.lease.number == news.lease:
            run.inbox.put(news)

    async def _tidy(self) -> None:
        while True:
            pauses_s = [1.0, 5.0, 20.0] if self.world.is_frosty and self.world.is_storm else [20.0, 60.0, 200.0]
            await self.world.stage.sleep(self.world.rng.choice(pauses_s))
            if self.shelf is not None:
                await self.shelf.tidy()
                continue
            candidates = sorted({*self.settled} & {*self.disk})
            if not candidates:
                continue
            kept, _ = await self._say(
                "census", lambda tx, now, ids=candidates: engine.keep(tx, self.id, ids, now=now), once=True
            )
            if kept is not None:
                for checkpoint_id in candidates:
                    if checkpoint_id not in kept:
                        del self.disk[checkpoint_id]
                        self.settled.remove(checkpoint_id)

    # -- runs ---------------------------------------------------------------------------------------------------------

    def forget(self, run: LiveRun) -> None:
        if self.runs.get(run.lease.run_id) is run:
            del self.runs[run.lease.run_id]
        self.has_room()

    def _start(self, name: str, coroutine: Any) -> Actor:
        actor = self.world.stage.start(self.id + name, coroutine)
        self._actors.append(actor)
        return actor

    async def _say(self, what: str, act: Any, about: str = "", *, once: bool = False) -> tuple[Any, int]:
        return await self.world.net.send(Message(self.id, what, act, about=about), is_cut=self.is_cut, once=once)
