"""One run in memory, seen from the supervisor: its process, its control socket, its lease.

    begin or restore -> serve -> (frozen | finished | crashed | stale): always out of memory at the end

Everything that happens to the run arrives in one inbox, from the runner, from the server and from the clock, and is
handled one after the other; so there is no moment at which two of them act on the process at once.
"""

import asyncio
import logging
import os
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from torpor import ids
from torpor.config import Settings
from torpor.errors import ApiError, CriuError, ImageDamaged
from torpor.wire import http, runner
from torpor.wire.framing import FramingError, Unframer, frame
from torpor.worker import checkpoint, files, restore
from torpor.worker.criu import Criu, let_run
from torpor.worker.faults import Fault, reach
from torpor.worker.images import Images
from torpor.worker.link import Link
from torpor.worker.output import Output
from torpor.worker.version import Version, ZygoteDied

log = logging.getLogger(__name__)

FIRST_WORDS_TIMEOUT_S = 30.0
EXIT_TIMEOUT_S = 10.0
OUTPUT_INTERVAL_S = 0.2
LONGEST_FREEZE_RETRY_S = 600.0


@dataclass
class House:
    """What all runs of a worker share."""

    settings: Settings
    link: Link
    images: Images
    criu: Criu | None
    no_freeze_reason: str
    facts: dict[str, Any]
    run_root: Path
    worker_id: str
    version: Callable[[str], Version | None]
    failed_restores: dict[str, int]
    settled: set[str]
    """Images that the engine has decided about: the census may delete them when it does not list them."""


@dataclass(frozen=True)
class Closed:
    """The runner's connection has ended."""


@dataclass(frozen=True)
class Exited:
    """The run's process has ended, with this wait status."""

    status: int


@dataclass(frozen=True)
class FreezeNow:
    """The time for which the waiting process was to be held in memory is over."""


class LiveRun:
    """A lease, and the process that it is for.

    Args:
        house: what the worker's runs share.
        assignment: the lease, and what to do: start, or restore a checkpoint.
    """

    def __init__(self, house: House, assignment: http.Assignment) -> None:
        self.house = house
        self.assignment = assignment
        self.lease = http.HeldLease(assignment.run_id, assignment.lease)
        self.directory = house.run_root / assignment.run_id
        self.pid: int | None = None
        self._inbox: asyncio.Queue[Any] = asyncio.Queue()
        self._listener: asyncio.Server | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._pidfd: int | None = None
        self._exit: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._output = Output(self.directory / "output.log")
        self._output_task: asyncio.Task[None] | None = None
        self._calls: set[asyncio.Task[None]] = set()
        self._open: dict[str, http.OpenWait] = {}
        self._is_idle = False
        self._suspend_asked = False
        self._suspending = False
        self._freeze_timer: asyncio.TimerHandle | None = None
        self._freeze_failures = 0
        self._next_freeze = 0.0
        self._wait_entered = 0.0
        self._assigned = time.perf_counter()
        self._told_unfreezable = False
        self._over = False

    # -- from the supervisor ------------------------------------------------------------------------------------------

    def tell(self, news: http.News) -> None:
        """Hand on what the server says of this run."""
        if news.lease >= self.lease.lease:
            self._inbox.put_nowait(news)

    @property
    def is_waiting(self) -> bool:
        """Nothing but waits keeps this run in memory."""
        return self._is_idle and bool(self._open)

    def freeze_soon(self) -> None:
        """The worker is about to stop: if the run waits, freeze it now."""
        if self.is_waiting and self.house.criu is not None:
            self._inbox.put_nowait(FreezeNow())

    async def live(self) -> None:
        """Hold the run until it is out of memory, one way or another."""
        try:
            ready = await (self._restore() if self.assignment.checkpoint else self._begin())
            if ready:
                self._output_task = asyncio.create_task(self._follow_output())
                while not self._over:
                    await self._handle(await self._inbox.get())
        except ApiError as refused:
            log.error("run %s: the server refused a message (%s); its process is ended", self.lease.run_id, refused)
        finally:
            await self._leave_nothing()

    # -- birth --------------------------------------------------------------------------------------------------------

    async def _begin(self) -> bool:
        version = self.house.version(self.assignment.version)
        if version is None:
            await self._refuse(f"version {self.assignment.version} is not loaded here")
            return False
        shutil.rmtree(self.directory, ignore_errors=True)
        for name in files.PRIVATE:
            (self.directory / name).mkdir(parents=True, mode=0o700)
        await self._listen()
        await reach(Fault.BEFORE_FORK)
        title = f"torpor run {self.assignment.task_id} {self.lease.run_id}"
        try:
            pid = await version.fork(self.lease.run_id, self.directory, title)
        except ZygoteDied as died:
            await self._refuse(str(died))
            return False
        self._watch(pid)
        if not await self._first_words(runner.Hello):
            return True  # it died young: the exit in the inbox tells how
        self._say(runner.Begin(self.assignment.context, self.assignment.payload))
        start_ms = (time.perf_counter() - self._assigned) * 1000
        return await self._report_start(http.StartReport(self.lease.lease, pid=pid, start_ms=start_ms))

    async def _restore(self) -> bool:
        stored = self.assignment.checkpoint
        assert stored is not None
        if self.house.criu is None:
            await self._refuse(f"this worker can't restore: {self.house.no_freeze_reason}")
            return False
        try:
            prepared = await restore.prepare(self.house.images, stored.id, self.directory)
            self._output = Output(self.directory / "output.log", prepared.output_base)
            await self._listen()
            pid, restore_ms = await restore.revive(self.house.criu, prepared)
        except ImageDamaged as damaged:
            await self._refuse(str(damaged), unusable=True)
            return False
        except (CriuError, OSError) as error:
            failures = self.house.failed_restores.get(stored.id, 0) + 1
            self.house.failed_restores[stored.id] = failures
            await self._refuse(f"could not restore: {error}", unusable=failures >= 3)
            return False
        self.house.failed_restores.pop(stored.id, None)
        self._watch(pid)
        self._wake()
        resumed = await self._first_words(runner.Resumed)
        if resumed is None:
            return True
        answers = [answer for answer in self.assignment.answers if answer.wait_id in resumed.open_waits]
        self._say(runner.Awoken(True, answers))
        since_due_ms = None
        if self.assignment.due_at is not None:
            due = datetime.fromisoformat(self.assignment.due_at)
            since_due_ms = (datetime.now(UTC) - due).total_seconds() * 1000
        await reach(Fault.RESUMED)
        report = http.StartReport(
            self.lease.lease,
            answered=[answer.wait_id for answer in answers],
            pid=pid,
            start_ms=(time.perf_counter() - self._assigned) * 1000,
            restore_ms=restore_ms,
            since_due_ms=since_due_ms,
        )
        if not await self._report_start(report):
            return False
        left = [wait_id for wait_id in resumed.open_waits if wait_id not in report.answered]
        if left:
            await self._collect(left)
        if resumed.lost:
            await self._tell("run.descriptors_lost", {"lost": resumed.lost})
        return True

    async def _report_start(self, report: http.StartReport) -> bool:
        reply = await self._send("start", report, http.LeaseReply)
        await reach(Fault.STARTED)
        return reply.status == "ok"

    async def _listen(self) -> None:
        path = self.directory / "ctl.sock"
        path.unlink(missing_ok=True)
        self._listener = await asyncio.start_unix_server(self._on_connect, str(path))

    async def _on_connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._writer is not None:
            writer.close()  # one runner, one connection: a second one is somebody else in the run's tree
            return
        self._writer = writer
        unframer = Unframer()
        try:
            while data := await reader.read(65536):
                for body in unframer.feed(data):
                    self._inbox.put_nowait(runner.from_runner.decode(body))
        except (OSError, FramingError, msgspec.DecodeError) as error:
            log.warning("run %s: its control socket can't be understood: %s", self.lease.run_id, error)
            self._kill()
        finally:
            self._writer = None
            writer.close()
            self._inbox.put_nowait(Closed())

    async def _first_words(self, kind: type[Any]) -> Any:
        """What a process says when it connects; None when it ends or keeps silent instead (then it is killed)."""
        try:
            async with asyncio.timeout(FIRST_WORDS_TIMEOUT_S):
                while True:
                    event = await self._inbox.get()
                    if isinstance(event, kind):
                        return event
                    if isinstance(event, Exited) or (isinstance(event, http.News) and event.kind == "stale"):
                        self._inbox.put_nowait(event)
                        return None
        except TimeoutError:
            log.warning("run %s: no word from its process in %.0f s", self.lease.run_id, FIRST_WORDS_TIMEOUT_S)
            self._kill()
            return None

    # -- life ---------------------------------------------------------------------------------------------------------

    async def _handle(self, event: Any) -> None:
        match event:
            case runner.Block():
                await self._block(event)
            case runner.Call():
                task = asyncio.create_task(self._call(event))
                self._calls.add(task)
                task.add_done_callback(self._calls.discard)
            case runner.Suspending():
                self._suspending = True
            case runner.StayingAwake(reasons):
                self._suspend_asked = False
                await self._tell("run.held", {"reasons": reasons})
                self._schedule_freeze(self._after_failure())
            case runner.Resumed(_, open_waits):
                await self._resume_in_place(open_waits)
            case runner.Finished():
                await self._finish(event)
            case Closed():
                if self._suspending:
                    await self._freeze()
            case Exited(status):
                await self._crash(status)
            case http.News(kind="answered"):
                if self._open and not self._suspending:
                    await self._collect(list(self._open))
            case http.News(kind="stale"):
                self._over = True
            case FreezeNow():
                if self.is_waiting and not self._suspend_asked and self._writer is not None:
                    self._suspend_asked = True
                    self._say(runner.Suspend())
            case _:
                log.warning("run %s: %s makes no sense now", self.lease.run_id, type(event).__name__)

    async def _block(self, message: runner.Block) -> None:
        self._wait_entered = time.perf_counter()
        self._cancel_freeze()
        report = http.BlockReport(self.lease.lease, message.waits, message.dropped, message.idle, message.blockers)
        reply, tries = await self._send_counting("block", report, http.BlockReply)
        self._is_idle = message.idle
        for wait_id in message.dropped:
            self._open.pop(wait_id, None)
        if reply.status == "ok" and tries > 1:
            # An earlier answer to this message may have been lost on the way, with answers in it.
            known = {*self._open, *(wait.wait_id for wait in message.waits)}
            reply = await self._ask_collect([*known])
        self._take(reply)

    async def _collect(self, open_waits: list[str]) -> None:
        self._take(await self._ask_collect(open_waits))

    async def _ask_collect(self, open_waits: list[str]) -> http.BlockReply:
        return await self._send("collect", http.CollectRequest(self.lease.lease, open_waits), http.BlockReply)

    def _take(self, reply: http.BlockReply) -> None:
        """Act on what the engine says of our waits."""
        if reply.status == "stale":
            self._over = True
            return
        self._open = {wait.wait_id: wait for wait in reply.open}
        if reply.answers:
            self._is_idle = False
            self._cancel_freeze()
            self._say(runner.Answers(reply.answers))
        elif self._is_idle and self._open:
            self._consider_freezing()

    async def _call(self, call: runner.Call) -> None:
        """Pass a request of user code on to the server, with our lease instead of credentials."""
        path = {"trigger": "trigger", "create_token": "tokens", "complete_token": "tokens/complete"}.get(call.kind)
        if path is None:
            self._say(runner.Result(call.call_id, False, status=400, error=f"unknown call {call.kind!r}"))
            return
        body = msgspec.json.decode(call.body)
        body["lease"] = self.lease.lease
        try:
            reply = await self._send(path, body, msgspec.Raw)
        except ApiError as refused:
            told = msgspec.Raw(msgspec.json.encode(refused.body))
            result = runner.Result(call.call_id, False, told, refused.status, refused.message)
        else:
            result = runner.Result(call.call_id, True, reply)
        self._say(result)

    # -- held or frozen -----------------------------------------------------------------------------------------------

    def _consider_freezing(self) -> None:
        """Hold a wait that is nearly over; freeze the others."""
        settings = self.house.settings
        if self.house.criu is None:
            if not self._told_unfreezable:
                self._told_unfreezable = True
                self._later(self._tell("run.held", {"reasons": [self.house.no_freeze_reason]}))
            return
        due = [wait.due_in_s for wait in self._open.values() if wait.due_in_s is not None]
        if due and min(due) <= settings.hold_s:
            return
        delay = settings.hold_child_s if any(wait.kind == "run" for wait in self._open.values()) else 0.0
        self._schedule_freeze(max(delay, self._next_freeze - time.monotonic()))

    def _schedule_freeze(self, delay_s: float) -> None:
        self._cancel_freeze()
        if delay_s <= 0:
            self._inbox.put_nowait(FreezeNow())
        else:
            self._freeze_timer = asyncio.get_running_loop().call_later(delay_s, self._inbox.put_nowait, FreezeNow())

    def _cancel_freeze(self) -> None:
        if self._freeze_timer is not None:
            self._freeze_timer.cancel()
            self._freeze_timer = None

    def _after_failure(self) -> float:
        """How long to hold the run before the next try to freeze it: longer each time, for its kind may never work."""
        self._freeze_failures += 1
        delay = min(self.house.settings.freeze_retry_s * 2 ** (self._freeze_failures - 1), LONGEST_FREEZE_RETRY_S)
        self._next_freeze = time.monotonic() + delay
        return delay

    async def _freeze(self) -> None:
        """The runner sleeps: dump it, let the engine decide, then kill it or let it run on."""
        assert self.house.criu is not None
        assert self.pid is not None
        checkpoint_id = ids.new("checkpoint")
        first, lines = self._output.lines(last=True)
        sending = asyncio.create_task(self._send_output(first, lines))
        facts = {**self.house.facts, "run_id": self.lease.run_id, "output_position": self._output.position}
        try:
            stored = await checkpoint.take(
                self.house.criu,
                self.house.images,
                checkpoint_id=checkpoint_id,
                pid=self.pid,
                directory=self.directory,
                facts=facts,
                entered=self._wait_entered,
            )
        except (CriuError, OSError) as error:
            await sending
            self._suspending = self._suspend_asked = False
            if not self._exit.done():
                reason = error.reason if isinstance(error, CriuError) else str(error)
                await self._tell("run.freeze_failed", {"reason": reason, "next_try_s": self._after_failure()})
                self._wake()
            return
        await sending
        reply = await self._send("suspend", http.SuspendReport(self.lease.lease, stored), http.LeaseReply)
        self.house.settled.add(checkpoint_id)
        await reach(Fault.ACCEPTED)
        if reply.status == "awake":
            self.house.images.delete(checkpoint_id)
            self._suspending = self._suspend_asked = False
            let_run(self.pid)
            self._wake()
            return
        # Stale may mean that an earlier, unanswered copy of this message was accepted: then the image is the run. The
        # census deletes it if it isn't.
        self._over = True

    async def _resume_in_place(self, open_waits: list[str]) -> None:
        """The dump was given up, or the answer came first: the same process goes on."""
        reply = await self._ask_collect(open_waits)
        self._say(runner.Awoken(False, reply.answers))
        self._open = {wait.wait_id: wait for wait in reply.open}
        if reply.status == "stale":
            self._over = True
        elif reply.answers:
            self._is_idle = False
        else:
            self._consider_freezing()

    # -- ends ---------------------------------------------------------------------------------------------------------

    async def _finish(self, finished: runner.Finished) -> None:
        self._say(runner.Finishing())
        self._cancel_freeze()
        await self._stop_following()
        await self._send_output(*self._output.lines(last=True))
        await reach(Fault.BEFORE_FINISH)
        outcome = "completed" if finished.ok else "failed"
        report = http.FinishReport(
            self.lease.lease, outcome, finished.output, finished.error, retryable=finished.retryable
        )
        await self._send("finish", report, http.LeaseReply)
        self._over = True
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._exit), EXIT_TIMEOUT_S)

    async def _crash(self, status: int) -> None:
        """The process is gone and had not said why."""
        await self._stop_following()
        await self._send_output(*self._output.lines(last=True))
        error = runner.TaskError("ProcessDied", _told_exit(status))
        await self._send("finish", http.FinishReport(self.lease.lease, "crashed", error=error), http.LeaseReply)
        self._over = True

    async def _refuse(self, reason: str, *, unusable: bool = False) -> None:
        log.warning("run %s: %s", self.lease.run_id, reason)
        await self._send("refuse", http.Refusal(self.lease.lease, reason, unusable), http.LeaseReply)

    async def _leave_nothing(self) -> None:
        self._over = True
        self._cancel_freeze()
        await self._stop_following()
        self._kill()
        if self.pid is not None and self._pidfd is not None:
            await self._exit
        for call in self._calls:
            call.cancel()
        if self._listener is not None:
            self._listener.close()
        if self._writer is not None:
            self._writer.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    # -- the process --------------------------------------------------------------------------------------------------

    def _watch(self, pid: int) -> None:
        self.pid = pid
        if not hasattr(os, "pidfd_open"):
            return  # no Linux: the end of the process is learnt from its socket
        self._pidfd = os.pidfd_open(pid)
        asyncio.get_running_loop().add_reader(self._pidfd, self._on_exit)

    def _on_exit(self) -> None:
        assert self.pid is not None
        assert self._pidfd is not None
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        try:
            _, status = os.waitpid(self.pid, 0)
        except ChildProcessError:
            status = 0  # not our child (a machine without namespaces): how it ended is not to be known
        if not self._exit.done():
            self._exit.set_result(status)
        self._inbox.put_nowait(Exited(status))

    def _kill(self) -> None:
        """End the whole tree: with its pid 1, or its session's leader, go all the others."""
        if self.pid is None or self._exit.done():
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def _wake(self) -> None:
        if self.pid is not None and not self._exit.done():
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGUSR1)

    # -- words --------------------------------------------------------------------------------------------------------

    def _say(self, message: runner.SupervisorMessage) -> None:
        if self._writer is not None:
            self._writer.write(frame(runner.from_supervisor.encode(message)))

    async def _send(self, what: str, message: Any, reply: type[Any]) -> Any:
        return await self.house.link.send(f"runs/{self.lease.run_id}/{what}", message, reply)

    async def _send_counting(self, what: str, message: Any, reply: type[Any]) -> tuple[Any, int]:
        return await self.house.link.send_counting(f"runs/{self.lease.run_id}/{what}", message, reply)

    async def _tell(self, kind: str, data: dict[str, Any]) -> None:
        event = http.StoryEvent(kind, datetime.now(UTC).isoformat(), data)
        await self._send("events", http.EventReport(self.lease.lease, [event]), http.LeaseReply)

    def _later(self, coroutine: Any) -> None:
        task = asyncio.create_task(coroutine)
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    async def _follow_output(self) -> None:
        while True:
            await asyncio.sleep(OUTPUT_INTERVAL_S)
            if not self._suspending:
                await self._send_output(*self._output.lines())

    async def _stop_following(self) -> None:
        if self._output_task is not None:
            self._output_task.cancel()
            with suppress(asyncio.CancelledError):
                await self._output_task
            self._output_task = None

    async def _send_output(self, first: int, lines: list[http.LogLine]) -> None:
        if lines:
            await self._send("logs", http.LogReport(self.lease.lease, first, lines), dict)


def _told_exit(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        return f"the run's process was killed by signal {-code} ({signal.Signals(-code).name})"
    return f"the run's process ended with exit status {code} before the task was done"
