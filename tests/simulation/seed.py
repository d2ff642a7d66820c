"""One seed, from the first trigger until everything has ended: a storm, then quiet, then the checks."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import msgspec

from torpor import engine
from torpor.engine import Lease, queues
from torpor.engine.debounce import Debounce
from torpor.wire.presets import BUILT_IN, GB, Preset
from torpor.wire.runner import CheckpointPolicy, QueueManifest, RetryPolicy, TaskManifest

from . import weather as sky
from .checks import findings
from .net import Message, Net, Violation
from .objects import Store as ObjectStore
from .postgres import Store, ids_from
from .programs import TASKS, Library
from .servers import LONGEST_SLEEP_S, Servers
from .stage import Stage
from .users import STORM_S, Users
from .worker import Worker

EPOCH = datetime(2026, 1, 1, 12, tzinfo=UTC)
PATIENCE_S = 600.0
"""When nothing has become of any run for so long, those that have not ended never will."""
LONGEST_S = 4 * 3600.0
ROUND_S = 10.0
PRESETS = [*BUILT_IN.values(), Preset("labeled", 0.5, GB // 2, GB // 4, 100, {"here": "yes"})]


@dataclass(frozen=True)
class Report:
    """What came of a seed."""

    seed: int
    failures: list[str]
    trace: list[str] = field(repr=False)
    runs: int = 0
    verbs: int = 0

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256("\n".join(self.trace).encode()).hexdigest()[:16]


class World:
    """Everything that plays in one seed."""

    def __init__(self, seed: int, store: Store) -> None:
        self.rng = Random(seed)
        self.store = store
        self.stage = Stage()
        self.epoch = EPOCH
        self.net = Net(self.rng, self.stage, store, sky.draw(self.rng), EPOCH)
        self.library = Library(self.rng)
        self.servers = Servers(self)
        self.users = Users(self)
        self.workers: dict[str, Worker] = {}
        self.environment_id = ""
        self.version = "v1"
        self.max_rescues = self.rng.choice([0, 2, 5, 5])
        self.unfit_patience_s = self.rng.choice([0.0, 40.0])
        self.is_frosty = self.rng.random() < 0.4
        """Much is saved, moved, forked and deleted, and garbage is collected all the time."""
        self.grace_s = self.rng.choice([0.2, 5.0]) if self.is_frosty else 30.0
        self.is_storm = True
        self.was_calm = self.net.weather.is_calm
        self.limits = (self.rng.choice([None, 1, 2]), 1)
        self.waits_time_out = True
        self.sizes = Random(f"sizes {seed}")
        self.is_tight = self.sizes.random() < 0.4
        """Runs are of many sizes, some use up their memory, and workers have little to give."""
        self.shared: list[str] = []  # tokens that several runs may wait for
        self.tokens: list[str] = []
        self.triggered: list[str] = []
        self.roots: list[str] = []
        self.told: list[tuple[str, int, str, str, str]] = []

    # -- what the actors share ----------------------------------------------------------------------------------------

    def request(
        self,
        program: int,
        *,
        run_id: str,
        key: str | None = None,
        delay_s: float = 0.0,
        parent_lease: Lease | None = None,
        options: bool = False,
    ) -> Callable[[datetime], engine.TriggerRequest]:
        """A trigger of that program, once it is known when."""
        written = self.library.programs[program]
        # Inside a run a key is the run's own, as the SDK has it.
        scoped = f"{parent_lease.run_id if parent_lease else 'global'}/{key}" if key else None
        given: dict[str, Any] = {}
        rng = self.rng
        if rng.random() < 0.3:
            given["queue"] = rng.choice(["shared", "narrow"])
        if rng.random() < 0.3:
            given["concurrency_key"] = rng.choice(["x", "y"])
        if rng.random() < 0.2:
            given["priority_s"] = rng.choice([1.0, 20.0])
        if rng.random() < 0.1:
            given["ttl_s"] = rng.choice([1.0, 30.0])
        if options and rng.random() < 0.15:
            mode, most_s = rng.choice(["leading", "trailing"]), rng.choice([None, 10.0])
            given["debounce"] = Debounce("d", rng.choice([3.0, 20.0]), mode, most_s)
        if rng.random() < 0.05:
            given |= {"lock_to_version": "v1", "ttl_s": 60.0}  # by itself it would wait for an hour

        if self.is_tight and self.sizes.random() < 0.6:
            given["preset"] = self.sizes.choice(["micro", "small-2x", "medium-1x", "labeled"])

        def at(now: datetime) -> engine.TriggerRequest:
            return engine.TriggerRequest(
                written.task,
                payload=str(program),
                run_id=run_id,
                idempotency_key=scoped,
                max_attempts=written.max_attempts,
                delay_until=now + timedelta(seconds=delay_s) if delay_s else None,
                parent_lease=parent_lease,
                **given,
            )

        return at

    def accepted(self, reply: Any, *, is_root: bool = False) -> None:
        """The engine has promised that this run ends."""
        if isinstance(reply, engine.Triggered) and reply.run_id not in self.triggered:
            self.triggered.append(reply.run_id)
            if is_root:
                self.roots.append(reply.run_id)

    def other(self, run_id: str) -> str:
        """Some root run, which may well wait for this one: then the engine breaks the circle."""
        del run_id
        return self.rng.choice(self.roots) if self.roots and self.rng.random() < 0.9 else "run_nowhere"

    async def cancel(self, run_id: str) -> None:
        await self.net.send(
            Message(
                "user",
                "cancel",
                lambda tx, now: engine.cancel(tx, self.environment_id, run_id, reason="enough", now=now),
                about=run_id,
            )
        )

    def manifests(self, version: str) -> list[TaskManifest]:
        retry = RetryPolicy(max_attempts=3, min_delay_s=1, factor=3, max_delay_s=20, jitter=True)
        policies = {
            "alpha": retry,
            "beta": RetryPolicy(max_attempts=1),
            "gamma": msgspec.structs.replace(retry, resume="checkpoint", on_oom="medium-1x"),
        }
        keep = {"gamma": CheckpointPolicy(keep_s=5.0, keep_last=1)}
        return [
            TaskManifest(
                name,
                "jobs.py",
                1,
                True,
                "one",
                {},
                policies[name],
                checkpoints=keep.get(name, CheckpointPolicy()),
            )
            for name in TASKS
        ]

    def queues(self) -> list[QueueManifest]:
        return [QueueManifest("shared", self.limits[0]), QueueManifest("narrow", self.limits[1])]

    def found_by_sweep(self, who: str, what: str) -> None:
        """Whoever was asleep found something to do by looking again: nobody had announced it."""
        if self.was_calm:  # from the start: what was lost in a storm may be found later
            raise Violation(f"announcements: there was work, {what}, and {who} was not told")

    # -- the play -----------------------------------------------------------------------------------------------------

    async def prepare(self) -> None:
        rng = self.rng
        store = self.store

        keep_s = rng.choice([0.0, 20.0, 2000.0])

        async def founded(tx: Any) -> Any:
            return await engine.ensure_environment(
                tx, "sim", key_hash=b"k", checkpoint_retention_s=keep_s, presets=PRESETS, now=EPOCH
            )

        environment, _ = await store.do(founded)
        self.environment_id = environment.id
        limit = rng.choice([None, None, None, 1, 2, 5])
        if limit is not None:
            burst = rng.choice([1.0, 1.0, 1.5, 2.0])
            await store.do(
                lambda tx: queues.configure(
                    tx, self.environment_id, concurrency_limit=limit, burst_factor=burst, now=EPOCH
                )
            )
        for _ in range(3):
            timeout_s = rng.choice([None, None, 10.0, 60.0])
            request = engine.TokenRequest(timeout_s=timeout_s)
            made, _ = await store.do(
                lambda tx, request=request: engine.create_token(tx, self.environment_id, request, now=EPOCH)
            )
            self.shared.append(made.waitpoint_id)
        shared = ObjectStore("shared")
        for nth in range(rng.choice([1, 1, 2, 3])):
            # Most share one; some have a store that nobody else reads, or none.
            store = rng.choice([shared, shared, shared, ObjectStore(f"of w{nth}"), None])
            fitness, slots = rng.choice(["f1", "f2"]), rng.choice([1, 2, 10])
            worker = Worker(self, f"w{nth}", slots, store, fitness, can_freeze=rng.random() < 0.85)
            if self.is_tight:
                # The first can have any run; others may be too small for some.
                worker.cpu = self.sizes.choice([1.0, 2.0, None] if nth == 0 else [0.5, 1.0, None])
                worker.memory_bytes = int(self.sizes.choice([2, 3, 4] if nth == 0 else [0.5, 1, 2]) * GB)
                worker.labels = {"here": "yes"} if nth == 0 else {}
            self.workers[worker.id] = worker
            worker.boot()
        self.servers.start()
        self.users.start()
        self._fates()

    def _fates(self) -> None:
        """Who dies when, and whose clock jumps."""
        rng, weather = self.rng, self.net.weather
        for _ in range(weather.deaths):
            self.stage.start("fate", self._death(rng.choice([*self.workers]), rng.uniform(0, STORM_S)))
        for _ in range(weather.drains + (rng.choice([1, 3, 6]) if self.is_frosty and not weather.is_calm else 0)):
            self.stage.start("fate", self._drain(rng.choice([*self.workers]), rng.uniform(0, STORM_S)))
        for _ in range(weather.cuts):
            self.stage.start("fate", self._cut(rng.choice([*self.workers]), rng.uniform(0, STORM_S)))
        for _ in range(weather.jumps):
            self.stage.start("fate", self._jump(rng.uniform(0, STORM_S)))
        if rng.random() < 0.2:
            self.stage.start("fate", self._redeploy(rng.uniform(0, STORM_S)))

    async def _death(self, worker_id: str, hour: float) -> None:
        await self.stage.sleep(hour)
        worker = self.workers[worker_id]
        if not worker.is_alive:
            return
        worker.die()
        await self.stage.sleep(self.rng.choice([0.001, 0.1, 5.0, 45.0, 10 * STORM_S]))
        if not worker.is_alive and self.is_storm:
            worker.boot()

    async def _drain(self, worker_id: str, hour: float) -> None:
        await self.stage.sleep(hour)
        if self.workers[worker_id].is_alive:
            self.workers[worker_id].drain()

    async def _cut(self, worker_id: str, hour: float) -> None:
        await self.stage.sleep(hour)
        self.workers[worker_id].cut_until = self.stage.time + self.rng.choice([1.0, 35.0, 60.0])
        self.net.note(worker_id, "is cut off")

    async def _jump(self, hour: float) -> None:
        await self.stage.sleep(hour)
        self.net.jumped_s += self.rng.choice([-2.0, 5.0, 40.0, 3600.0])
        self.net.note("clock", f"jumps to +{self.net.jumped_s}")

    async def _redeploy(self, hour: float) -> None:
        await self.stage.sleep(hour)
        self.version = "v2"
        for worker in self.workers.values():
            await self.stage.sleep(self.rng.choice([0.0, 1.0]))
            if worker.is_alive:
                worker.redeploy("v2")

    async def play(self) -> None:
        await self.prepare()
        await self.stage.play(STORM_S)
        await self._calm_down()
        latest, since = None, self.stage.time
        while self.stage.time < min(since + PATIENCE_S, LONGEST_S):
            await self.stage.play(self.stage.time + ROUND_S)
            if await self._is_over():
                # A note may have been lost in the storm: the timers look again by themselves. And a message that was late
                # may have begun something anew.
                await self.stage.play(self.stage.time + LONGEST_SLEEP_S + 1.0)
                if await self._is_over():
                    return
            moved = await self.store.connection.fetchval("select max(updated_at) from runs")
            if moved != latest:
                latest, since = moved, self.stage.time
            await self._help()

    async def _calm_down(self) -> None:
        """From now on everybody is healthy, every answer comes, and nothing is paused."""
        self.is_storm = False
        self.net.calm_down()
        self.net.note("world", "is quiet from now on")
        for worker in self.workers.values():
            worker.cut_until = 0.0
            if not worker.is_alive:
                worker.boot()
            elif self.version != "v1":
                worker.redeploy(self.version)  # a late report may have set another one
        await self.users.open_all()

    async def _is_over(self) -> bool:
        return not await self.store.connection.fetchval("select exists (select from runs where finished_at is null)")

    async def _help(self) -> None:
        """Answer what nobody else would, and let go of what can't come back."""
        await self.users.open_all()  # a late message may have paused something again
        pending = await self.store.connection.fetch(
            "select id from waitpoints where kind = 'token' and status = 'pending' order by id"
        )
        for row in pending:
            await self.net.deliver(
                Message(
                    "user",
                    "complete",
                    lambda tx, now, name=row["id"]: engine.complete_waitpoint(tx, name, output="1", now=now),
                    about=row["id"],
                )
            )
        stranded = await self.store.connection.fetch(
            """select runs.id from runs where runs.state = 'queued' and runs.checkpoint_id is not null
                 and not exists (select from workers where workers.store_id = runs.image_store_id and workers.can_freeze)
               order by runs.id"""
        )
        for row in await self.store.connection.fetch(
            "select id from runs where state = 'queued' and locked_version <> $1 and started_at is not null",
            self.version,
        ):
            await self.cancel_now(row["id"])  # it waits for a version that no worker has any more
        for row in stranded:
            await self.cancel_now(row["id"])
        too_large = await self.store.connection.fetch(
            """select runs.id
               from runs join presets on presets.environment_id = runs.environment_id and presets.name = runs.preset
               where runs.state = 'queued' and runs.checkpoint_id is not null and not exists (
                   select from workers where workers.store_id = runs.image_store_id and workers.can_freeze
                       and presets.labels <@ workers.labels and coalesce(presets.cpu <= workers.cpu, true)
                       and coalesce(presets.memory_bytes <= workers.memory_bytes, true))
               order by runs.id"""
        )
        for row in too_large:
            await self.cancel_now(row["id"])  # its image is on a disk of which no worker is large enough for it

    async def cancel_now(self, run_id: str) -> None:
        await self.net.deliver(
            Message(
                "user", "cancel", lambda tx, now: engine.cancel(tx, self.environment_id, run_id, now=now), about=run_id
            )
        )

    async def judge(self) -> list[str]:
        """What the queries over the database find, now that all should be over."""
        connection = self.store.connection
        await connection.execute("delete from checks.told")
        await connection.copy_records_to_table("told", schema_name="checks", records=self.told)
        found = [f"{each.rule}: {each.what}" for each in await findings(connection)]
        missing = await connection.fetch(
            "select id from unnest($1::text[]) as accepted(id) where not exists (select from runs where runs.id = accepted.id)",
            self.triggered,
        )
        return found + [f"ends: {row['id']} was accepted and is not there" for row in missing]


async def play(seed: int, store: Store) -> Report:
    """One seed on an emptied database."""
    await store.empty()
    source = Random(f"ids {seed}")
    world = World(seed, store)
    failures: list[str] = []
    with ids_from(lambda: source.getrandbits(32)):
        try:
            await world.play()
            failures = await world.judge()
        except Violation as violation:
            failures = [str(violation)]
        except Exception as error:  # noqa: BLE001  # whatever the engine raises is this seed's failure
            failures = [f"{type(error).__name__}: {error}"]
            world.net.trace.append(_where(error))
        finally:
            world.stage.close()
    return Report(seed, failures, world.net.trace, len(world.triggered), world.net.verbs)


def _where(error: BaseException) -> str:
    import traceback

    return "".join(traceback.format_exception(error))
