"""`checkpoint`: the run stands still inside the call, and goes on, once or several times."""

import asyncio
import fcntl
import os
import socket
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import pytest
from fake_supervisor import Supervisor, context, json, until_let_go_on

import torpor.sdk.loop as loop_door
import torpor.sync
from torpor import BlockingInLoop, Checkpoint, NotInRun, checkpoint, current, task
from torpor import wait as awaited
from torpor.sync import wait
from torpor.wire.runner import Answer, Block, Call, NotSaved, Result, Suspend

DOORS = pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])


def saving(is_async: bool) -> Any:
    """A task that makes a save point twice and returns what it got."""

    @task
    async def save() -> list[Any]:
        return [vars(await checkpoint("loaded")) | {"attempt": current.attempt} for _ in range(2)]

    @task
    def save_blocking() -> list[Any]:
        return [vars(torpor.sync.checkpoint("loaded")) | {"attempt": current.attempt} for _ in range(2)]

    return save if is_async else save_blocking


@DOORS
def test_a_save_point_lets_the_run_go_on_and_says_which_life_this_is(supervisor: Supervisor, is_async: bool) -> None:
    supervisor.start(saving(is_async))
    told = supervisor.save_point()
    assert (told.name, told.open_waits, told.left_open) == ("loaded", [], [])
    (place,) = [place for place in told.waiting_at if "checkpoint(" in place["source"]]
    assert place["file"].endswith("test_save_point.py")
    assert supervisor.wake(restored=False, saved="checkpoint_1").open_waits == []
    supervisor.save_point()
    supervisor.wake(saved="checkpoint_2", context=context(attempt=2))
    assert supervisor.output_of_run() == [
        {"id": "checkpoint_1", "name": "loaded", "restored": False, "reason": None, "attempt": 1},
        {"id": "checkpoint_2", "name": "loaded", "restored": True, "reason": None, "attempt": 2},
    ]


@DOORS
def test_what_could_not_be_saved_is_told_and_logged_and_the_run_goes_on(supervisor: Supervisor, is_async: bool) -> None:
    supervisor.start(saving(is_async))
    supervisor.save_point()
    supervisor.wake(restored=False, error="the disk is full")
    supervisor.save_point()
    supervisor.wake(restored=False)
    first, second = supervisor.output_of_run()
    assert (first["id"], first["reason"]) == (None, "the disk is full")
    assert second["reason"] == "the worker did not say what became of it"
    assert "checkpoint 'loaded' could not be saved: the disk is full" in supervisor.output()


@DOORS
def test_what_no_image_can_hold_is_told_and_the_run_goes_on(
    supervisor: Supervisor, tmp_path: Path, is_async: bool
) -> None:
    path = str(tmp_path / "x.sock")

    @task
    async def save() -> str | None:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(path)
            return (await checkpoint("loaded")).reason

    @task
    def save_blocking() -> str | None:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(path)
            return torpor.sync.checkpoint("loaded").reason

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        supervisor.start(save if is_async else save_blocking)
        told = supervisor.expect(NotSaved)
        (reason,) = told.reasons
        assert (told.name, reason) == ("loaded", supervisor.output_of_run())
        assert reason.endswith(f"is a unix socket connected to another process ({path})")


def test_outside_files_are_parked_or_left_open(supervisor: Supervisor, tmp_path: Path) -> None:
    outside = tmp_path.parent / f"{tmp_path.name}-data"
    locked = tmp_path.parent / f"{tmp_path.name}-locked"
    outside.write_text("one\ntwo\n")
    locked.write_text("x")

    @task
    async def read() -> list[str]:
        with open(outside) as file, open(locked, "r+") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            lines = [file.readline()]
            await checkpoint("in the middle")
            return [*lines, *file.readlines(), held.read()]

    supervisor.start(read)
    told = supervisor.save_point()
    assert [each.partition(" /")[2] for each in told.parked] == [str(outside)[1:]]
    (left,) = told.left_open
    assert str(locked) in left
    assert "holds a lock" in left
    assert supervisor.wake(restored=False, saved="checkpoint_1").lost == []
    assert supervisor.output_of_run() == ["one\n", "two\n", "x"]


@DOORS
def test_on_resume_hooks_are_called_in_a_restored_process_only(supervisor: Supervisor, is_async: bool) -> None:
    seen: list[str] = []

    @task
    async def save() -> list[str]:
        others = asyncio.create_task(spin())
        for _ in range(2):
            await checkpoint("loaded")
        others.cancel()
        return seen

    async def spin() -> None:
        while True:
            await asyncio.sleep(0)

    @task
    def save_blocking() -> list[str]:
        for _ in range(2):
            torpor.sync.checkpoint("loaded")
        return seen

    chosen: Any = save if is_async else save_blocking

    @chosen.on_suspend
    def suspend() -> None:
        seen.append("suspend")

    @chosen.on_resume
    async def resume() -> None:
        await asyncio.sleep(0.01)
        seen.append("resume")

    supervisor.start(chosen)
    supervisor.save_point()
    supervisor.wake(restored=False, saved="checkpoint_1")
    supervisor.save_point()
    supervisor.wake(saved="checkpoint_2")
    assert supervisor.output_of_run() == ["resume"]


def test_waits_of_other_asyncio_tasks_are_told_before_it(supervisor: Supervisor) -> None:
    @task
    async def both() -> str:
        other = asyncio.create_task(awaited.for_token("waitpoint_1"))
        await asyncio.sleep(0)
        await checkpoint("loaded")
        return await other

    supervisor.start(both)
    (wait_id,) = supervisor.save_point().open_waits
    assert supervisor.wake(Answer(wait_id, "completed", json("yes")), saved="c").open_waits == [wait_id]
    assert supervisor.output_of_run() == "yes"


def test_waits_of_other_threads_are_told_and_their_reader_is_sent_away(supervisor: Supervisor) -> None:
    @task
    def both() -> list[str]:
        outputs: list[str] = []
        threads = [
            threading.Thread(target=lambda n=n: outputs.append(wait.for_token(f"waitpoint_{n}"))) for n in range(3)
        ]
        for thread in threads:
            thread.start()
        until_let_go_on(supervisor.directory)
        for _ in range(3):
            torpor.sync.checkpoint("loaded")
        for thread in threads:
            thread.join()
        return sorted(outputs)

    supervisor.start(both)
    told = [new for _ in range(3) for new in supervisor.expect(Block).waits]  # and one of them reads the socket
    assert len(told) == 3
    supervisor.lets_go_on()
    told = supervisor.save_point()
    assert len(told.open_waits) == 3
    assert len(told.waiting_at) == 4
    supervisor.wake(restored=False, saved="c")
    supervisor.save_point()
    supervisor.wake(*(Answer(wait_id, "completed", json("yes")) for wait_id in told.open_waits[:2]), saved="c")
    assert supervisor.save_point().open_waits == told.open_waits[2:]
    supervisor.wake(restored=False, saved="c")
    supervisor.answer(told.open_waits[2], "no")
    assert supervisor.output_of_run() == ["no", "yes", "yes"]


@DOORS
def test_a_save_point_waits_for_replies_and_holds_up_calls(supervisor: Supervisor, is_async: bool) -> None:
    """A restored process would wait for ever for the reply to a call of its former life."""

    @task
    def child() -> None: ...

    @task
    async def parent() -> list[str]:
        first = asyncio.create_task(child.trigger())
        await asyncio.sleep(0)
        saved = asyncio.create_task(checkpoint("loaded"))
        await asyncio.sleep(0)
        second = await child.trigger()
        return [(await first).id, second.id, str((await saved).id)]

    @task
    def parent_blocking() -> list[str]:
        ids: list[str] = []

        def trigger_meanwhile() -> None:
            while not any(each.name == "_save" for each in traceback.extract_stack(sys._current_frames()[main])):
                time.sleep(0.01)  # the save point has not begun
            ids.append(child.sync.trigger().id)

        main = threading.get_ident()
        first = threading.Thread(target=lambda: ids.append(child.sync.trigger().id))
        first.start()
        until_let_go_on(supervisor.directory)
        second = threading.Thread(target=trigger_meanwhile)
        second.start()
        saved = torpor.sync.checkpoint("loaded")
        first.join()
        second.join()
        return [*ids, str(saved.id)]

    supervisor.start(parent if is_async else parent_blocking)
    call = supervisor.expect(Call)
    supervisor.lets_go_on()
    assert supervisor.says_nothing(0.6)
    supervisor.send(Result(call.call_id, True, json({"run_id": "run_1"})))
    supervisor.save_point()
    supervisor.wake(restored=False, saved="c")
    supervisor.reply_to_trigger("run_2")
    assert supervisor.output_of_run() == ["run_1", "run_2", "c"]


@DOORS
def test_a_supervisor_that_freezes_the_run_just_then_is_asked_again(supervisor: Supervisor, is_async: bool) -> None:
    """The connection has ended, and the save point is the first to notice: nobody has heard of it."""

    def compute() -> None:
        print("begun")
        until_let_go_on(supervisor.directory)

    @task
    async def save() -> str | None:
        compute()
        return (await checkpoint("loaded")).id

    @task
    def save_blocking() -> str | None:
        compute()
        return torpor.sync.checkpoint("loaded").id

    supervisor.start(save if is_async else save_blocking)
    supervisor.until_says("begun")
    supervisor.freeze()
    supervisor.lets_go_on()
    supervisor.met_again()
    assert supervisor.save_point().name == "loaded"
    supervisor.wake(saved="checkpoint_1")
    assert supervisor.output_of_run() == "checkpoint_1"


def test_several_at_once_are_made_one_after_the_other(supervisor: Supervisor) -> None:
    @task
    async def many() -> list[str | None]:
        return [saved.id for saved in await asyncio.gather(*(checkpoint(f"{n}") for n in range(3)))]

    supervisor.start(many)
    for n in range(3):
        assert supervisor.save_point().name == str(n)
        supervisor.wake(restored=False, saved=f"c{n}")
    assert supervisor.output_of_run() == ["c0", "c1", "c2"]


def test_a_thread_of_an_async_task_may_ask_for_one(supervisor: Supervisor) -> None:
    @task
    async def parent() -> str | None:
        return (await asyncio.to_thread(torpor.sync.checkpoint, "from a thread")).id

    supervisor.start(parent)
    assert supervisor.save_point().name == "from a thread"
    supervisor.wake(restored=False, saved="c")
    assert supervisor.output_of_run() == "c"


def test_a_run_can_be_suspended_after_it(supervisor: Supervisor) -> None:
    @task
    async def nap() -> str | None:
        saved = await checkpoint("loaded")
        await awaited.for_(hours=1)
        return saved.id

    supervisor.start(nap)
    supervisor.save_point()
    supervisor.wake(restored=False, saved="c")
    (new,) = supervisor.expect_idle().waits
    supervisor.send(Suspend())
    supervisor.receive()
    supervisor.wake(Answer(new.wait_id, "completed"))
    assert supervisor.output_of_run() == "c"


def test_the_loops_time_goes_on_in_a_restored_process_only(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Played with a wall clock that leaps, which is what a restored process sees."""

    @task
    async def save() -> list[float]:
        passed: list[float] = []
        for _ in range(2):
            before = asyncio.get_running_loop().time()
            await checkpoint("loaded")
            passed.append(asyncio.get_running_loop().time() - before)
        return passed

    def apart() -> float:
        return time.time() - time.monotonic() + float(os.environ.get("LEAP", "0"))

    monkeypatch.setattr(loop_door, "_apart_s", apart)
    supervisor.start(save)
    supervisor.save_point()
    supervisor.wake(restored=False, saved="c", env={"LEAP": "1000"})
    supervisor.save_point()
    supervisor.wake(restored=True, saved="c", env={"LEAP": "3000"})
    first, second = supervisor.output_of_run()
    assert first < 100
    assert 2000 <= second < 2100


def test_outside_of_a_run_there_is_nothing_to_save() -> None:
    with pytest.raises(NotInRun, match=r"checkpoint\(\)"):
        asyncio.run(checkpoint("loaded"))
    with pytest.raises(NotInRun):
        torpor.sync.checkpoint("loaded")


def test_a_blocking_one_in_an_event_loop_is_refused(supervisor: Supervisor) -> None:
    @task
    async def wrong() -> str:
        for attempt in (lambda: torpor.sync.checkpoint("x"), lambda: checkpoint("")):
            try:
                result: Any = attempt()
                await result
            except (BlockingInLoop, TypeError) as error:
                print(type(error).__name__, file=sys.stderr)
        return "done"

    supervisor.start(wrong)
    assert supervisor.output_of_run() == "done"
    assert supervisor.output().split() == ["BlockingInLoop", "TypeError"]


def test_a_checkpoint_counts_as_true_when_there_is_one() -> None:
    assert Checkpoint("checkpoint_1", "loaded")
    assert not Checkpoint(None, "loaded", reason="no")
