"""Those outside: they trigger, cancel, answer and meddle while the storm lasts."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from torpor import engine, ids
from torpor.engine import queues

from .net import Message
from .programs import TASKS

if TYPE_CHECKING:
    from .seed import World

STORM_S = 60.0


class Users:
    """Each does one thing at one moment."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self._has_meddled = False

    def start(self) -> None:
        world, rng = self.world, self.world.rng
        for _ in range(rng.choice([1, 2, 3, 3, 4, 6])):
            self._at(self._early(), partial(self._trigger, world.library.write()))
        for nth in range(len(world.shared)):
            self._at(rng.uniform(0, STORM_S), partial(self._answer, world.shared[nth]))
        for _ in range(rng.choice([0, 0, 1, 2])):
            self._at(rng.uniform(0, STORM_S), self._cancel)
        for _ in range(rng.choice([0, 1, 3])):
            self._at(rng.uniform(0, STORM_S), self._answer_any)

        for _ in range(rng.choice([1, 3, 6]) if world.is_frosty else rng.choice([0, 0, 1])):
            self._at(rng.uniform(1, 2 * STORM_S), self._fork)
        for act in (self._reschedule, self._reset_key):
            if rng.random() < 0.25:
                self._at(rng.uniform(0, STORM_S), act)
        for _ in range(rng.choice([0, 0, 0, 1, 3])):
            self._at(rng.uniform(0, STORM_S), self._meddle)

    def _early(self) -> float:
        """Often several at the same instant."""
        return self.world.rng.choice([0.2, 0.2, 1.0, self.world.rng.uniform(0, STORM_S / 2)])

    def _at(self, hour: float, act: Callable[[], Awaitable[None]]) -> None:
        async def later() -> None:
            await self.world.stage.sleep(hour)
            await act()

        self.world.stage.start("user", later())

    async def _trigger(self, program: int) -> None:
        world, rng = self.world, self.world.rng
        key = rng.choice([None, None, None, "k1", "k2"])
        delay_s = rng.choice([0.0, 0.0, 0.0, 2.0, 30.0])
        asked = world.request(program, run_id=ids.new("run"), key=key, delay_s=delay_s, options=True)
        environment_id = world.environment_id

        async def act(tx: Any, now: Any) -> Any:
            return await engine.trigger(tx, environment_id, asked(now), now=now)

        reply, _ = await world.net.send(Message("user", "trigger", act))
        world.accepted(reply, is_root=True)

    async def _answer(self, waitpoint_id: str) -> None:
        rng = self.world.rng
        output, is_error = f'"{rng.randrange(100)}"', rng.random() < 0.2
        await self.world.net.send(
            Message(
                "user",
                "complete",
                lambda tx, now: engine.complete_waitpoint(
                    tx, waitpoint_id, output=output, output_is_error=is_error, now=now
                ),
                about=waitpoint_id,
            )
        )

    async def _answer_any(self) -> None:
        if self.world.tokens:
            await self._answer(self.world.rng.choice(self.world.tokens))

    async def _meddle(self) -> None:
        """Something about a queue or the environment."""
        world, rng = self.world, self.world.rng
        environment_id = world.environment_id
        self._has_meddled = True
        known = await world.store.connection.fetch("select id, name from queues order by name")
        if not known:
            return
        queue = rng.choice(known)
        verb: Any = rng.choice([queues.pause, queues.unpause, queues.override, queues.reset])
        given = [queue["id"], *([rng.choice([0, 1, 3])] if verb is queues.override else [])]
        about = f"{queue['name']} {given[1:]}"
        if rng.random() < 0.3:
            await self._configure(is_paused=rng.random() < 0.5)
        else:
            await world.net.send(
                Message("user", verb.__name__, lambda tx, now: verb(tx, environment_id, *given, now=now), about=about)
            )

    async def _configure(self, **changes: Any) -> None:
        environment_id = self.world.environment_id
        await self.world.net.deliver(
            Message(
                "user",
                "configure",
                lambda tx, now: queues.configure(tx, environment_id, **changes, now=now),
                about=str(changes),
            )
        )

    async def open_all(self) -> None:
        """Nothing is paused any more, and no limit is 0."""
        world = self.world
        environment_id = world.environment_id
        if not self._has_meddled:
            return
        if await world.store.connection.fetchval("select is_paused from environments"):
            await self._configure(is_paused=False)
        shut = "select id from queues where is_paused or override_limit is not null order by name"
        for row in await world.store.connection.fetch(shut):
            for verb in (queues.unpause, queues.reset):
                await world.net.deliver(
                    Message(
                        "user", verb.__name__, lambda tx, now, v=verb, q=row["id"]: v(tx, environment_id, q, now=now)
                    )
                )

    async def _reschedule(self) -> None:
        world, rng = self.world, self.world.rng
        if not world.triggered:
            return
        run_id, delay_s = rng.choice(world.triggered), rng.choice([0.0, 1.0, 25.0])
        environment_id = world.environment_id
        await world.net.send(
            Message(
                "user",
                "reschedule",
                lambda tx, now: engine.reschedule(
                    tx, environment_id, run_id, now + timedelta(seconds=delay_s), now=now
                ),
                about=run_id,
            )
        )

    async def _fork(self) -> None:
        """Of any run, over or not, at its latest checkpoint, or at one that may have gone."""
        world, rng = self.world, self.world.rng
        known = await world.store.connection.fetch(
            "select id, run_id from checkpoints where digest <> '' and state <> 'unusable' order by id"
        )
        if not known or len(world.triggered) > 40:
            return
        picked = rng.choice(known)
        origin, at = picked["run_id"], rng.choice([picked["id"], "latest"])
        request = engine.ForkRequest(at, answer=rng.choice([None, '"forked"']), run_id=ids.new("run"))
        environment_id = world.environment_id
        reply, _ = await world.net.send(
            Message(
                "user", "fork", lambda tx, now: engine.fork(tx, environment_id, origin, request, now=now), about=origin
            )
        )
        if isinstance(reply, engine.Forked):
            world.triggered.append(reply.run_id)

    async def _reset_key(self) -> None:
        world, rng = self.world, self.world.rng
        task, key = rng.choice(TASKS), f"global/{rng.choice(['k1', 'k2'])}"
        environment_id = world.environment_id
        await world.net.send(
            Message(
                "user",
                "reset key",
                lambda tx, now: engine.reset_key(tx, environment_id, task, key, now=now),
                about=f"{task} {key}",
            )
        )

    async def _cancel(self) -> None:
        world = self.world
        if world.triggered:
            await world.cancel(world.rng.choice(world.triggered))
