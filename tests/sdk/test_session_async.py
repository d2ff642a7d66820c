"""An async run in a real process, with a supervisor that the tests play: its waits, children, tokens and threads."""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from fake_supervisor import Supervisor, one_by_one, until_let_go_on

from torpor import RunFailed, TokenTimeout, WaitCycle, WaitTimeout, current, task, wait
from torpor.sdk import channel
from torpor.wire.runner import Answer, Block, Finished, StayingAwake, Suspend, TaskError


def test_a_task_without_waits_returns_its_output(supervisor: Supervisor) -> None:
    @task
    async def add(a: int, b: int = 2) -> int:
        return a + b

    supervisor.start(add, {"a": 1})
    assert supervisor.output_of_run() == 3


def test_a_wait_is_told_and_its_answer_lets_the_run_go_on(supervisor: Supervisor) -> None:
    @task
    async def nap() -> str:
        await wait.for_(hours=6)
        return "awake"

    supervisor.start(nap)
    block = supervisor.expect(Block)
    (new,) = block.waits
    assert (new.kind, new.duration_s, block.idle, block.blockers) == ("time", 21600.0, True, [])
    supervisor.answer(new.wait_id)
    assert supervisor.output_of_run() == "awake"


def test_a_suspended_run_comes_back_with_all_it_held_twice(supervisor: Supervisor) -> None:
    @task
    async def nap() -> list[int]:
        held = iter([1, 2, 3])
        seen = [next(held)]
        for _ in range(2):
            await wait.for_("1h")
            seen.append(next(held))
        return seen

    supervisor.start(nap)
    for _ in range(2):
        (new,) = supervisor.expect_idle().waits
        supervisor.suspend()
        resumed = supervisor.wake(Answer(new.wait_id, "completed"))
        assert resumed.open_waits == [new.wait_id]
        assert resumed.lost == []
    assert supervisor.output_of_run() == [1, 2, 3]


def test_a_freeze_that_is_given_up_leaves_the_wait_open(supervisor: Supervisor) -> None:
    @task
    async def nap() -> str:
        await wait.until(datetime(2030, 1, 1, tzinfo=UTC))
        return "awake"

    supervisor.start(nap)
    (new,) = supervisor.expect_idle().waits
    assert new.until == "2030-01-01T00:00:00+00:00"
    supervisor.suspend()
    supervisor.wake(restored=False)
    assert supervisor.says_nothing()
    supervisor.suspend()
    supervisor.wake(restored=False)
    supervisor.answer(new.wait_id)
    assert supervisor.output_of_run() == "awake"


def test_waits_side_by_side_are_told_in_one_message(supervisor: Supervisor) -> None:
    @task
    async def several() -> list[int]:
        async def one(number: int) -> int:
            await wait.for_(seconds=number)
            return number

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(number)) for number in (1, 2)]
            both = await asyncio.gather(one(3), one(4))
        return [*(each.result() for each in tasks), *both]

    supervisor.start(several)
    block = supervisor.expect(Block)
    assert sorted(new.duration_s or 0 for new in block.waits) == [1, 2, 3, 4]
    assert block.idle
    first, *rest = block.waits
    supervisor.suspend()
    assert set(supervisor.wake(Answer(first.wait_id, "completed")).open_waits) == {new.wait_id for new in block.waits}
    assert supervisor.expect_idle().waits == []
    supervisor.suspend()
    assert set(supervisor.wake().open_waits) == {new.wait_id for new in rest}
    for new in rest:
        supervisor.answer(new.wait_id)
    assert supervisor.output_of_run() == [1, 2, 3, 4]


def test_cancelling_a_task_drops_its_wait(supervisor: Supervisor) -> None:
    @task
    async def first() -> int:
        long = asyncio.create_task(wait.for_(days=1))
        await wait.for_(minutes=1)
        long.cancel()
        await wait.for_(minutes=2)
        return 1

    supervisor.start(first)
    block = supervisor.expect_idle()
    long, short = sorted(block.waits, key=lambda new: -(new.duration_s or 0))
    supervisor.answer(short.wait_id)
    block = supervisor.expect(Block)
    assert block.dropped == [long.wait_id]
    assert [new.duration_s for new in block.waits] == [120.0]
    supervisor.answer(block.waits[0].wait_id)
    assert supervisor.output_of_run() == 1


def test_what_keeps_a_run_awake_is_told_and_then_that_it_is_idle(supervisor: Supervisor) -> None:
    @task
    async def busy() -> None:
        async def work() -> None:
            await asyncio.sleep(1)

        await asyncio.gather(work(), wait.for_(hours=1))

    supervisor.start(busy)
    block = supervisor.expect(Block)
    assert not block.idle
    (blocker,) = block.blockers
    assert "awaits asyncio.sleep at " in blocker
    assert "test_session_async.py:" in blocker
    block = supervisor.expect(Block)
    assert block.idle
    assert block.waits == []


def test_a_run_that_moved_stays_awake_and_says_when_it_is_idle_again(supervisor: Supervisor) -> None:
    @task
    async def moves() -> None:
        await asyncio.gather(wait.for_(hours=1), wait.for_(hours=2))

    supervisor.start(moves)
    first, second = supervisor.expect_idle().waits
    answer = Answer(first.wait_id, "completed")
    from torpor.wire.runner import Answers

    supervisor.send(Suspend(), Answers([answer]))
    assert supervisor.expect(StayingAwake).reasons
    assert supervisor.expect(Block).idle
    supervisor.answer(second.wait_id)
    assert supervisor.finished().ok


def test_a_child_run_is_triggered_and_waited_for(supervisor: Supervisor) -> None:
    @task
    async def child(number: int) -> int:
        return number

    @task
    async def parent() -> int:
        return await child.options(tags=["x"], max_attempts=1, delay="1h").trigger_and_wait(20) + 1

    supervisor.start(parent)
    asked = supervisor.reply("trigger", {"run_id": "run_child"})
    assert asked["run_id"].startswith("run_")
    assert (asked["task_id"], asked["payload"]) == ("child", 20)
    assert asked["options"] == {"tags": ["x"], "maxAttempts": 1, "delay": "3600s"}
    (new,) = supervisor.expect_idle().waits
    assert (new.kind, new.run_id) == ("run", "run_child")
    supervisor.answer(new.wait_id, 41)
    assert supervisor.output_of_run() == 42


def test_a_failed_child_raises_with_its_own_error(supervisor: Supervisor) -> None:
    @task
    async def child() -> None: ...

    @task
    async def parent() -> list[str]:
        try:
            await child.trigger_and_wait()
        except RunFailed as error:
            own = error.error or {}
            return [error.run_id, error.status, own["name"], own["message"]]
        return []

    supervisor.start(parent)
    supervisor.reply("trigger", {"run_id": "run_child"})
    (new,) = supervisor.expect_idle().waits
    told = TaskError("ValueError", "no")
    supervisor.answer(new.wait_id, status="failed", error=told, run_id="run_child", run_status="FAILED")
    assert supervisor.output_of_run() == ["run_child", "FAILED", "ValueError", "no"]


def test_a_server_that_refuses_a_trigger_raises_where_it_was_called(supervisor: Supervisor) -> None:
    @task
    async def child() -> None: ...

    @task
    async def parent() -> None:
        await child.trigger()

    supervisor.start(parent)
    supervisor.reply("trigger", {"near": ["chilled"]}, ok=False, status=404, error="Task not found")
    outcome = supervisor.finished()
    assert outcome.error is not None
    assert (outcome.error.name, outcome.error.message) == ("NotFound", "404: Task not found")
    assert "await child.trigger()" in outcome.error.stack_trace
    assert "session.py" not in outcome.error.stack_trace


def test_a_person_is_asked(supervisor: Supervisor) -> None:
    @task
    async def ask() -> list[object]:
        yes = await wait.for_approval("Go?", timeout="2d", context={"at": datetime(2026, 1, 1, tzinfo=UTC)})
        no = await wait.for_approval("Really?")
        late = await wait.for_approval("Still?")
        return [bool(yes), yes.by, yes.comment, yes.at, bool(no), no.timed_out, bool(late), late.timed_out]

    supervisor.start(ask)
    asked = supervisor.reply("create_token", {"waitpoint_id": "waitpoint_1", "url": "http://x"})
    assert asked["timeout_s"] == 172800
    assert asked["approval"] == {"title": "Go?", "context": {"at": "2026-01-01T00:00:00Z"}}
    (new,) = supervisor.expect_idle().waits
    assert (new.kind, new.waitpoint_id) == ("token", "waitpoint_1")
    supervisor.answer(
        new.wait_id, {"approved": True, "by": "ada", "comment": "fine"}, completed_at="2026-01-02T00:00:00Z"
    )
    for answered in ({"output": {"approved": "yes"}}, {"status": "timed_out"}):
        supervisor.reply("create_token", {"waitpoint_id": "waitpoint_2", "url": "http://x"})
        supervisor.answer(supervisor.expect_idle().waits[0].wait_id, **answered)
    assert supervisor.output_of_run() == [True, "ada", "fine", "2026-01-02T00:00:00Z", False, False, False, True]


def test_a_token_that_times_out_raises(supervisor: Supervisor) -> None:
    @task
    async def ask() -> str:
        try:
            await wait.for_token("waitpoint_9")
        except TokenTimeout as error:
            return error.token_id
        return ""

    supervisor.start(ask)
    supervisor.answer(supervisor.expect_idle().waits[0].wait_id, status="timed_out")
    assert supervisor.output_of_run() == "waitpoint_9"


def test_a_runner_whose_supervisor_dies_ends(supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks for it for a while, since a supervisor that freezes a run lets go of it as well."""
    monkeypatch.setattr(channel, "RECONNECT_S", 0.3)

    @task
    async def nap() -> None:
        await wait.for_(hours=1)

    supervisor.start(nap)
    supervisor.expect_idle()
    supervisor.die()
    assert supervisor.exit_code() == 70


def test_environment_variables_that_changed_while_frozen_are_set(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHADE", "old")

    @task
    async def nap() -> str:
        await wait.for_(hours=1)
        return os.environ["SHADE"]

    supervisor.start(nap)
    (new,) = supervisor.expect_idle().waits
    supervisor.suspend()
    supervisor.wake(Answer(new.wait_id, "completed"), env={"SHADE": "new"})
    assert supervisor.output_of_run() == "new"


def test_current_tells_the_run(supervisor: Supervisor) -> None:
    @task
    async def tell() -> list[object]:
        return [current.run_id, current.attempt, current.tags, current.created_at, current.parent_run_id]

    supervisor.start(tell, attempt=2, parent_run_id="run_p")
    assert supervisor.output_of_run() == ["run_test", 2, ["a"], "2026-01-02T03:04:05Z", "run_p"]


def test_blocking_code_in_a_thread_of_an_async_task_may_wait_and_is_frozen(supervisor: Supervisor) -> None:
    """BB3: a wait inside of asyncio.to_thread."""
    from torpor import sync

    @task
    async def threaded() -> str:
        await asyncio.to_thread(sync.wait.for_, "1h")
        return "done"

    supervisor.start(threaded)
    (new,) = supervisor.expect_idle().waits
    supervisor.suspend()
    supervisor.wake(Answer(new.wait_id, "completed"))
    assert supervisor.output_of_run() == "done"


def test_more_blocking_waits_than_threads_are_frozen_together(supervisor: Supervisor) -> None:
    """BB3: run_in_executor, with some in line for a thread."""
    from torpor import sync

    @task
    async def threaded() -> int:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(2) as executor:
            await asyncio.gather(*[loop.run_in_executor(executor, sync.wait.for_, f"{n}h") for n in (1, 2, 3)])
        return 3

    supervisor.start(threaded)
    one_by_one(supervisor, [2, 1, 3])
    assert supervisor.output_of_run() == 3


def test_a_thread_at_work_keeps_the_run_awake_until_it_waits_as_well(supervisor: Supervisor) -> None:
    """BB3: a wait inside of a thread, beside one that works."""
    from torpor import sync

    @task
    async def threaded() -> None:
        def work() -> None:
            until_let_go_on(supervisor.directory)
            sync.wait.for_("2h")

        await asyncio.gather(wait.for_("1h"), asyncio.to_thread(work))

    supervisor.start(threaded)
    block = supervisor.expect(Block)
    assert not block.idle
    assert "awaits a thread of asyncio.to_thread that runs test_a_thread_at_work" in block.blockers[0]
    supervisor.lets_go_on()
    (second,) = supervisor.expect_idle().waits
    supervisor.suspend()
    supervisor.wake(Answer(second.wait_id, "completed"))
    while supervisor.expect(Block).blockers:
        pass  # its thread goes on for a moment
    supervisor.answer(block.waits[0].wait_id)
    assert supervisor.finished().ok


# -- deadlines, keys, circles -----------------------------------------------------------------------------------------


def test_a_wait_for_a_run_or_a_token_may_time_out(supervisor: Supervisor) -> None:
    """BB3: timeouts on each."""

    @task
    async def child(number: int) -> timedelta:
        return timedelta(seconds=number)

    @task
    async def limited() -> list[str]:
        told: list[str] = []
        run = await child.trigger(1)
        for waiting in (wait.for_run(run, timeout="1m"), wait.for_token("waitpoint_1", timeout=5)):
            try:
                await waiting
            except WaitTimeout as error:
                told.append(f"{type(error).__name__}: {error}")
        return [*told, type(await wait.for_run(run)).__name__, await wait.for_run("run_other")]

    supervisor.start(limited)
    supervisor.reply("trigger", {"run_id": "run_child"})
    for kind, timeout_s in (("run", 60.0), ("token", 5.0)):
        (new,) = supervisor.expect_idle().waits
        assert (new.kind, new.timeout_s) == (kind, timeout_s)
        supervisor.answer(new.wait_id, status="timed_out")
    supervisor.answer(supervisor.expect_idle().waits[0].wait_id, "PT1S")
    supervisor.answer(supervisor.expect_idle().waits[0].wait_id, "plain")
    assert supervisor.output_of_run() == [
        "WaitTimeout: the wait for run run_child timed out",
        "TokenTimeout: wait token waitpoint_1 was not completed in time",
        "timedelta",
        "plain",
    ]


def test_a_key_of_a_wait_is_the_runs_own(supervisor: Supervisor) -> None:
    """W6: idempotency keys for waits, with a time to live."""

    @task
    async def keyed() -> None:
        await wait.for_("1h", idempotency_key="k", idempotency_key_ttl="1d")
        await wait.until(datetime(2030, 1, 1, tzinfo=UTC), idempotency_key="k")
        await wait.for_approval("Go?", idempotency_key="k")

    keys: list[str | None] = []
    supervisor.start(keyed)
    for _ in range(2):
        (new,) = supervisor.expect_idle().waits
        keys.append(new.idempotency_key)
        assert new.idempotency_key_ttl_s == (86400 if len(keys) == 1 else None)
        supervisor.answer(new.wait_id)
    asked = supervisor.reply("create_token", {"waitpoint_id": "waitpoint_1", "url": "http://x"})
    assert keys[0] == keys[1] != asked["idempotency_key"]
    assert all(key and key != "k" and len(key) == 64 for key in [*keys, asked["idempotency_key"]])


def test_a_wait_that_would_close_a_circle_raises(supervisor: Supervisor) -> None:
    """BB12: where it was written, with the circle's names."""

    @task
    async def circular() -> str:
        try:
            await wait.for_run("run_b")
        except WaitCycle as error:
            return str(error)
        return ""

    supervisor.start(circular)
    (new,) = supervisor.expect_idle().waits
    supervisor.answer(new.wait_id, status="failed", error=TaskError("WaitCycle", "a waits for b, which waits for a"))
    assert supervisor.output_of_run() == "a waits for b, which waits for a"


def test_a_blocking_wait_in_the_event_loop_is_refused(supervisor: Supervisor) -> None:
    from torpor import sync

    @task
    async def wrong() -> None:
        sync.wait.for_("1h")

    supervisor.start(wrong)
    outcome = supervisor.expect(Finished)
    assert outcome.error is not None
    assert outcome.error.name == "BlockingInLoop"
    assert "sync.wait.for_" in outcome.error.message
