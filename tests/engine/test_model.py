"""The verbs against a model in plain Python: Hypothesis calls them in any order, with old leases too, and after each call
both must agree on every run's state, lease, attempt, image, and on what its process waits for and was told.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from torpor import engine, ids
from torpor.engine import ENDS, LEASED, Awake, Blocked, Lease, Ok, Stale, Suspended
from torpor.engine import RunState as S
from torpor.store.database import Database
from torpor.store.records import Run
from torpor.wire.http import Refusal

from .conftest import World, empty, founded, token_wait

MAX_RESCUES = 2
TOKENS = 3


@dataclass
class Wait:
    """A wait of a run, as the model knows it."""

    token: int
    is_told: bool = False
    is_tied: bool = True


@dataclass
class Model:
    """A run."""

    id: str
    max_attempts: int
    available_at: datetime
    state: S = S.QUEUED
    lease: int = 0
    attempt: int = 0
    is_open: bool = False  # its latest attempt
    rescues: int = 0
    is_canceling: bool = False
    waits: dict[str, Wait] = field(default_factory=dict)
    images: list[list[str]] = field(default_factory=list)  # what each usable one waits for, newest first

    @property
    def is_leased(self) -> bool:
        return self.state in LEASED

    def tied(self) -> dict[str, Wait]:
        return {wait_id: wait for wait_id, wait in self.waits.items() if wait.is_tied}

    def untie(self) -> None:
        for wait in self.waits.values():
            wait.is_tied = False

    def to(self, state: S, **changes: Any) -> None:
        """Its lease is over."""
        self.state, self.lease = state, self.lease + 1
        for name, value in changes.items():
            setattr(self, name, value)
        if state in ENDS:
            self.images, self.is_open = [], False
        if state in ENDS or not self.images:
            self.untie()


class Runner:
    """Coroutines, run one by one, and the database they use."""

    def __init__(self, url: str) -> None:
        self._loop = asyncio.new_event_loop()
        self.db = self(Database.connect(url, pool_size=1))

    def __call__(self, coroutine: Any) -> Any:
        return self._loop.run_until_complete(coroutine)

    def close(self) -> None:
        self(self.db.close())
        self._loop.close()


@pytest.fixture(scope="module")
def run(database_url: str) -> Iterator[Runner]:
    runner = Runner(database_url)
    yield runner
    runner.close()


class Life(RuleBasedStateMachine):
    """Some runs and some tokens, one worker, and any order of events."""

    def __init__(self, run: Runner) -> None:
        super().__init__()
        self.call = run
        self.call(empty(run.db))
        self.world: World = self.call(founded(run.db))
        self.tokens: list[str] = [self.call(self.world.token()) for _ in range(TOKENS)]
        self.answered: set[int] = set()
        self.runs: list[Model] = []

    def do(self, verb: Any, *args: Any, **options: Any) -> Any:
        return self.call(self.world.do(verb, *args, **options))

    def pick(self, nth: int) -> Model:
        return self.runs[nth % len(self.runs)]

    def complete(self, run: Model) -> list[str]:
        """The waits of this run that have their answer."""
        return [wait_id for wait_id, wait in run.tied().items() if wait.token in self.answered]

    # -- outside ------------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.runs) < 3)
    @rule(max_attempts=st.integers(1, 3))
    def trigger(self, max_attempts: int) -> None:
        self.world.later(1)
        run_id = self.call(self.world.trigger(max_attempts=max_attempts))
        self.runs.append(Model(run_id, max_attempts, self.world.now))

    @rule(token=st.integers(0, TOKENS - 1))
    def answer(self, token: int) -> None:
        self.world.later(1)
        outcome = self.call(self.world.complete(self.tokens[token]))
        if token in self.answered:
            assert outcome == engine.AlreadyCompleted("completed")
            return
        waiting = [run for run in self.runs if any(wait.token == token for wait in run.tied().values())]
        assert outcome == engine.Completed(sorted(run.id for run in waiting))
        self.answered.add(token)
        for run in waiting:
            if run.state == S.SUSPENDED:
                run.state, run.available_at = S.QUEUED, self.world.now

    @precondition(lambda self: self.runs)
    @rule(nth=st.integers(0, 2), at_once=st.booleans())
    def cancel(self, nth: int, at_once: bool) -> None:
        self.world.later(1)
        run = self.pick(nth)
        outcome = self.do(engine.cancel, self.world.environment_id, run.id, at_once=at_once)
        if run.state in ENDS:
            assert outcome == engine.AlreadyEnded(run.state)
        elif run.is_leased and not at_once:
            assert outcome == engine.CancelRequested()
            run.is_canceling = True
        else:
            assert outcome == engine.Canceled()
            run.to(S.CANCELED)

    # -- time ---------------------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([1, 3, 60]))
    def release(self, seconds: int) -> None:
        self.world.later(seconds)
        self.do(engine.fire_due)
        for run in self.runs:
            if run.state == S.DELAYED and run.available_at <= self.world.now:
                run.state = S.QUEUED

    @rule()
    def fall_silent(self) -> None:
        self.world.later(31)
        taken = self.do(engine.rescue, max_rescues=MAX_RESCUES)
        lost = sorted((run for run in self.runs if run.is_leased), key=lambda run: run.id)
        assert taken == [run.id for run in lost]
        for run in lost:
            self._put_back(run)

    def _put_back(self, run: Model) -> None:
        if run.is_canceling:
            run.to(S.CANCELED)
        elif run.rescues + 1 > MAX_RESCUES:
            run.to(S.SYSTEM_FAILURE)
        else:
            run.to(S.QUEUED, rescues=run.rescues + 1, available_at=self.world.now)

    # -- the worker ---------------------------------------------------------------------------------------------------

    @rule(free=st.integers(1, 3))
    def dequeue(self, free: int) -> None:
        self.world.later(1)
        given = self.call(self.world.dequeue(free=free))
        line = sorted(
            (run for run in self.runs if run.state == S.QUEUED),
            key=lambda run: (not run.images, run.available_at, run.id),
        )[:free]
        assert [each.run_id for each in given] == [run.id for run in line]
        for run, assignment in zip(line, given, strict=True):
            run.state, run.lease = S.DEQUEUED, run.lease + 1
            if not run.is_open:
                run.attempt, run.is_open = run.attempt + 1, True
            if run.images:
                for wait_id, wait in run.waits.items():
                    wait.is_tied = wait_id in run.images[0]
                    wait.is_told = wait.is_told and not wait.is_tied
                assert {each.wait_id for each in assignment.answers} == set(self.complete(run))
            assert (assignment.lease, assignment.context.attempt) == (run.lease, run.attempt)
            assert (assignment.checkpoint is not None) == bool(run.images)

    def _held(self, nth: int, late: int) -> tuple[Model, Lease, bool]:
        """A run, a lease for it (an old one if `late`), and whether that is over."""
        run = self.pick(nth)
        lease = Lease(run.id, run.lease - late)
        return run, lease, late > 0 or not run.is_leased

    @precondition(lambda self: self.runs)
    @rule(nth=st.integers(0, 2), late=st.sampled_from([0, 0, 0, 1, 2]))
    def start(self, nth: int, late: int) -> None:
        self.world.later(1)
        run, lease, is_over = self._held(nth, late)
        told = self.complete(run) if run.images else []
        outcome = self.call(self.world.start(lease, told))
        if is_over:
            assert outcome == Stale(run.lease)
            return
        assert outcome == Ok()
        for wait_id in told:
            run.waits[wait_id].is_told = True
        if run.state == S.DEQUEUED:
            run.state = S.EXECUTING

    @precondition(lambda self: self.runs)
    @rule(
        nth=st.integers(0, 2),
        late=st.sampled_from([0, 0, 0, 1]),
        tokens=st.sets(st.integers(0, TOKENS - 1), max_size=2),
        drops=st.booleans(),
        idle=st.booleans(),
    )
    def block(self, nth: int, late: int, tokens: set[int], drops: bool, idle: bool) -> None:
        self.world.later(1)
        run, lease, is_over = self._held(nth, late)
        dropped = sorted(run.tied())[:1] if drops else []
        entered = {ids.new("wait"): token for token in sorted(tokens)}
        waits = [token_wait(wait_id, self.tokens[token]) for wait_id, token in entered.items()]
        outcome = self.call(self.world.block(lease, *waits, idle=idle, dropped=dropped))
        if is_over:
            assert outcome == Stale(run.lease)
            return
        run.waits |= {wait_id: Wait(token) for wait_id, token in entered.items()}
        for wait_id in dropped:
            run.waits[wait_id].is_tied = False
        complete = self.complete(run)
        open_waits = set(run.tied()) - set(complete)
        news = {wait_id for wait_id in complete if not run.waits[wait_id].is_told}
        assert isinstance(outcome, Blocked)
        told = {answer.wait_id for answer in outcome.answers}
        if news or open_waits or not idle:
            assert told == news
        else:
            assert told <= set(complete), "blocked on nothing: the last reply is said again"
        assert {wait.wait_id for wait in outcome.open} == open_waits
        self._tell(run, told)
        is_waiting = idle and bool(open_waits) and not told
        if run.state in (S.EXECUTING, S.WAITING):
            run.state = S.WAITING if is_waiting else S.EXECUTING

    @precondition(lambda self: self.runs)
    @rule(nth=st.integers(0, 2), late=st.sampled_from([0, 0, 0, 1]), keep=st.booleans())
    def collect(self, nth: int, late: int, keep: bool) -> None:
        self.world.later(1)
        run, lease, is_over = self._held(nth, late)
        open_waits = sorted(run.tied()) if keep else sorted(run.tied())[1:]
        outcome = self.do(engine.collect, lease, open_waits)
        if is_over:
            assert outcome == Stale(run.lease)
            return
        for wait_id, wait in run.waits.items():
            wait.is_tied = wait_id in open_waits
        assert isinstance(outcome, Blocked)
        assert {answer.wait_id for answer in outcome.answers} == set(self.complete(run))
        self._tell(run, set(self.complete(run)))
        if self.complete(run) and run.state == S.WAITING:
            run.state = S.EXECUTING

    @staticmethod
    def _tell(run: Model, wait_ids: set[str]) -> None:
        for wait_id in wait_ids:
            run.waits[wait_id].is_told = True

    @precondition(lambda self: self.runs)
    @rule(nth=st.integers(0, 2), late=st.sampled_from([0, 0, 0, 1]))
    def suspend(self, nth: int, late: int) -> None:
        self.world.later(1)
        run, lease, is_over = self._held(nth, late)
        outcome = self.call(self.world.suspend(lease))
        if is_over:
            assert outcome == Stale(run.lease)
            return
        complete = self.complete(run)
        open_waits = [wait_id for wait_id in run.tied() if wait_id not in complete]
        is_answered = any(not run.waits[wait_id].is_told for wait_id in complete)
        if run.state != S.WAITING or is_answered or not open_waits or run.is_canceling:
            assert outcome == Awake()
            return
        assert outcome == Suspended()
        run.images = [open_waits, *run.images[:1]]
        run.to(S.SUSPENDED, rescues=0)

    @precondition(lambda self: self.runs)
    @rule(nth=st.integers(0, 2), late=st.sampled_from([0, 0, 0, 1]), moves=st.booleans())
    def save(self, nth: int, late: int, moves: bool) -> None:
        self.world.later(1)
        run, lease, is_over = self._held(nth, late)
        open_waits = sorted(wait_id for wait_id, wait in run.tied().items() if not wait.is_told)
        outcome = self.call((self.world.move if moves else self.world.save)(lease, open_waits=open_waits))
        if is_over:
            assert outcome == Stale(run.lease)
        elif moves and (run.is_canceling or run.state == S.DEQUEUED):
            assert outcome == Awake()
        else:
            assert outcome == (Suspended() if moves else Ok())
            run.images, run.rescues = [open_waits, *run.images[:1]], 0
            if moves:
                run.to(S.QUEUED, available_at=self.world.now)

    @precondition(lambda self: self.runs)
    @rule(nth=st.integers(0, 2), late=st.sampled_from([0, 0, 0, 1]), unusable=st.booleans())
    def refuse(self, nth: int, late: int, unusable: bool) -> None:
        self.world.later(1)
        run, lease, is_over = self._held(nth, late)
        refusal = Refusal(lease.number, "no", checkpoint_unusable=unusable)
        outcome = self.do(engine.refuse, lease, refusal, max_rescues=MAX_RESCUES)
        if is_over or run.state != S.DEQUEUED:
            assert outcome == Stale(run.lease)
            return
        assert outcome == Ok()
        if run.is_canceling or not (unusable and run.images):
            self._put_back(run)
            return
        run.images = run.images[1:]
        if run.images:
            run.to(S.QUEUED, available_at=self.world.now)
        elif run.attempt < run.max_attempts:
            run.to(S.QUEUED, available_at=self.world.now, is_open=False)
        else:
            run.to(S.CRASHED)

    @precondition(lambda self: self.runs)
    @rule(
        nth=st.integers(0, 2),
        late=st.sampled_from([0, 0, 0, 1]),
        end=st.sampled_from(["completed", "failed", "hopeless", "crashed", "canceled", "timed_out"]),
    )
    def finish(self, nth: int, late: int, end: str) -> None:
        self.world.later(1)
        run, lease, is_over = self._held(nth, late)
        outcome = "failed" if end == "hopeless" else end
        done = self.call(self.world.finish(lease, outcome, retryable=end != "hopeless"))
        if is_over:
            assert done == Stale(run.lease)
            return
        can_retry = run.attempt < run.max_attempts
        if run.is_canceling or end == "canceled":
            run.to(S.CANCELED)
        elif end == "failed" and can_retry:
            run.images = []
            due_at = self.world.now + timedelta(seconds=2 ** (run.attempt - 1))
            run.to(S.DELAYED, is_open=False, rescues=0, available_at=due_at)
        elif end == "crashed" and can_retry:
            run.to(S.QUEUED, is_open=False, rescues=0, available_at=self.world.now)
        else:
            run.to(S("failed" if end == "hopeless" else end))

    # -- do they agree? -----------------------------------------------------------------------------------------------

    @invariant()
    def they_agree(self) -> None:
        if self.runs:
            self.call(self._compare())

    async def _compare(self) -> None:
        async with self.world.db.transaction() as tx:
            rows = await tx.fetch("select * from runs")
            waits = await tx.fetch("select * from waits where detached_at is null")
            images = await tx.fetch(
                "select run_id, open_waits from checkpoints where state = 'usable' order by number desc"
            )
        runs = {row["id"]: Run.of(row) for row in rows}
        for model in self.runs:
            run = runs[model.id]
            assert (run.state, run.lease, run.attempt) == (model.state, model.lease, model.attempt)
            assert (run.worker_id is not None) == model.is_leased
            assert (run.checkpoint_id is not None) == bool(model.images)
            told = {row["wait_id"]: row["delivered_at"] is not None for row in waits if row["run_id"] == model.id}
            assert told == {wait_id: wait.is_told for wait_id, wait in model.tied().items()}
            usable = [sorted(row["open_waits"]) for row in images if row["run_id"] == model.id]
            assert usable == [sorted(image) for image in model.images]


def test_the_verbs_do_what_the_model_does(run: Runner) -> None:
    machine: Any = lambda: Life(run)  # noqa: E731
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=40,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
