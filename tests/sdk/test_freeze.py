"""Standing still: what is told, what is refused, and what a child process must not keep."""

import os
import signal
import socket
import ssl
import threading
import time
from pathlib import Path

import pytest
from fake_supervisor import Supervisor

from torpor import NotInRun, task, wait
from torpor.sync import wait as blocking
from torpor.wire.runner import Answer, StayingAwake, Suspend

RT_SIGTIMEDWAIT = {"128", "137"}  # its number on x86-64 and on arm64


def await_sleep(pid: int, is_asleep: bool) -> None:
    """Until the process sleeps in sigwait, or no longer does: the kernel says which system call it is in."""
    end = time.monotonic() + 60
    while (Path(f"/proc/{pid}/syscall").read_text().split()[0] in RT_SIGTIMEDWAIT) is not is_asleep:
        assert time.monotonic() < end
        time.sleep(0.005)


def test_files_outside_are_parked_and_losses_reported(supervisor: Supervisor, tmp_path: Path) -> None:
    outside = tmp_path.parent / f"{tmp_path.name}-data"
    outside.write_text("one\ntwo\n")

    @task
    async def read() -> list[str]:
        with open(outside) as file, open(tmp_path / "own", "w+") as own:
            lines = [file.readline()]
            own.write("kept")
            await wait.for_(hours=1)
            own.seek(0)
            return [*lines, *file.readlines(), own.read()]

    supervisor.start(read)
    (new,) = supervisor.expect_idle().waits
    assert [told.partition(" /")[2] for told in supervisor.suspend().parked] == [str(outside)[1:]]
    outside.unlink()
    (lost,) = supervisor.wake(restored=False).lost
    assert lost.endswith("No such file or directory")
    supervisor.answer(new.wait_id)
    assert supervisor.output_of_run() == ["one\n", "two\n", "kept"]  # what Python had buffered before is still there


def test_a_run_that_holds_an_outside_socket_stays_awake_and_names_it(supervisor: Supervisor, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        path = str(tmp_path / "x.sock")
        listener.bind(path)
        listener.listen()

        @task
        def connect() -> None:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(path)
                blocking.for_(hours=1)

        supervisor.start(connect)
        (new,) = supervisor.expect_idle().waits
        supervisor.send(Suspend())
        (reason,) = supervisor.expect(StayingAwake).reasons
        assert reason.endswith(f"is a unix socket connected to another process ({path})")
        assert supervisor.says_nothing()  # nothing moved: else it would be suspended again at once, for ever
        supervisor.answer(new.wait_id)
        assert supervisor.finished().ok


def test_a_run_whose_thread_uses_an_outside_file_stays_awake_and_names_both(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    outside = tmp_path.parent / f"{tmp_path.name}-data"
    outside.write_text("one\ntwo\n")

    @task
    async def read() -> str:
        with open(outside) as file:
            thread = threading.Thread(target=time.sleep, args=(20,), name="poller", daemon=True)
            thread.start()
            await wait.for_(hours=1)
            return f"{file.fileno()} {file.readline()}"

    supervisor.start(read)
    (new,) = supervisor.expect_idle().waits
    supervisor.send(Suspend())
    (reason,) = supervisor.expect(StayingAwake).reasons
    supervisor.answer(new.wait_id)
    number, _, line = supervisor.output_of_run().partition(" ")
    assert line == "one\n"
    assert reason == (
        f"fd {number} is open on {outside}, which could change while the run is frozen, "
        "and the thread 'poller' may be using it"
    )


def test_user_code_that_unblocks_and_ignores_the_signal_is_woken_all_the_same(supervisor: Supervisor) -> None:
    """Ignored and not blocked, it is dropped at once, as it would be for process 1 without a handler."""

    @task
    def nap() -> list[bool]:
        blocked: list[bool] = []
        for _ in range(2):
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
            blocking.for_(hours=1)
            blocked.append(signal.SIGUSR1 in signal.pthread_sigmask(signal.SIG_BLOCK, []))
        return blocked

    supervisor.start(nap)
    for _ in range(2):
        (new,) = supervisor.expect_idle().waits
        supervisor.suspend()
        await_sleep(supervisor.pid, True)  # only then may the signal be dropped
        supervisor.wake(Answer(new.wait_id, "completed"))
    assert supervisor.output_of_run() == [True, True]


def test_a_stray_signal_from_before_wakes_nobody(supervisor: Supervisor) -> None:
    @task
    def nap() -> None:
        blocking.for_(hours=1)

    supervisor.start(nap)
    (new,) = supervisor.expect_idle().waits
    os.kill(supervisor.pid, signal.SIGUSR1)
    time.sleep(0.05)
    supervisor.suspend()
    assert supervisor.wake(Answer(new.wait_id, "completed")).open_waits == [new.wait_id]
    assert supervisor.finished().ok


def test_openssl_is_reseeded(supervisor: Supervisor) -> None:
    """Seen from outside: RAND_add is called with fresh bytes."""

    @task
    def nap() -> int:
        seen: list[bytes] = []
        ssl.RAND_add = lambda data, entropy: seen.append(data)  # pyright: ignore[reportAttributeAccessIssue]
        blocking.for_(hours=1)
        return len(seen[0])

    supervisor.start(nap)
    (new,) = supervisor.expect_idle().waits
    supervisor.suspend()
    supervisor.wake(Answer(new.wait_id, "completed"))
    assert supervisor.output_of_run() == 32


def test_a_forked_child_neither_keeps_the_connection_nor_speaks_for_the_run(supervisor: Supervisor) -> None:
    @task
    def forks() -> None:
        child = os.fork()
        if child == 0:
            try:
                blocking.for_(hours=1)
            except NotInRun as error:
                os.write(1, str(error).encode())
            time.sleep(60)
            os._exit(0)
        blocking.for_(hours=1)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)

    supervisor.start(forks)
    (new,) = supervisor.expect_idle().waits
    supervisor.suspend()  # sees the end of the connection, though the child lives
    supervisor.wake(Answer(new.wait_id, "completed"))
    assert supervisor.finished().ok
    assert "in a child process of a run" in supervisor.output()


def test_a_supervisor_that_listens_late_is_waited_for(supervisor: Supervisor) -> None:
    @task
    def nap() -> str:
        blocking.for_(hours=1)
        return "back"

    supervisor.start(nap)
    (new,) = supervisor.expect_idle().waits
    supervisor.suspend()
    supervisor._listener.close()
    os.unlink(supervisor.path)
    os.kill(supervisor.pid, signal.SIGUSR1)
    await_sleep(supervisor.pid, False)  # it is awake and looks for its supervisor
    successor = Supervisor(supervisor.directory)
    successor.pid, supervisor.pid = supervisor.pid, 0
    try:
        resumed = successor.wake(Answer(new.wait_id, "completed"))  # one more signal does no harm
        assert resumed.open_waits == [new.wait_id]
        assert successor.output_of_run() == "back"
    finally:
        successor.close()


@pytest.mark.parametrize("is_async", [True, False])
def test_a_task_that_closes_all_descriptors_ends_with_status_70(supervisor: Supervisor, is_async: bool) -> None:
    """Its supervisor can't be told anything any more."""

    @task
    async def awaited() -> None:
        os.closerange(3, 1024)
        await wait.for_(hours=1)

    @task
    def blocked() -> None:
        os.closerange(3, 1024)
        blocking.for_(hours=1)

    supervisor.start(awaited if is_async else blocked)
    assert supervisor.exit_code() == 70
