"""Runs that leave their machine in the middle of their work, and what they find on the next one."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from stack import Stack, StackMaker, eventually

pytestmark = pytest.mark.criu


@pytest.fixture
def two(make_stack: StackMaker, tmp_path: Path) -> Iterator[tuple[Stack, Stack]]:
    """Two workers with directories of their own, and one object store."""
    one = make_stack(TORPOR_OBJECT_STORE=f"file://{tmp_path}/objects")
    other = one.beside(tmp_path / "other")
    one.start()
    yield one, other
    if other._worker is not None and other._worker.poll() is None:
        other.stop_worker()


def test_a_computation_goes_on_elsewhere_in_the_middle_of_c_code(two: tuple[Stack, Stack]) -> None:
    one, other = two
    other.start_worker()
    run_id = one.trigger("computes", {"journal": str(one.journal())})
    eventually(lambda: one.lines() == ["begins"], what="it computes")
    holder = one if one.process_of(run_id) in one.worker_pids() else other
    assert f"{run_id}  moved" in holder.drain()
    eventually(lambda: one.process_of(run_id), what="it goes on")
    one.journal("journal.go").touch()
    rounds, answer = one.output(run_id)
    undisturbed = one.trigger("computes", {"journal": str(one.journal("undisturbed")), "rounds": rounds})
    assert one.output(undisturbed) == [rounds, answer]
    assert one.lines() == ["begins", "ends with its own file"]
    [moved] = one.events(run_id, "run.moved")
    assert "drained" in moved["reason"]
    assert one.kinds(run_id).count("run.started") == 1


def test_a_worker_is_drained_from_afar(two: tuple[Stack, Stack]) -> None:
    """It hears of it by its heartbeat, gives its run to the other, and ends."""
    one, other = two
    run_id = one.trigger("computes", {"journal": str(one.journal())})
    eventually(lambda: one.lines() == ["begins"], what="it computes")
    one.client.drain_worker(one.events(run_id, "run.started")[0]["worker_id"])
    one.await_event(run_id, "run.moved")
    eventually(lambda: one._worker.poll() == 0, what="the drained worker ends")  # pyright: ignore
    other.start_worker()
    one.journal("journal.go").touch()
    one.output(run_id)
    assert one.lines() == ["begins", "ends with its own file"]
    assert one.kinds(run_id).count("run.started") == 1


def test_a_run_is_moved_to_and_fro(two: tuple[Stack, Stack]) -> None:
    """It calls, waits and works all the time; nothing is lost between two workers, and nothing is there twice."""
    here, there = two
    token = here.client.create_token()["id"]
    run_id = here.trigger("counts_on", {"journal": str(here.journal()), "token_id": token})
    for trip in (1, 2):
        await_progress(here)
        there.start_worker()
        here.drain()
        left = [kind for kind in here.kinds(run_id) if kind in ("run.moved", "run.suspended")]
        assert len(left) >= trip
        here, there = there, here
    await_progress(here)
    here.client.complete_token(token, "the answer")
    here.journal("journal.go").touch()
    total, answer = here.output(run_id)
    assert answer == "the answer"
    assert here.lines() == [str(number) for number in range(2, total + 1, 2)]
    here.stop_worker()


def await_progress(stack: Stack) -> None:
    seen = len(stack.lines())
    eventually(lambda: len(stack.lines()) > seen + 2, what="it works on")


def test_a_run_with_a_connection_is_given_time_and_then_moved(two: tuple[Stack, Stack]) -> None:
    one, other = two
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        run_id = one.trigger("talks", {"journal": str(one.journal()), "port": port})
        patient = one.trigger("talks", {"journal": str(one.journal("patient")), "port": port})
        connections = [server.accept()[0] for _ in range(2)]
        eventually(lambda: one.lines() and one.lines("patient"), what="both are connected")
        other.start_worker()
        closing = next(each for each in connections if _belongs_to(each, one.process_of(patient)))
        os.kill(one._worker.pid, signal.SIGUSR2)  # pyright: ignore[reportOptionalMemberAccess]
        closing.close()  # as one that has been answered does
        assert one.output(patient) == "closed"
        assert "run.moved" not in one.kinds(patient)
        assert one.output(run_id).startswith(("broken", "closed"))
        [moved] = one.events(run_id, "run.moved")
        assert f"127.0.0.1:{port}" in moved["reason"]
        for connection in connections:
            connection.close()


def _belongs_to(connection: socket.socket, pid: int | None) -> bool:
    port = connection.getpeername()[1]
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    inode = next(row[9] for row in rows if int(row[1].partition(":")[2], 16) == port)
    links = [os.readlink(f"/proc/{pid}/fd/{each}") for each in os.listdir(f"/proc/{pid}/fd")]
    return f"socket:[{inode}]" in links


def test_waiting_runs_leave_by_their_own_freeze(two: tuple[Stack, Stack]) -> None:
    one, other = two
    token = one.client.create_token()["id"]
    run_id = one.trigger("waits_for_token", {"journal": str(one.journal()), "token_id": token})
    held = one.trigger("waits_with_thread", token)
    one.await_event(held, "run.held")
    other.start_worker()
    told = one.drain()
    assert f"{held}  moved" in told
    one.client.complete_token(token, 7)
    assert one.output(run_id) == 7
    assert one.output(held) == 7
    assert "run.suspended" in one.kinds(run_id)
    assert "run.moved" not in one.kinds(run_id)


def test_what_cannot_be_moved_is_told_and_ends_where_it_is(two: tuple[Stack, Stack], tmp_path: Path) -> None:
    one, _ = two
    path = tmp_path / "peer.sock"
    token = one.client.create_token()["id"]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o777)  # the run is not root
        listener.listen()
        run_id = one.trigger("waits_with_socket", {"token_id": token, "path": str(path)})
        peer, _ = listener.accept()
        eventually(lambda: {"run.held", "run.freeze_failed"} & {*one.kinds(run_id)}, what="it is held")
        os.kill(one._worker.pid, signal.SIGUSR2)  # pyright: ignore[reportOptionalMemberAccess]
        one.await_event(run_id, "run.move_failed")
        assert "unix socket" in one.events(run_id, "run.move_failed")[0]["reason"]
        one.client.complete_token(token, 5)
        assert one.output(run_id) == 5
        peer.close()
    eventually(lambda: one._worker.poll() == 0, what="the worker stops when its last run has")  # pyright: ignore


def test_draining_where_no_worker_is_says_so(make_stack: StackMaker) -> None:
    stack = make_stack()
    with pytest.raises(AssertionError, match="no worker is running"):
        stack.drain()
