"""The servers: what their duties do by the clock, and how announcements reach who listens (server/loops.py, wakeups.py)."""

from datetime import datetime
from typing import TYPE_CHECKING, Any

from torpor import engine
from torpor.durations import parse_instant
from torpor.wire.http import News

from .net import Act, Message
from .postgres import Note
from .stage import Inbox

if TYPE_CHECKING:
    from .seed import World

LONGEST_SLEEP_S = 20.0  # four times the real one: an idle look costs a seed time and shows nothing
SHORTEST_SLEEP_S = 0.002


class Servers:
    """Some servers on one database; they share the work as if they were one, each by its own clock."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.ears: dict[str, Inbox[bool]] = {}  # held requests for work, the longest in line first
        self._timer: Inbox[datetime] = Inbox(world.stage)
        self._grant: Inbox[bool] = Inbox(world.stage)

    def start(self) -> None:
        world = self.world
        world.net.hear = self._hear
        world.stage.start("timers", self._fire_timers())
        world.stage.start("grant", self._grant_slots())
        self._every(20.0, "cascade", lambda tx, now: engine.cascade(tx, now=now))
        self._every(90.0, "abort batches", lambda tx, now: engine.abort_batches(tx, now=now))
        self._every(90.0, "stranded", lambda tx, now: engine.tell_stranded(tx, now=now))
        self._every(30.0, "give up", lambda tx, now: engine.give_up(tx, patience_s=world.unfit_patience_s, now=now))
        often_s = 3.0 if world.is_frosty else 30.0
        self._every(often_s, "expire checkpoints", lambda tx, now: engine.expire_checkpoints(tx, now=now))
        self._every(often_s, "condemn", self._condemn)
        self._every(200.0, "forget deleted", lambda tx, now: engine.forget_deleted(tx, now=now))
        self._every(20.0, "rescue", lambda tx, now: engine.rescue(tx, max_rescues=world.max_rescues, now=now))

    async def _condemn(self, tx: Any, now: datetime) -> int:
        return (await engine.condemn(tx, grace_s=self.world.grace_s, now=now)).looked

    # -- announcements ------------------------------------------------------------------------------------------------

    def _hear(self, note: Note) -> None:
        world, (kind, data) = self.world, note
        if world.rng.random() < world.net.weather.note_lost:
            return
        match kind:
            case "work":
                self._wake(list(self.ears))
            case "grant":
                self._grant.put(True)
            case "timer":
                self._timer.put(parse_instant(data["due_at"]))
            case "news":
                worker = world.workers.get(data["worker_id"])
                if worker is not None and worker.is_alive and not worker.is_cut():
                    reason = data.get("reason")
                    news = News(data["kind"], data["run_id"], data["lease"], reason)
                    world.stage.start("news", self._bring(worker.id, worker.instance_id, news))

    async def _bring(self, worker_id: str, instance_id: str, news: News) -> None:
        await self.world.stage.sleep(self.world.rng.choice([0.001, 0.001, 0.2, 1.0]))
        worker = self.world.workers[worker_id]
        if worker.is_alive and worker.instance_id == instance_id:
            worker.hear(news)

    def _wake(self, line: list[str]) -> None:
        """One waiter that is still asleep."""
        for worker_id in line:
            if not self.ears[worker_id].items:
                self.ears[worker_id].put(True)
                return

    def pass_on(self, worker_id: str) -> None:
        line = list(self.ears)
        behind = line[line.index(worker_id) + 1 :] if worker_id in line else line
        self._wake(behind)

    # -- duties -------------------------------------------------------------------------------------------------------

    async def _fire_timers(self) -> None:
        world = self.world
        while True:
            next_due = await self._fire()
            latest = world.stage.time + LONGEST_SLEEP_S
            until = latest
            if next_due is not None:
                until = min(latest, self._hour(next_due))
            while (left := until - world.stage.time) > 0:
                due_at = await self._timer.get(max(left, SHORTEST_SLEEP_S))
                if due_at is None or self._hour(due_at) < until:
                    break

    async def _fire(self) -> datetime | None:
        while True:
            fired = await self.do("fire_due", lambda tx, now: engine.fire_due(tx, now=now))
            if fired.next_due is None or not fired.count or self._hour(fired.next_due) > self.world.stage.time:
                return fired.next_due

    def _hour(self, at: datetime) -> float:
        world = self.world
        return (at - world.net.now()).total_seconds() + world.stage.time + world.rng.choice([0.0, 0.001, 0.5])

    async def _grant_slots(self) -> None:
        world = self.world
        while True:
            is_told = bool(await self._grant.get(LONGEST_SLEEP_S))
            self._grant.items.clear()
            count = await self.do("grant", lambda tx, now: engine.grant(tx, world.environment_id, now=now))
            if count and not is_told:
                world.found_by_sweep("grant", f"{count} that stand in line")

    def _every(self, interval_s: float, what: str, act: Act) -> None:
        async def duty() -> None:
            while True:
                await self.world.stage.sleep(interval_s * (0.5 + self.world.rng.random()))
                while await self.do(what, act):
                    pass

        self.world.stage.start(what, duty())

    async def do(self, what: str, act: Act) -> Any:
        return await self.world.net.deliver(Message("server", what, act))
