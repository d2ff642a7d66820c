"""A supervisor for tests: it listens where a real one would, and says what the test tells it to.

The session runs in a real child process, forked like a zygote's: so suspending, SIGUSR1, descriptors and exit codes are
the real thing. Only CRIU is missing: instead of being dumped, the child just sleeps in its sigwait.
"""

import contextlib
import logging
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from torpor.sdk.canceling import INTERRUPT
from torpor.wire.framing import Unframer, frame
from torpor.wire.runner import (
    Answer,
    Answers,
    Awoken,
    Begin,
    Block,
    Call,
    Finished,
    Finishing,
    Hello,
    NewWait,
    Result,
    Resumed,
    RunContext,
    RunnerMessage,
    SavePoint,
    SupervisorMessage,
    Suspend,
    Suspending,
    from_runner,
    from_supervisor,
)

PATIENCE_S = 60.0
M = TypeVar("M")


def context(**values: Any) -> RunContext:
    known: dict[str, Any] = {
        "run_id": "run_test",
        "task_id": "the_task",
        "attempt": 1,
        "max_attempts": 3,
        "version": "v1",
        "environment": "dev",
        "tags": ["a"],
        "is_test": False,
        "created_at": "2026-01-02T03:04:05Z",
    }
    return RunContext(**{**known, **values})


def json(value: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


def until_let_go_on(directory: Path) -> None:
    """Work, for as long as the supervisor of this directory wants."""
    while not (directory / "go").exists():
        time.sleep(0.01)


class Supervisor:
    """One run, seen from outside."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._not_the_runs = [int(name) for name in os.listdir("/proc/self/fd") if int(name) > 2]
        self.path = str(directory / "ctl.sock")
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self.path)
        self._listener.listen()
        self._listener.settimeout(PATIENCE_S)
        self._connection: socket.socket | None = None
        self._unframer = Unframer()
        self._inbox: list[RunnerMessage] = []
        self.pid = 0

    # -- the child --

    def start(
        self, task: Callable[..., Any], payload: Any = None, begin: dict[str, Any] | None = None, **values: Any
    ) -> None:
        """Fork a runner that performs the task, and bring it to its first line."""
        self.start_spare(task)
        self.accept()
        assert self.expect(Hello).name == "run_test"
        known = msgspec.Raw(b"null") if payload is None else json(payload)
        self.send(Begin(context(**values), known, **(begin or {})))

    def start_spare(self, task: Callable[..., Any]) -> None:
        """Fork a runner that will perform the task as soon as it is told to."""
        self.start_doing(lambda: _perform(self.path, task))

    def start_doing(self, what: Callable[[], None]) -> None:
        """Fork a child that does this, with its output in the run's output.log."""
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                self._listener.close()
                for number in self._not_the_runs:  # pytest's, and sockets of databases that other tests share
                    with contextlib.suppress(OSError):
                        os.close(number)
                nothing = os.open(os.devnull, os.O_RDONLY)
                os.dup2(nothing, 0)
                os.close(nothing)
                log = os.open(self.directory / "output.log", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
                os.dup2(log, 1)
                os.dup2(log, 2)
                os.close(log)
                sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - pytest's own is not a file
                logging.getLogger().handlers.clear()  # pytest's
                sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
                what()
                code = 0
            except BaseException:  # noqa: BLE001 - the child must not come back into pytest
                os.write(2, traceback.format_exc().encode())
            finally:
                os._exit(code)

    def exit_code(self) -> int:
        """The child's end."""
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def output(self) -> str:
        return (self.directory / "output.log").read_text()

    def until_says(self, word: str) -> None:
        """Until it is in the run's output."""
        end = time.monotonic() + PATIENCE_S
        while word not in (self.output() if (self.directory / "output.log").exists() else ""):
            assert time.monotonic() < end, self.output()
            time.sleep(0.01)

    def lets_go_on(self) -> None:
        """For code that stands in `until_let_go_on`."""
        (self.directory / "go").touch()

    # -- the socket --

    def accept(self) -> None:
        self._connection, _ = self._listener.accept()
        self._connection.settimeout(PATIENCE_S)
        self._unframer = Unframer()

    def send(self, *messages: SupervisorMessage) -> None:
        """In one packet, so that they arrive together."""
        assert self._connection is not None
        self._connection.sendall(b"".join(frame(from_supervisor.encode(message)) for message in messages))

    def receive(self) -> RunnerMessage:
        assert self._connection is not None
        while not self._inbox:
            data = self._connection.recv(1 << 16)
            assert data, f"the runner has gone:\n{self.output()}"
            self._inbox += map(from_runner.decode, self._unframer.feed(data))
        return self._inbox.pop(0)

    def read_some(self) -> None:
        """A part of a large message."""
        assert self._connection is not None
        self._inbox += map(from_runner.decode, self._unframer.feed(self._connection.recv(1 << 16)))

    def expect(self, kind: type[M]) -> M:
        message = self.receive()
        assert isinstance(message, kind), f"expected {kind.__name__}, got {message}\n{self.output()}"
        return message

    def says_nothing(self, for_s: float = 0.3) -> bool:
        """Whether the runner is silent for a while."""
        assert self._connection is not None
        self._connection.settimeout(for_s)
        try:
            self._inbox += map(from_runner.decode, self._unframer.feed(self._connection.recv(1 << 16)))
        except TimeoutError:
            return not self._inbox
        finally:
            self._connection.settimeout(PATIENCE_S)
        return False

    def let_go(self) -> None:
        """Close our end, as before a freeze that nobody is asked for: all that the run had sent is read first."""
        assert self._connection is not None
        self._connection.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while data := self._connection.recv(1 << 16):
                self._inbox += map(from_runner.decode, self._unframer.feed(data))
        self._connection.close()

    def stand_still(self) -> None:
        """SIGSTOP; returns when it does."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)

    def freeze(self) -> None:
        """What a real one does to a run at any moment: stop, read what is left, let go. CRIU would write an image now."""
        self.stand_still()
        self.let_go()
        os.kill(self.pid, signal.SIGCONT)

    def met_again(self, *answers: Answer, nudge: bool = False, restored: bool = True, **more: Any) -> Resumed:
        """The run has found out that we let go, and is back."""
        if nudge:
            os.kill(self.pid, INTERRUPT)
        self.accept()
        while isinstance(resumed := self.receive(), Block):
            pass  # told before we let go
        assert isinstance(resumed, Resumed), f"{resumed}\n{self.output()}"
        self.send(Awoken(restored=restored, answers=list(answers), **more))
        return resumed

    def die(self) -> None:
        """Nobody is there any more."""
        self._listener.close()
        os.unlink(self.path)
        self.let_go()

    # -- conversations --

    def expect_idle(self) -> Block:
        """The next Block that says idle; blocks before it are merged into it."""
        waits, dropped = [], []
        while True:
            block = self.expect(Block)
            waits += block.waits
            dropped += block.dropped
            if block.idle:
                return Block(waits, dropped, True, [])

    def expect_idle_with(self, count: int) -> list[NewWait]:
        """Waits told until the run is idle with so many new ones."""
        waits: list[NewWait] = []
        while True:
            block = self.expect(Block)
            waits += block.waits
            if block.idle and len(waits) == count:
                return waits

    def reply_to_trigger(self, run_id: str) -> None:
        """Answer the next trigger, past what is told of waits meanwhile, which is not lost."""
        told: list[RunnerMessage] = []
        while not isinstance(message := self.receive(), Call):
            told.append(message)
        self._inbox[:0] = told
        assert message.kind == "trigger"
        self.send(Result(message.call_id, True, json({"run_id": run_id})))

    def answer(self, wait_id: str, output: Any = None, **more: Any) -> None:
        self.send(Answers([Answer(wait_id, more.pop("status", "completed"), json(output), **more)]))

    def reply(self, kind: str, body: Any, **more: Any) -> dict[str, Any]:
        """Answer the next call, which must be of this kind; returns what was asked."""
        call = self.expect(Call)
        assert call.kind == kind
        self.send(Result(call.call_id, more.pop("ok", True), json(body), **more))
        return msgspec.json.decode(call.body)

    def suspend(self) -> Suspending:
        """Have the run stand still, as before a dump."""
        self.send(Suspend())
        return self.stood_still()

    def stood_still(self) -> Suspending:
        """It says that it stands still."""
        told = self.expect(Suspending)
        assert self._connection is not None
        assert self._connection.recv(1) == b"", "it said Suspending and kept the connection"
        self._connection.close()
        return told

    def save_point(self) -> SavePoint:
        """The run asks for one, and stands still."""
        while isinstance(told := self.receive(), Block):
            pass
        assert isinstance(told, SavePoint), f"{told}\n{self.output()}"
        assert self._connection is not None
        assert self._connection.recv(1) == b"", "it said SavePoint and kept the connection"
        self._connection.close()
        return told

    def wake(self, *answers: Answer, restored: bool = True, **more: Any) -> Resumed:
        """Have it go on, as after a restore."""
        os.kill(self.pid, signal.SIGUSR1)
        return self.met_again(*answers, restored=restored, **more)

    def finished(self) -> Finished:
        """The outcome; the runner has exited well."""
        while isinstance(outcome := self.receive(), Block):
            pass  # between two answers the run may have been idle for a moment
        assert isinstance(outcome, Finished), f"{outcome}\n{self.output()}"
        self.send(Finishing())
        assert self.exit_code() == 0, self.output()
        return outcome

    def output_of_run(self) -> Any:
        """What the task returned."""
        outcome = self.finished()
        assert outcome.ok, outcome.error
        return msgspec.json.decode(outcome.output)

    def close(self) -> None:
        self._listener.close()
        if self._connection is not None:
            self._connection.close()
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


def _perform(path: str, task: Any) -> None:
    from torpor.sdk.session import Session

    session = Session.open(path, "run_test")
    session.finish(session.perform(task))


@contextlib.contextmanager
def supervising(directory: Path) -> Iterator[Supervisor]:
    supervisor = Supervisor(directory)
    try:
        yield supervisor
    finally:
        supervisor.close()


def alarm_of(block: Block) -> NewWait:
    (alarm,) = [new for new in block.waits if new.wait_id.startswith("alarm_")]
    assert alarm.kind == "time"
    return alarm


def one_by_one(supervisor: Supervisor, order: list[float]) -> None:
    """Answer the waits of a run in this order (by their hours), with a freeze before each answer."""
    waits: dict[float, str] = {}
    for hours in order:
        waits |= {(new.duration_s or 0) / 3600: new.wait_id for new in supervisor.expect_idle().waits}
        supervisor.suspend()
        supervisor.wake(Answer(waits[hours], "completed"))
