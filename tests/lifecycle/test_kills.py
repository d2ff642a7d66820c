"""Everything that can die is killed with SIGKILL, at rest and at the worst moments: nothing lost, nothing twice.

"Nothing twice": code before an accepted checkpoint never runs again. Code after it may, once per crash.
"""

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from stack import Stack, eventually

from torpor.store.embedded import EmbeddedPostgres

VICTIMS = ["run", "zygote", "worker", "server", "postgres"]

Kill = Callable[[str, str], None]


def moments(**of: str) -> pytest.MarkDecorator:
    """Each victim at each of its moments. Who has a part in what happens there dies at every one; the others, where it matters
    that they are away: what is said to a server is repeated until it is heard, whatever it is."""
    return pytest.mark.parametrize(
        ("victim", "fault"), [(victim, fault) for victim, faults in of.items() for fault in faults.split()]
    )


DUMP = "before_dump during_dump dumped published accepted"
RESTORE = "before_restore during_restore restored resumed"


@pytest.fixture
def kill(stack: Stack, postgres: EmbeddedPostgres) -> Kill:
    """SIGKILL the victim and, where it is a service, start it again, as whatever supervises it would."""

    def kill(victim: str, run_id: str) -> None:
        match victim:
            case "run":
                pid = stack.process_of(run_id)
                if pid is not None:
                    os.kill(pid, signal.SIGKILL)
            case "criu":
                for pid in stack.criu():
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            case "zygote":
                os.kill(eventually(stack.zygote, what="there is a zygote"), signal.SIGKILL)
            case "worker":
                stack.kill_worker()
            case "server":
                stack.kill_server()
                stack.start_server()
            case "postgres":
                [pid_file] = Path(postgres._root()).glob("data/postmaster.pid")
                os.kill(int(pid_file.read_text().split()[0]), signal.SIGKILL)
                eventually(lambda: not postgres.is_running(), what="the postmaster is dead")
                asyncio.run(postgres.ensure())
            case _:
                raise AssertionError(victim)

    return kill


def begin(stack: Stack) -> tuple[str, str]:
    token = stack.client.create_token()["id"]
    return token, stack.trigger("waits_for_token", {"journal": str(stack.journal()), "token_id": token})


def finish(stack: Stack, token: str, run_id: str) -> None:
    stack.client.complete_token(token, "the answer")
    assert stack.output(run_id) == "the answer"
    stack.assert_nothing_left()


@pytest.mark.parametrize("victim", VICTIMS)
def test_a_kill_while_user_code_runs(stack: Stack, kill: Kill, victim: str) -> None:
    run_id = stack.trigger("busy", str(stack.journal()))
    eventually(lambda: stack.lines() == ["busy 1"], what="user code runs")
    kill(victim, run_id)
    if victim == "worker":
        stack.start_worker()
    begun_again = victim in ("run", "worker")
    if begun_again:
        eventually(lambda: len(stack.lines()) == 2, what="a second process runs it")
    stack.journal("journal.go").touch()
    stack.await_end(run_id)
    assert stack.status(run_id) == "COMPLETED", stack.kinds(run_id)
    assert len(stack.lines()) == (2 if begun_again else 1)
    stack.assert_nothing_left()


@pytest.mark.criu
@pytest.mark.parametrize("victim", ["zygote", "worker", "server", "postgres"])
def test_a_kill_while_the_run_sleeps(stack: Stack, kill: Kill, victim: str) -> None:
    token, run_id = begin(stack)
    stack.await_event(run_id, "run.suspended")
    kill(victim, run_id)
    if victim == "worker":
        stack.start_worker()
    finish(stack, token, run_id)
    assert stack.lines() == ["before", "after"]


@pytest.mark.criu
@moments(
    run=DUMP,
    worker=f"{DUMP} packed packs_stored killed",
    criu=DUMP,
    zygote="dumped",
    server="before_dump published accepted killed",
    postgres="during_dump published",
)
def test_a_kill_during_a_dump(stack: Stack, kill: Kill, victim: str, fault: str) -> None:
    stack.pause_at(fault)
    token, run_id = begin(stack)
    stack.await_reached(fault)
    kill(victim, run_id)
    stack.go_on(fault)
    if victim == "worker":
        stack.start_worker()
    stack.await_event(run_id, "run.suspended")
    finish(stack, token, run_id)
    assert stack.lines()[-1] == "after"
    assert stack.lines().count("after") == 1
    # Before the checkpoint was accepted, there was nothing else to go on from than the beginning. A CRIU that is killed at its
    # work may take the process along, in which it has code of its own.
    unsaved = (
        (victim == "worker" and fault not in ("accepted", "killed"))
        or (victim == "run" and fault in ("before_dump", "during_dump"))
        or (victim == "criu" and fault == "during_dump")
    )
    assert stack.lines().count("before") <= (2 if unsaved else 1)


@pytest.mark.criu
@moments(run="stopped", worker="stopped packs_stored published accepted")
def test_a_kill_while_a_working_run_is_moved(stack: Stack, victim: str, fault: str) -> None:
    """It leaves once at most, whatever dies. Before the engine has the image, there is nothing but the beginning."""
    run_id = stack.trigger("busy", str(stack.journal()))
    eventually(lambda: stack.lines() == ["busy 1"], what="user code runs")
    stack.pause_at(fault)
    assert stack._worker is not None
    stack._worker.terminate()
    stack.await_reached(fault)
    if victim == "worker":
        stack.kill_worker()
    elif (pid := stack.process_of(run_id)) is not None:
        os.kill(pid, signal.SIGKILL)
    stack.go_on(fault)
    stack._worker.wait(60)
    stack.start_worker()
    eventually(lambda: stack.process_of(run_id), what="it goes on, or begins anew")
    stack.journal("journal.go").touch()
    stack.output(run_id)
    assert len(stack.lines()) <= (1 if fault == "accepted" else 2)
    stack.assert_nothing_left()


@pytest.mark.criu
@moments(run="before_dump accepted", worker="packed published accepted")
def test_a_kill_at_a_save_point(stack: Stack, kill: Kill, victim: str, fault: str) -> None:
    stack.pause_at(fault)
    run_id = stack.trigger("saved_by_name", str(stack.journal()))
    stack.await_reached(fault)
    kill(victim, run_id)
    stack.go_on(fault)
    if victim == "worker":
        stack.start_worker()
    stack.journal("journal.go").touch()
    assert stack.output(run_id)[1:] == [True, "half way"]
    assert stack.lines().count("before") <= (1 if fault == "accepted" else 2)
    assert stack.lines()[-1] == "after, restored=True"
    stack.assert_nothing_left()


@pytest.mark.criu
@moments(
    run=RESTORE,
    worker=f"before_fetch fetched {RESTORE}",
    criu=RESTORE,
    zygote="during_restore",
    server="before_fetch restored resumed",
    postgres="during_restore resumed",
)
def test_a_kill_during_a_restore(stack: Stack, kill: Kill, victim: str, fault: str) -> None:
    token, run_id = begin(stack)
    stack.await_event(run_id, "run.suspended")
    stack.pause_at(fault)
    stack.client.complete_token(token, "the answer")
    stack.await_reached(fault)
    kill(victim, run_id)
    stack.go_on(fault)
    if victim == "worker":
        stack.start_worker()
    assert stack.output(run_id) == "the answer"
    stack.assert_nothing_left()
    assert stack.lines().count("before") == 1
    assert stack.lines().count("after") <= (2 if fault == "resumed" else 1)


@pytest.mark.criu
def test_a_run_killed_after_a_restore_goes_on_from_its_checkpoint(stack: Stack) -> None:
    token = stack.client.create_token()["id"]
    run_id = stack.trigger("wait_then_busy", {"journal": str(stack.journal()), "token_id": token})
    stack.await_event(run_id, "run.suspended")
    stack.client.complete_token(token, None)
    eventually(lambda: stack.lines() == ["before", "after 1"], what="it goes on")
    pid = stack.process_of(run_id)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: len(stack.lines()) == 3, what="it goes on again")
    stack.journal("journal.go").touch()
    stack.output(run_id)
    assert stack.lines()[0] == "before"
    assert stack.lines().count("before") == 1
    stack.assert_nothing_left()


@pytest.mark.parametrize("victim", ["worker", "server", "postgres"])
def test_an_outcome_that_is_known_here_only_is_not_lost(stack: Stack, kill: Kill, victim: str) -> None:
    stack.pause_at("before_finish")
    run_id = stack.trigger("flaky", str(stack.journal()))
    stack.await_reached("before_finish")
    kill(victim, run_id)
    stack.go_on("before_finish")
    if victim == "worker":
        stack.start_worker()
    assert stack.output(run_id) == 3
    stack.assert_nothing_left()


@pytest.mark.criu
def test_a_zygote_that_died_before_its_warm_image_was_made_has_one_all_the_same(stack: Stack) -> None:
    """Whoever makes it finds the zygote dead, has another one started, and is not mistaken for somebody who makes the same."""

    def made() -> int:
        return stack.worker_log().count("warm image of dev-")

    before, former = made(), eventually(stack.zygote, what="there is a zygote")
    spares = set(stack.processes(naming="torpor spare"))
    os.kill(former, signal.SIGKILL)
    assert stack.output(stack.trigger("adder", {"a": 1, "b": 2})) == 3
    another = eventually(lambda: zygote if (zygote := stack.zygote()) != former else None, what="there is another one")
    eventually(lambda: {*stack.processes(naming="torpor spare")} - spares, what="it has made a process ahead")
    os.kill(another, signal.SIGKILL)
    eventually(lambda: made() > before, what="the warm image is made")


def test_a_zygote_that_is_killed_while_it_imports_is_no_end_of_the_worker(stack: Stack) -> None:
    """A worker whose first import was cut short would sit there with no version, and start nothing; one that has thawed it would
    never fork."""
    stack.kill_worker()
    stack.launch_worker()
    os.kill(killed := eventually(stack.zygote, what="it imports", interval_s=0.01), signal.SIGKILL)
    stack.await_version()
    assert stack.output(stack.trigger("adder", {"a": 1, "b": 2})) == 3
    eventually(lambda: stack.zygote() not in (None, killed), what="it is imported once more")
