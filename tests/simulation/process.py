"""One run in memory, seen from its worker: the process and its supervisor's attendant in one, after
worker/live_run.py. Its state, `Process`, is what a checkpoint saves."""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from torpor import engine, ids
from torpor.engine import Awake, Blocked, Lease, Stale
from torpor.engine.batch import BatchRequest, NewItem
from torpor.engine.instants import to_iso
from torpor.wire.http import (
    Assignment,
    BlockReport,
    FinishReport,
    HeldLease,
    MoveReport,
    News,
    OpenWait,
    OutOfMemory,
    Refusal,
    SaveReport,
    StartReport,
    StoredCheckpoint,
    SuspendReport,
    Usage,
)
from torpor.wire.runner import Answer, NewWait, TaskError

from . import programs
from .net import Act, Message, Violation
from .stage import Actor, Inbox

if TYPE_CHECKING:
    from .worker import Worker

HOLD_S = 5.0
HOLD_CHILD_S = 1.0
GRACE_S = 30.0


@dataclass(frozen=True)
class Drain:
    """Not from the engine: its own worker asks the process to leave."""

    kind: str = "drain"


DRAIN = Drain()


class Over(Exception):
    """Nothing is left of this run here."""


class Ended(Exception):
    """The process has come to an end of its own."""

    def __init__(self, outcome: str, *, retryable: bool = True) -> None:
        self.outcome = outcome
        self.retryable = retryable


@dataclass
class Process:
    """All that is in its memory."""

    program: int
    step: int = 0
    waits: dict[str, programs.AWait] = field(default_factory=dict)  # entered and not answered
    first_only: bool = False
    dropped: list[str] = field(default_factory=list)  # not yet said
    answers: int = 0


class LiveRun:
    """A lease, and the process that it is for."""

    def __init__(self, worker: "Worker", assignment: Assignment) -> None:
        self.worker = worker
        self.world = worker.world
        self.rng = worker.world.rng
        self.assignment = assignment
        self.lease = Lease(assignment.run_id, assignment.lease)
        self.held = HeldLease(assignment.run_id, assignment.lease)
        self.inbox: Inbox[News | Drain] = Inbox(worker.world.stage)
        self.name = f"{worker.id}:{assignment.run_id[-4:]}/{assignment.lease}"
        self.process = Process(program_of(assignment))
        self.open: dict[str, OpenWait] = {}
        self.is_waiting = False
        self.cancel_by: float | None = None
        self.actor: Actor | None = None
        self._reports = 0

    async def live(self) -> None:
        try:
            await self._live()
        except Over:
            pass
        finally:
            self.worker.forget(self)

    async def _live(self) -> None:
        if not await self._birth():
            return
        try:
            if self.assignment.hook is not None:
                await self._work(0.1)
                raise Ended("completed")
            await self._perform()
        except Ended as ended:
            await self._finish(ended)

    # -- birth --------------------------------------------------------------------------------------------------------

    async def _birth(self) -> bool:
        stored, answered = self.assignment.checkpoint, self.assignment.answers
        await self.world.stage.sleep(self.rng.choice([0.002, 0.05, 1.0]))
        if stored is not None:
            image = await self._fetch(stored)
            if self.rng.random() < self.world.net.weather.unfit:
                await self._refuse("unfit", unfit=True)
                return False
            if self.rng.random() < self.world.net.weather.image_damaged:
                await self._refuse("damaged", checkpoint_unusable=True)
                return False
            self.process = copy.deepcopy(image)
        if self.rng.random() < self.world.net.weather.refuses:
            await self._refuse("no room")
            return False
        # A restored process has its answers before anybody is told that it lives.
        for answer in answered:
            self._told(answer)
        report = StartReport(self.lease.number, [answer.wait_id for answer in answered], pid=1)
        reply, _ = await self._send("start", lambda tx, now: engine.start(tx, self.lease, report, now=now))
        self._unless_stale(reply)
        if self.process.waits:
            self._take(await self._collect())
        return True

    async def _fetch(self, stored: StoredCheckpoint) -> Process:
        if self.worker.shelf is not None:
            if stored.store_id != self.worker.shelf.store.id:
                raise Violation(f"{stored.id} is in store {stored.store_id}, which {self.worker.id} doesn't read")
            process = await self.worker.shelf.fetch(stored, self.lease)
            if process is None:
                raise Over
            return process
        image = self.worker.disk.get(stored.id)
        if image is None:
            raise Violation(f"{self.lease.run_id} is to be restored from {stored.id}, which isn't on {self.worker.id}")
        return image

    async def _refuse(self, reason: str, **how: bool) -> None:
        refusal = Refusal(self.lease.number, reason, **how)
        await self._send("refuse", lambda tx, now: engine.refuse(tx, self.lease, refusal, now=now), reason)

    # -- user code ----------------------------------------------------------------------------------------------------

    async def _perform(self) -> None:
        program = self.world.library.programs[self.process.program]
        is_new_here = True  # the process may have come back in the middle of a wait
        while True:
            if self.process.waits:
                await self._wait(is_new_here)
            is_new_here = False
            if self.process.step >= len(program.steps):
                break
            if self.rng.random() < self.world.net.weather.process_dies:
                raise Ended("crashed")
            step = program.steps[self.process.step]
            match step:
                case programs.Work(seconds):
                    await self._work(seconds)
                case programs.Waits():
                    await self._enter(step)
                    continue
                case programs.Spawn(number, key, delay_s):
                    await self._trigger(number, key, delay_s)
                case programs.Answer(nth):
                    await self._answer(nth)
                case programs.Save(name):
                    self.process.step += 1
                    await self._save("named", name)
                    continue
            self.process.step += 1
        match program.ending(self.assignment.context.attempt):
            case "completed":
                raise Ended("completed")
            case "failed":
                raise Ended("failed")
            case "hopeless":
                raise Ended("failed", retryable=False)
            case "dies":
                raise Ended("crashed")

    async def _work(self, seconds: float) -> None:
        until = self.world.stage.time + seconds
        if self.rng.random() < (0.4 if self.world.is_frosty else 0.05):
            await self._save("auto")
        while (left := until - self.world.stage.time) > 0:
            await self._hear(left)

    async def _hear(self, timeout_s: float | None) -> bool:
        """The next news, or that the time is over (False)."""
        if self.cancel_by is not None:
            left = max(self.cancel_by - self.world.stage.time, 0.0)
            if left <= 0.0:
                raise Ended("canceled")
            timeout_s = left if timeout_s is None else min(timeout_s, left)
        news = await self.inbox.get(timeout_s)
        if news is None:
            return False
        match news.kind:
            case "stale":
                raise Over
            case "drain":
                await self._move()
            case "answered":
                if self.open:
                    self._take(await self._collect())
            case "cancel":
                if self.cancel_by is None:
                    self.cancel_by = self.world.stage.time + self.rng.choice([0.0, 0.01, 2.0, GRACE_S])
        return True

    async def _trigger(self, number: int, key: str | None, delay_s: float = 0.0) -> str:
        run_id = ids.new("run")
        asked = self.world.request(number, run_id=run_id, parent_lease=self.lease, key=key, delay_s=delay_s)
        environment_id = self.world.environment_id

        async def act(tx: Any, now: Any) -> Any:
            return await engine.trigger(tx, environment_id, asked(now), now=now)

        reply, _ = await self._send("trigger", act, run_id)
        self._unless_stale(reply)
        if not isinstance(reply, engine.Triggered):
            raise Ended("failed", retryable=False)
        self.world.accepted(reply)
        return reply.run_id

    async def _batch(self, wait: programs.AWait) -> str:
        """Several runs of one program, streamed in chunks; sometimes announced, sometimes sealed at the end."""
        batch_id, environment_id = ids.new("batch"), self.world.environment_id
        is_counted = self.rng.random() < 0.7
        request = BatchRequest(batch_id, wait.count if is_counted else None, parent_lease=self.lease)
        reply, _ = await self._send(
            "batch", lambda tx, now: engine.create_batch(tx, environment_id, request, now=now), batch_id
        )
        self._unless_stale(reply)
        key = self.rng.choice([None, None, "twin"])  # items that share a key share a run
        indexes = list(range(wait.count))
        self.rng.shuffle(indexes)
        half = self.rng.randrange(wait.count + 1)
        for chunk, is_last in ((indexes[:half], False), (indexes[half:], True)):
            made = [
                (i, ids.new("run"), key if i < 2 else None, self.rng.random() < 0.1) for i in chunk
            ]  # index, run, key, hopeless
            asked = [
                self.world.request(wait.program, run_id=run_id, parent_lease=self.lease, key=k)
                for _, run_id, k, _ in made
            ]
            seal = is_last and not is_counted

            async def act(tx: Any, now: Any, made: Any = made, asked: Any = asked, seal: bool = seal) -> Any:
                items = [
                    NewItem(i, "alpha", None if hopeless else each(now), "no such thing" if hopeless else None)
                    for (i, _, _, hopeless), each in zip(made, asked, strict=True)
                ]
                return await engine.add_items(tx, environment_id, batch_id, items, seal=seal, lease=self.lease, now=now)

            reply, _ = await self._send("items", act, f"{batch_id} {chunk}")
            self._unless_stale(reply)
            for item in reply.items:
                if item.run_id is not None:
                    self.world.accepted(engine.Triggered(item.run_id, item.is_cached))
        return batch_id

    async def _token(self) -> str:
        waitpoint_id = ids.new("waitpoint")
        timeout_s = self.rng.choice([None, None, 0.0, 20.0, 90.0])
        request = engine.TokenRequest(waitpoint_id=waitpoint_id, timeout_s=timeout_s, lease=self.lease)
        environment_id = self.world.environment_id
        reply, _ = await self._send(
            "token", lambda tx, now: engine.create_token(tx, environment_id, request, now=now), waitpoint_id
        )
        self._unless_stale(reply)
        self.world.tokens.append(waitpoint_id)
        return reply.waitpoint_id

    async def _answer(self, nth: int) -> None:
        token = self.world.shared[nth]

        async def act(tx: Any, now: Any) -> Any:
            if not await engine.holds(tx, self.lease):
                return Stale(None)
            return await engine.complete_waitpoint(tx, token, output=f'"{self.name}"', by=self.lease.run_id, now=now)

        reply, _ = await self._send("answer", act, token)
        self._unless_stale(reply)

    # -- waits --------------------------------------------------------------------------------------------------------

    async def _enter(self, step: programs.Waits) -> None:
        """The waits of this step, told to the engine."""
        entered: list[NewWait] = []
        self.process.first_only = step.first_only
        for wait in step.waits:
            made = await self._make(wait)
            entered.append(made)
            self.process.waits[made.wait_id] = wait
        self.process.step += 1
        await self._block(entered, idle=step.idle)

    async def _make(self, wait: programs.AWait) -> NewWait:
        wait_id, timeout_s = ids.new("wait"), wait.timeout_s if self.world.waits_time_out else None
        match wait.kind:
            case "time" if self.rng.random() < 0.5:
                return NewWait(wait_id, "time", until=to_iso(self.world.net.now() + timedelta(seconds=wait.seconds)))
            case "time":
                return NewWait(wait_id, "time", duration_s=wait.seconds)
            case "token":
                return NewWait(wait_id, "token", waitpoint_id=await self._token(), timeout_s=timeout_s)
            case "shared":
                return NewWait(wait_id, "token", waitpoint_id=self.world.shared[wait.nth], timeout_s=timeout_s)
            case "other":
                return NewWait(wait_id, "run", run_id=self.world.other(self.lease.run_id), timeout_s=timeout_s)
            case "batch":
                return NewWait(wait_id, "batch", batch_id=await self._batch(wait), timeout_s=timeout_s)
            case _:
                return NewWait(wait_id, "run", run_id=await self._trigger(wait.program, wait.key), timeout_s=timeout_s)

    async def _block(self, entered: list[NewWait], *, idle: bool) -> None:
        """Tell what was entered and left. Sometimes the dump begins before the engine has answered."""
        self.is_waiting = idle
        dropped, self.process.dropped = self.process.dropped, []
        for wait_id in dropped:
            self.open.pop(wait_id, None)
        expected = {wait.wait_id: OpenWait(wait.wait_id, wait.kind, wait.duration_s) for wait in entered}  # pyright: ignore[reportArgumentType]
        self.open |= expected
        image = None
        if idle and self.worker.can_freeze and self.rng.random() < 0.2:
            image = copy.deepcopy(self.process)
        report = BlockReport(
            self.lease.number, entered, dropped, idle, [] if idle else ["something else"], self._next()
        )
        reply, tries = await self._send(
            "block",
            lambda tx, now: engine.block(tx, self.lease, report, now=now),
            " ".join(
                [*(f"+{wait.wait_id}" for wait in entered), *(f"-{each}" for each in dropped), "" if idle else "busy"]
            ),
        )
        if tries > 1 and not isinstance(reply, Stale):
            # An earlier answer to this message may have been lost on the way, with answers in it.
            reply = await self._collect()
        told = self._take(reply)
        if image is not None:
            await self.world.stage.sleep(self.rng.choice([0.01, 0.3, 3.0]))
            if told:
                # The process slept when its answers came: it runs on, says what it waits for, and gets them again.
                self.process = image
                self._take(await self._collect())
            else:
                await self._publish(image)

    async def _wait(self, is_new_here: bool) -> None:
        """Until the step is answered."""
        if is_new_here:
            # A restored process whose waits are partly answered blocks again, like one in memory.
            await self._block([], idle=True)
        while self.process.waits:
            if not self.is_waiting:
                # It was busy, or an answer has woken it while others are open: it runs for a moment and blocks again.
                await self._work(self.rng.choice([0.0, 0.01, 2.0]))
                if self.process.waits:
                    await self._block([], idle=True)
                continue
            if self.rng.random() < self.world.net.weather.process_dies / 4:
                raise Ended("crashed")
            delay_s = self._freeze_delay()
            is_time = delay_s is not None and delay_s <= 0.0 and not self.inbox.items
            if not is_time:
                is_time = not await self._hear(delay_s) and delay_s is not None and self.cancel_by is None
            if is_time:
                await self._freeze()

    def _freeze_delay(self) -> float | None:
        if not self.worker.can_freeze or not self.open or self.cancel_by is not None:
            return None
        if any(wait.due_in_s is not None and wait.due_in_s <= HOLD_S for wait in self.open.values()):
            return None
        patience = HOLD_CHILD_S if any(wait.kind == "run" for wait in self.open.values()) else 0.0
        return patience + self.rng.choice([0.0, 0.0, 0.1, 20.0])

    async def _freeze(self) -> None:
        image = copy.deepcopy(self.process)
        await self.world.stage.sleep(self.rng.choice([0.01, 0.1, 3.0]))
        if self.rng.random() < self.world.net.weather.dump_fails:
            self._take(await self._collect())
            await self._work(self.rng.choice([0.5, 5.0]))
            return
        await self._publish(image)

    async def _publish(self, image: Process) -> None:
        """The image is durable: may the process go?"""
        reply = await self._report(
            image,
            "suspend",
            engine.suspend,
            lambda stored: SuspendReport(self.lease.number, stored, [], self._next()),
        )
        if not isinstance(reply, Awake):
            raise Over  # accepted, or stale: which may mean that an earlier copy of this message was accepted
        self._take(await self._collect())

    async def _save(self, kind: str, name: str | None = None) -> None:
        """A save point, here and now; without one the process goes on as well."""
        if not self.worker.can_freeze or self.cancel_by is not None:
            return
        open_waits = [*self.process.waits, *self.process.dropped]
        reply = await self._report(
            copy.deepcopy(self.process),
            "save",
            engine.save,
            lambda stored: SaveReport(self.lease.number, stored, open_waits, [], self._next()),
            kind,
            name,
        )
        self._unless_stale(reply)

    async def _move(self) -> None:
        """Its worker drains: on to another one, from wherever it is."""
        if not self.worker.can_freeze or self.cancel_by is not None:
            return
        open_waits = [*self.process.waits, *self.process.dropped]
        reply = await self._report(
            copy.deepcopy(self.process),
            "move",
            engine.move,
            lambda stored: MoveReport(self.lease.number, stored, open_waits, [], self._next(), "draining"),
            "move",
        )
        if not isinstance(reply, Awake):
            raise Over
        if self.process.waits:
            self._take(await self._collect())

    async def _report(
        self,
        image: Process,
        what: str,
        verb: Any,
        report: Callable[[StoredCheckpoint], Any],
        kind: str = "wait",
        name: str | None = None,
    ) -> Any:
        """Store the image and tell the engine; again, without what is gone, as often as it takes."""
        worker_id, shelf, image_id = self.worker.id, self.worker.shelf, ids.new("checkpoint")
        while True:
            if shelf is not None:
                stored = await shelf.publish(image, kind, id=image_id, name=name)
            else:
                stored = StoredCheckpoint(image_id, 1000, kind=kind, name=name)  # pyright: ignore[reportArgumentType]
                self.worker.disk[image_id] = image
            told = report(stored)
            reply, _ = await self._send(
                what, lambda tx, now, told=told: verb(tx, self.lease, told, worker_id=worker_id, now=now), image_id
            )
            if isinstance(reply, engine.Gone) and shelf is not None:
                shelf.forget(reply.packs)
                continue
            if shelf is None:
                self.worker.settled.append(image_id)
                if isinstance(reply, Awake):
                    del self.worker.disk[image_id]
            return reply

    async def _collect(self) -> Any:
        open_waits = [*self.process.waits, *self.process.dropped]
        nth, idle = self._next(), self.is_waiting
        reply, _ = await self._send(
            "collect",
            lambda tx, now: engine.collect(tx, self.lease, open_waits, idle=idle, nth=nth, now=now),
            " ".join(open_waits),
        )
        return reply

    def _take(self, reply: Any) -> bool:
        """Act on what the engine says of our waits; whether there were answers."""
        self._unless_stale(reply)
        assert isinstance(reply, Blocked), reply
        self.open = {wait.wait_id: wait for wait in reply.open}
        if reply.answers:
            self.is_waiting = False
        for answer in reply.answers:
            self._told(answer)
        if self.is_waiting:
            self.worker.has_room()
        return bool(reply.answers)

    def _told(self, answer: Answer) -> None:
        """The process has got an answer."""
        self.world.told.append(
            (self.lease.run_id, self.lease.number, answer.wait_id, answer.status, bytes(answer.output).decode())
        )
        if self.process.waits.pop(answer.wait_id, None) is None:
            return  # known already
        self.process.answers += 1
        if self.process.first_only and self.process.waits:
            self.process.dropped += self.process.waits
            self.process.waits = {}

    # -- ends ---------------------------------------------------------------------------------------------------------

    async def _finish(self, ended: Ended) -> None:
        output = msgspec.Raw(json.dumps(f"{self.process.answers} answers").encode())
        error = None if ended.outcome in ("completed", "canceled") else TaskError("Error", ended.outcome)
        report = FinishReport(
            self.lease.number,
            ended.outcome,  # pyright: ignore[reportArgumentType]
            output if ended.outcome == "completed" else msgspec.Raw(b"null"),
            error,
            retryable=ended.retryable,
        )
        if self.world.is_tight and ended.outcome == "crashed" and self.world.sizes.random() < 0.5:
            report.oom = OutOfMemory(self.assignment.preset.memory_bytes)
        report.usage = Usage(self.world.stage.time, 1000)
        jitter = self.rng.random()
        await self._send(
            "finish",
            lambda tx, now: engine.finish(tx, self.lease, report, jitter=lambda: jitter, now=now),
            ended.outcome,
        )

    # -- words --------------------------------------------------------------------------------------------------------

    def _next(self) -> int:
        self._reports += 1
        return self._reports

    async def _send(self, what: str, act: Act, about: str = "") -> tuple[Any, int]:
        message = Message(self.name, what, act, self.lease, about)
        return await self.world.net.send(message, is_cut=self.worker.is_cut)

    def _unless_stale(self, reply: Any) -> None:
        if isinstance(reply, Stale):
            raise Over


def program_of(assignment: Assignment) -> int:
    payload = msgspec.json.decode(assignment.payload)
    return payload if isinstance(payload, int) else 0
