"""Frozen at any moment: the supervisor lets go of the connection, and the run finds its way back from wherever it is."""

import os
import signal
import threading

import msgspec
import pytest
from fake_supervisor import Supervisor, context, json, until_let_go_on

from torpor import current, task
from torpor import wait as awaited
from torpor.sdk import channel
from torpor.sdk.canceling import INTERRUPT
from torpor.sync import wait
from torpor.wire.runner import Answer, Awoken, Begin, Block, Call, Cancel, Finished, Finishing, Hello, Result, Resumed

DOORS = pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])


@DOORS
def test_a_run_that_waits_comes_back_by_itself(supervisor: Supervisor, is_async: bool) -> None:
    @task
    async def nap() -> int:
        await awaited.for_(hours=1)
        return current.attempt

    @task
    def nap_blocking() -> int:
        wait.for_(hours=1)
        return current.attempt

    supervisor.start(nap if is_async else nap_blocking)
    (new,) = supervisor.expect_idle().waits
    for _ in range(2):  # twice in a row
        supervisor.freeze()
        assert supervisor.met_again(context=context(attempt=2)).open_waits == [new.wait_id]
        assert supervisor.expect_idle().waits == []  # the engine took it for executing, so this is told again
    supervisor.answer(new.wait_id)
    assert supervisor.output_of_run() == 2


@DOORS
def test_answers_come_with_the_new_connection(supervisor: Supervisor, is_async: bool) -> None:
    @task
    async def nap() -> str:
        return await awaited.for_token("waitpoint_1")

    @task
    def nap_blocking() -> str:
        return wait.for_token("waitpoint_1")

    supervisor.start(nap if is_async else nap_blocking)
    (new,) = supervisor.expect_idle().waits
    supervisor.freeze()
    supervisor.met_again(Answer(new.wait_id, "completed", json("yes")))
    assert supervisor.output_of_run() == "yes"


@DOORS
def test_a_run_that_computes_is_told_by_the_signal(supervisor: Supervisor, is_async: bool) -> None:
    @task
    async def spin() -> str:
        return compute()

    @task
    def spin_blocking() -> str:
        return compute()

    def compute() -> str:
        print("spinning")
        while os.environ.get("NEWS") is None:
            pass
        return os.environ["NEWS"]

    supervisor.start(spin if is_async else spin_blocking)
    supervisor.until_says("spinning")
    supervisor.freeze()
    assert supervisor.met_again(nudge=True).open_waits == []
    supervisor.freeze()  # twice in a row
    assert supervisor.met_again(nudge=True, env={"NEWS": "seen"}).lost == []
    assert supervisor.output_of_run() == "seen"


@DOORS
def test_a_run_that_computes_finds_out_when_it_next_uses_the_socket(supervisor: Supervisor, is_async: bool) -> None:
    @task
    async def spin() -> None:
        compute()
        await awaited.for_(hours=1)

    @task
    def spin_blocking() -> None:
        compute()
        wait.for_(hours=1)

    def compute() -> None:
        print("spinning")
        until_let_go_on(supervisor.directory)

    supervisor.start(spin if is_async else spin_blocking)
    supervisor.until_says("spinning")
    supervisor.freeze()
    supervisor.lets_go_on()
    assert supervisor.met_again().open_waits == []  # the new wait is not in it: it was not heard of
    (new,) = supervisor.expect_idle_with(1)
    supervisor.answer(new.wait_id)
    assert supervisor.finished().ok


@DOORS
def test_a_message_that_was_cut_off_is_sent_again_whole(supervisor: Supervisor, is_async: bool) -> None:
    @task
    def child(text: str) -> None: ...

    @task
    async def parent() -> str:
        run = await child.trigger("x" * 5_000_000)
        return run.id

    @task
    def parent_blocking() -> str:
        return child.sync.trigger("x" * 5_000_000).id

    supervisor.start(parent if is_async else parent_blocking)
    supervisor.read_some()  # it is in the middle of sending
    for _ in range(2):  # twice in a row
        supervisor.freeze()  # reads what is there, which isn't all
        assert not supervisor._inbox
        assert supervisor.met_again().open_waits == []
        supervisor.read_some()
    supervisor.freeze()
    supervisor.met_again()
    call = supervisor.expect(Call)
    assert len(call.body) > 5_000_000
    supervisor.send(Result(call.call_id, True, json({"run_id": "run_child"})))
    assert supervisor.output_of_run() == "run_child"


@DOORS
def test_during_a_call_the_reply_comes_once(supervisor: Supervisor, is_async: bool) -> None:
    """What the supervisor has not read is sent again; what it has read is replied to, before it lets go or after."""

    @task
    def child() -> None: ...

    @task
    async def parent() -> list[str]:
        return [(await child.trigger()).id for _ in range(3)]

    @task
    def parent_blocking() -> list[str]:
        return [child.sync.trigger().id for _ in range(3)]

    supervisor.start(parent if is_async else parent_blocking)
    call = supervisor.expect(Call)
    supervisor.stand_still()
    supervisor.send(Result(call.call_id, True, json({"run_id": "run_1"})))  # still to be read by the run
    supervisor.let_go()
    os.kill(supervisor.pid, signal.SIGCONT)
    supervisor.met_again()
    call = supervisor.expect(Call)
    supervisor.freeze()
    supervisor.met_again()
    supervisor.send(Result(call.call_id, True, json({"run_id": "run_2"})))
    supervisor.send(Result(call.call_id, True, json({"run_id": "run_two"})))
    call = supervisor.expect(Call)
    supervisor.freeze()
    supervisor.accept()
    supervisor.expect(Resumed)
    supervisor.send(Result(call.call_id, True, json({"run_id": "run_3"})))  # even before it has said that it is there
    supervisor.send(Awoken(restored=False))
    assert supervisor.output_of_run() == ["run_1", "run_2", "run_3"]


def test_whichever_thread_finds_out_all_go_on(supervisor: Supervisor) -> None:
    @task
    def many() -> list[str]:
        outputs: list[str] = []
        threads = [
            threading.Thread(target=lambda n=n: outputs.append(wait.for_token(f"waitpoint_{n}"))) for n in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sorted(outputs)

    supervisor.start(many)
    waits = supervisor.expect_idle_with(3)
    for new in waits:
        supervisor.freeze()
        answer = Answer(new.wait_id, "completed", json(new.waitpoint_id))
        assert new.wait_id in supervisor.met_again(answer).open_waits
    assert supervisor.output_of_run() == ["waitpoint_0", "waitpoint_1", "waitpoint_2"]


def test_the_main_thread_may_compute_while_another_one_reads(supervisor: Supervisor) -> None:
    @task
    def both() -> str:
        thread = threading.Thread(target=wait.for_, args=(1,))
        thread.start()
        print("spinning")
        while thread.is_alive():
            pass
        return "both"

    supervisor.start(both)
    (new,) = supervisor.expect(Block).waits
    supervisor.freeze()
    assert supervisor.met_again(nudge=True).open_waits == [new.wait_id]
    supervisor.answer(new.wait_id)
    assert supervisor.output_of_run() == "both"


def test_a_cancel_that_another_thread_reads_reaches_the_main_thread(supervisor: Supervisor) -> None:
    @task
    def both() -> None:
        threading.Thread(target=wait.for_, args=(3600,), daemon=True).start()
        print("spinning")
        while True:
            pass

    supervisor.start(both)
    supervisor.expect(Block)
    supervisor.freeze()
    supervisor.met_again()
    supervisor.send(Cancel("too dear"))
    assert supervisor.finished().canceled


@DOORS
def test_the_signal_alone_says_nothing(supervisor: Supervisor, is_async: bool) -> None:
    @task
    async def spin() -> str:
        return compute()

    @task
    def spin_blocking() -> str:
        return compute()

    def compute() -> str:
        print("spinning")
        until_let_go_on(supervisor.directory)
        return "done"

    supervisor.start(spin if is_async else spin_blocking)
    supervisor.until_says("spinning")
    os.kill(supervisor.pid, INTERRUPT)
    supervisor.lets_go_on()
    assert supervisor.output_of_run() == "done"


@DOORS
def test_an_outcome_is_told_again(supervisor: Supervisor, is_async: bool) -> None:
    """Whether it was read before is not known to the run, and an image may be older than the reading."""

    @task
    async def quick() -> int:
        return 7

    @task
    def quick_blocking() -> int:
        return 7

    supervisor.start(quick if is_async else quick_blocking)
    first = supervisor.expect(Finished)
    supervisor.freeze()
    supervisor.met_again()
    assert supervisor.expect(Finished) == first
    supervisor.send(Finishing())
    assert supervisor.exit_code() == 0


def test_a_process_without_a_run_says_hello_again(supervisor: Supervisor) -> None:
    """A warmed process that waits for its run may be frozen as well, and restored many times."""

    @task
    def nothing() -> None: ...

    supervisor.start_spare(nothing)
    supervisor.accept()
    supervisor.expect(Hello)
    supervisor.freeze()
    supervisor.accept()
    assert supervisor.expect(Hello).name == "run_test"
    supervisor.send(Begin(context(), msgspec.Raw(b"null")))
    assert supervisor.finished().ok


@DOORS
def test_a_supervisor_that_is_gone_takes_the_run_along(
    supervisor: Supervisor, is_async: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "RECONNECT_S", 0.3)

    @task
    async def nap() -> None:
        await awaited.for_(hours=1)

    @task
    def nap_blocking() -> None:
        wait.for_(hours=1)

    supervisor.start(nap if is_async else nap_blocking)
    supervisor.expect_idle()
    supervisor.die()
    assert supervisor.exit_code() == 70
