import asyncio
import os
from datetime import UTC, datetime

import pytest
from fake_supervisor import Supervisor

from torpor import RunFailed, TokenTimeout, current, task, wait
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
            await asyncio.sleep(0.3)

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


def test_a_runner_whose_supervisor_dies_ends_at_once(supervisor: Supervisor) -> None:
    @task
    async def nap() -> None:
        await wait.for_(hours=1)

    supervisor.start(nap)
    supervisor.expect_idle()
    supervisor.hang_up()
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


def test_blocking_code_in_a_thread_of_an_async_task_may_wait(supervisor: Supervisor) -> None:
    from torpor import sync

    @task
    async def threaded() -> str:
        await asyncio.to_thread(sync.wait.for_, "1h")
        return "done"

    supervisor.start(threaded)
    block = supervisor.expect(Block)
    assert not block.idle
    assert "asyncio.to_thread that runs for_" in block.blockers[0]
    supervisor.answer(block.waits[0].wait_id)
    assert supervisor.output_of_run() == "done"


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
