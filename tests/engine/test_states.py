"""Every verb crossed with every state: which edges there are, and that nothing else moves."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from torpor import engine
from torpor.engine import EDGES, ENDS, LEASED, STATUS, Lease, RunState
from torpor.wire.http import Refusal, VersionReport

from .conftest import World, manifest, time_wait

pytestmark = pytest.mark.anyio


async def _resume(world: World, lease: Lease) -> Any:
    """What resumes: the answer to the wait of `World.run_in`. Other states have no such wait, or it means nothing."""
    world.later(2 * 3600)
    async with world.db.transaction() as tx:
        await tx.execute("update runs set lease_expires_at = $1 where lease_expires_at is not null", world.later(1))
        await tx.execute("update runs set available_at = $1 where state = 'delayed'", world.later(3600))
        world.later(-1800)
    return await world.do(engine.fire_due)


async def _release(world: World, lease: Lease) -> Any:
    async with world.db.transaction() as tx:
        await tx.execute("update waitpoints set due_at = $1", world.later(7200))
        world.later(-1)
    return await world.do(engine.fire_due)


async def _rescue(world: World, lease: Lease) -> Any:
    world.later(31)
    return await world.do(engine.rescue, max_rescues=5)


async def _rescue_once_too_often(world: World, lease: Lease) -> Any:
    world.later(31)
    return await world.do(engine.rescue, max_rescues=0)


async def _asked_to_end(world: World, lease: Lease) -> None:
    await world.do(engine.cancel, world.environment_id, lease.run_id)


async def _rescue_canceled(world: World, lease: Lease) -> Any:
    await _asked_to_end(world, lease)
    return await _rescue(world, lease)


async def _refuse_canceled(world: World, lease: Lease) -> Any:
    await _asked_to_end(world, lease)
    return await _refuse(world, lease)


async def _finish_canceled(world: World, lease: Lease) -> Any:
    await _asked_to_end(world, lease)
    return await world.finish(lease)


async def _refuse(world: World, lease: Lease, **more: Any) -> Any:
    return await world.do(engine.refuse, lease, Refusal(lease.number, "no room"), **more)


async def _lose(world: World, lease: Lease, **more: Any) -> Any:
    return await world.do(engine.refuse, lease, Refusal(lease.number, "no memory", lost=True), **more)


async def _release_without_its_task(world: World, lease: Lease) -> Any:
    await world.do(engine.register_version, world.environment_id, VersionReport("w1", "v2", [manifest("other")]))
    return await _release(world, lease)


async def _match_versions(world: World, lease: Lease, *task_ids: str) -> Any:
    tasks = [manifest(task_id) for task_id in task_ids]
    return await world.do(engine.register_version, world.environment_id, VersionReport("w1", "v2", tasks))


async def _expire(world: World, lease: Lease) -> Any:
    async with world.db.transaction() as tx:
        await tx.execute("update runs set ttl_s = 60, expires_at = $1 where finished_at is null", world.now)
    return await world.do(engine.expire)


async def _fork(world: World, lease: Lease) -> Any:
    return await world.do(engine.fork, world.environment_id, lease.run_id, engine.ForkRequest())


Verb = Callable[[World, Lease], Awaitable[Any]]
CALLS: list[tuple[str, str, Verb]] = [
    ("trigger", "the same id again", lambda w, x: w.trigger(run_id=x.run_id)),
    ("dequeue", "", lambda w, x: w.dequeue()),
    ("start", "", lambda w, x: w.start(x)),
    ("block", "idle on a time", lambda w, x: w.block(x, time_wait("wait_1", 60))),
    ("block", "on what is over", lambda w, x: w.block(x, time_wait("wait_1", 0))),
    ("block", "busy", lambda w, x: w.block(x, time_wait("wait_1", 60), idle=False)),
    ("collect", "", lambda w, x: w.do(engine.collect, x, ["wait_0"])),
    ("suspend", "", lambda w, x: w.suspend(x)),
    ("save", "", lambda w, x: w.save(x)),
    ("move", "", lambda w, x: w.move(x)),
    ("fork", "", _fork),
    ("give_up", "", lambda w, x: w.do(engine.give_up)),
    ("resume", "", _resume),
    ("release", "", _release),
    ("release", "whose task is gone", _release_without_its_task),
    ("match_versions", "to one without its task", lambda w, x: _match_versions(w, x, "other")),
    ("match_versions", "to one with its task", lambda w, x: _match_versions(w, x, "hello")),
    ("expire", "", _expire),
    ("refuse", "", _refuse),
    ("refuse", "once too often", lambda w, x: _refuse(w, x, max_rescues=0)),
    ("refuse", "what was lost", lambda w, x: _lose(w, x)),
    ("refuse", "what was lost once too often", lambda w, x: _lose(w, x, max_rescues=0)),
    ("finish", "completed", lambda w, x: w.finish(x)),
    ("finish", "failed", lambda w, x: w.fail(x)),
    ("finish", "failed for good", lambda w, x: w.fail(x, retryable=False)),
    ("finish", "crashed", lambda w, x: w.finish(x, "crashed")),
    ("finish", "crashed for good", lambda w, x: w.finish(x, "crashed", retryable=False)),
    ("finish", "timed out", lambda w, x: w.finish(x, "timed_out")),
    ("finish", "canceled", lambda w, x: w.finish(x, "canceled")),
    ("cancel", "", lambda w, x: w.do(engine.cancel, w.environment_id, x.run_id)),
    ("cancel", "at once", lambda w, x: w.do(engine.cancel, w.environment_id, x.run_id, at_once=True)),
    ("rescue", "", _rescue),
    ("rescue", "once too often", _rescue_once_too_often),
]

EXPECTED: dict[tuple[str, str], dict[RunState, RunState]] = {
    ("dequeue", ""): {RunState.QUEUED: RunState.DEQUEUED},
    ("start", ""): {RunState.DEQUEUED: RunState.EXECUTING},
    ("block", "idle on a time"): {RunState.EXECUTING: RunState.WAITING},
    ("block", "on what is over"): {RunState.WAITING: RunState.EXECUTING},
    ("block", "busy"): {RunState.WAITING: RunState.EXECUTING},
    ("suspend", ""): {RunState.WAITING: RunState.SUSPENDED},
    ("move", ""): dict.fromkeys((RunState.EXECUTING, RunState.WAITING), RunState.QUEUED),
    ("resume", ""): {RunState.SUSPENDED: RunState.QUEUED},
    ("release", ""): {RunState.DELAYED: RunState.QUEUED},
    ("release", "whose task is gone"): {
        RunState.DELAYED: RunState.PENDING_VERSION,
        RunState.QUEUED: RunState.PENDING_VERSION,
    },
    ("match_versions", "to one without its task"): {RunState.QUEUED: RunState.PENDING_VERSION},
    ("match_versions", "to one with its task"): {RunState.PENDING_VERSION: RunState.QUEUED},
    ("expire", ""): dict.fromkeys((RunState.QUEUED, RunState.PENDING_VERSION), RunState.EXPIRED),
    ("refuse", ""): {RunState.DEQUEUED: RunState.QUEUED},
    ("refuse", "once too often"): {RunState.DEQUEUED: RunState.SYSTEM_FAILURE},
    ("refuse", "what was lost"): dict.fromkeys(LEASED, RunState.QUEUED),
    ("refuse", "what was lost once too often"): dict.fromkeys(LEASED, RunState.SYSTEM_FAILURE),
    ("finish", "completed"): dict.fromkeys(LEASED, RunState.COMPLETED),
    ("finish", "failed"): dict.fromkeys(LEASED, RunState.DELAYED),
    ("finish", "failed for good"): dict.fromkeys(LEASED, RunState.FAILED),
    ("finish", "crashed"): dict.fromkeys(LEASED, RunState.QUEUED),
    ("finish", "crashed for good"): dict.fromkeys(LEASED, RunState.CRASHED),
    ("finish", "timed out"): dict.fromkeys(LEASED, RunState.TIMED_OUT),
    ("finish", "canceled"): dict.fromkeys(LEASED, RunState.CANCELED),
    ("cancel", ""): {state: RunState.CANCELED for state in RunState if state not in ENDS | LEASED},
    ("cancel", "at once"): {state: RunState.CANCELED for state in RunState if state not in ENDS},
    ("rescue", ""): dict.fromkeys(LEASED, RunState.QUEUED),
    ("rescue", "once too often"): dict.fromkeys(LEASED, RunState.SYSTEM_FAILURE),
}
MOVES_THE_LEASE = {"dequeue", "suspend", "move", "refuse", "finish", "cancel", "rescue", "expire"}
MOVES_BESIDE_THE_STORY = {"block", "collect", "release"}
"""A move that only repeats what the worker knows writes no line each time (waiting -> executing); a delayed run's story
has said when it is due."""


@pytest.mark.parametrize("state", list(RunState))
@pytest.mark.parametrize(("verb", "how", "call"), CALLS, ids=[f"{verb} {how}".strip() for verb, how, _ in CALLS])
async def test_a_verb_moves_a_run_only_along_its_edges(world: World, verb: str, how: str, call: Verb, state: RunState):
    lease = await world.run_in(state)
    before = await world.run(lease.run_id)
    assert before.state == state
    assert before.lease == max(lease.number, 0)
    told = len(await world.story(lease.run_id))

    await call(world, lease)

    after = await world.run(lease.run_id)
    wanted = EXPECTED.get((verb, how), {}).get(state, state)
    assert after.state == wanted
    has_moved = after.state != state
    assert not has_moved or (state, wanted) in EDGES[verb] | (EDGES["match_versions"] if verb == "release" else set())
    assert after.lease == before.lease + (has_moved and verb in MOVES_THE_LEASE)
    news = len(await world.story(lease.run_id)) - told
    if has_moved:
        assert news >= 1 or verb in MOVES_BESIDE_THE_STORY
    elif state in ENDS:
        assert news == 0
        assert after == before, "an end is final"


def test_every_edge_of_the_table_is_walked_by_some_test():
    walked = {(verb, edge) for (verb, _), edges in EXPECTED.items() for edge in edges.items()}
    walked -= {("release", edge) for edge in EDGES["match_versions"]}  # the version that came before it
    walked |= {("finish", (state, RunState.QUEUED)) for state in LEASED}  # test_finish: no delay
    walked |= {("repair", (state, RunState.QUEUED)) for state in (RunState.SUSPENDED, RunState.PENDING_VERSION)}
    walked |= {("rescue", (state, RunState.CANCELED)) for state in LEASED}  # test_rescue
    walked |= {("collect", (RunState.WAITING, RunState.EXECUTING))}  # test_wait
    walked |= {("collect", (RunState.EXECUTING, RunState.WAITING))}  # test_slots: let go on, but there was no answer
    walked |= {("grant", (RunState.WAITING, RunState.EXECUTING))}  # test_slots
    walked |= {("suspend", (RunState.WAITING, RunState.QUEUED))}  # test_slots: frozen while it stands in line
    walked |= {("refuse", (state, RunState.CRASHED)) for state in LEASED}  # test_checkpoints
    walked |= {("give_up", (RunState.QUEUED, RunState.CRASHED))}  # test_fall_back
    canceled = {(verb, (state, RunState.CANCELED)) for verb in ("rescue", "refuse") for state in LEASED}
    walked |= canceled  # below
    assert {(verb, edge) for verb, edges in EDGES.items() for edge in edges} == walked


def test_no_edge_leaves_an_end():
    assert [edge for edges in EDGES.values() for edge in edges if edge[0] in ENDS] == []


def test_every_state_has_a_public_name():
    assert set(STATUS) == set(RunState)


WORKER_VERBS = [
    call
    for call in CALLS
    if call[0] in {"start", "block", "collect", "suspend", "save", "move", "refuse", "finish"} and call[1] != "busy"
]


@pytest.mark.parametrize("number", [-1, +1], ids=["older", "newer"])
@pytest.mark.parametrize("state", [RunState.DEQUEUED, RunState.EXECUTING, RunState.WAITING, RunState.QUEUED])
@pytest.mark.parametrize(
    ("verb", "how", "call"), WORKER_VERBS, ids=[f"{verb} {how}".strip() for verb, how, _ in WORKER_VERBS]
)
async def test_another_lease_is_stale_and_changes_nothing(
    world: World, verb: str, how: str, call: Verb, state: RunState, number: int
):
    lease = await world.run_in(state)
    before, told = await world.run(lease.run_id), await world.story(lease.run_id)
    outcome = await call(world, Lease(lease.run_id, lease.number + number))
    assert outcome == engine.Stale(before.lease)
    assert await world.run(lease.run_id) == before
    assert await world.story(lease.run_id) == told


@pytest.mark.parametrize("state", sorted(LEASED))
@pytest.mark.parametrize("verb", [_finish_canceled, _rescue_canceled])
async def test_whatever_ends_the_lease_of_a_run_that_was_asked_to_end_cancels_it(
    world: World, verb: Verb, state: RunState
):
    lease = await world.run_in(state)
    await verb(world, lease)
    run = await world.run(lease.run_id)
    assert (run.state, run.lease) == (RunState.CANCELED, lease.number + 1)


async def test_a_refused_run_that_was_asked_to_end_is_canceled(world: World):
    lease = await world.run_in(RunState.DEQUEUED)
    await _refuse_canceled(world, lease)
    assert (await world.run(lease.run_id)).state == RunState.CANCELED


async def test_nobody_holds_a_run_that_was_never_handed_out(world: World):
    lease = await world.run_in(RunState.QUEUED)
    assert lease.number == 0
    assert await world.start(lease) == engine.Stale(0)
    assert await world.finish(lease) == engine.Stale(0)
    assert await world.start(Lease("run_unknown", 1)) == engine.Stale(None)
