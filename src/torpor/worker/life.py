"""What is known of one run in memory, and what those who act on it share: its state, its words to the server, its image.

`live_run.py` has the inbox and the ends, `waiting.py` the waits, `saving.py` what is written down outside of them.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from torpor import ids
from torpor.errors import ApiError, CriuError, ImageDamaged
from torpor.objects import ObjectsDown
from torpor.wire import http, runner
from torpor.worker import checkpoint
from torpor.worker.faults import Fault, reach
from torpor.worker.house import House
from torpor.worker.output import Follower, Output
from torpor.worker.process import RunProcess
from torpor.worker.relay import Relay
from torpor.worker.work_clock import WorkClock

log = logging.getLogger(__name__)

EXIT_TIMEOUT_S = 10.0
NO_CHECKPOINT = (CriuError, ObjectsDown, ImageDamaged, checkpoint.NotAccepted, OSError)
"""Why there may be none: the process can't be dumped, the store is down, there is no key, there is no room."""


class Life:
    """One run in memory.

    Args:
        house: what the worker's runs share.
        assignment: the lease, and what to do.

    Attributes:
        open: the waits that have no answer yet.
        is_idle: nothing but waits is left to do.
        suspend_asked: the process was asked to sleep, and has not said yet whether it does.
        stands_still: it sleeps, by its own word, until it is woken.
        is_being_stopped: it is stopped in its work, and heard out.
        is_at_work: restored in the middle of its work, it has yet to say `Resumed`.
        cancel: what it was asked to end with.
        clock: for how long it has worked.
        calls: how many requests of user code are not answered yet.
        lately_answered: waits whose answers it may not have taken up.
        saved: what became of its save point: a checkpoint, or why there is none.
        relay: leads on what user code says of the run.
        over: nothing more is to be done here.
        left: how it was frozen, if that was its end here: `frozen` in a wait, `moved` out of its work.
        not_moved: why it could not be frozen when it was last tried to move it.
    """

    def __init__(self, house: House, assignment: http.Assignment) -> None:
        self.house = house
        self.assignment = assignment
        self.lease = http.HeldLease(assignment.run_id, assignment.lease)
        self.output: Output | None = None
        self.follower: Follower | None = None
        self.open: dict[str, http.OpenWait] = {}
        self.is_idle = False
        self.suspend_asked = False
        self.stands_still = False
        self.is_being_stopped = False
        self.is_at_work = False
        self.cancel: runner.Cancel | None = None
        self.clock = WorkClock(assignment.context.max_duration_s, assignment.active_s)
        self.calls = 0
        self.lately_answered: deque[str] = deque(maxlen=1000)
        self.saved: tuple[str | None, str | None] = (None, None)
        self.over = False
        self.left: str | None = None
        self.not_moved: str | None = None
        self._background: set[asyncio.Task[None]] = set()
        self._timers: list[asyncio.TimerHandle] = []
        self._reports = 0
        self.relay = Relay(self.lease, self.send, self.tell, self.in_background)

    @property
    def is_waiting(self) -> bool:
        """Nothing but waits keeps this run in memory."""
        return self.is_idle and bool(self.open)

    def waits_in_memory(self) -> list[str]:
        """The waits that a process which was stopped in its work may hold for open."""
        return sorted({*self.open, *self.lately_answered})

    def stop_timers(self) -> None:
        for timer in self._timers:
            timer.cancel()

    def stop_background(self) -> None:
        self.relay.stop()
        for task in self._background:
            task.cancel()

    # -- words --------------------------------------------------------------------------------------------------------

    def next(self) -> int:
        """The number of a report about the waits: by it the engine knows a copy that comes late. One is under way at a time."""
        self._reports += 1
        return self._reports

    async def send(self, what: str, message: Any, reply: type[Any]) -> Any:
        return await self.house.link.send(f"runs/{self.lease.run_id}/{what}", message, reply)

    async def tell(self, kind: str, data: dict[str, Any]) -> None:
        event = http.StoryEvent(kind, datetime.now(UTC).isoformat(), data)
        await self.send("events", http.EventReport(self.lease.lease, [event]), http.LeaseReply)

    def later(self, delay_s: float, process: RunProcess, event: object) -> None:
        self._timers = [timer for timer in self._timers if timer.when() > asyncio.get_running_loop().time()]
        self._timers.append(asyncio.get_running_loop().call_later(delay_s, process.inbox.put_nowait, event))

    def in_background(self, coroutine: Any) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def last_words(self) -> None:
        """Tell all that it has said of itself, and all that it has written."""
        await self.relay.flush()
        if self.follower is not None:
            await self.follower.stop()
            await self.follower.catch_up(last=True)

    async def tell_output(self, first: int, lines: list[http.LogLine]) -> None:
        """Output is told as well as can be: it never costs a run its outcome."""
        try:
            await self.send("logs", http.LogReport(self.lease.lease, first, lines), dict)
        except (ApiError, ValueError) as error:
            log.warning("run %s: %d lines of its output could not be told: %s", self.lease.run_id, len(lines), error)

    # -- its image ----------------------------------------------------------------------------------------------------

    async def take_checkpoint(self, process: RunProcess, entered: float) -> checkpoint.Taken:
        """Write the process down as it stands, and tell all that it has said until then.

        Raises:
            CriuError, OSError: it can't be; see `checkpoint.take`.
        """
        assert self.house.criu is not None
        assert self.output is not None
        assert self.follower is not None
        output = self.output
        sending = asyncio.create_task(self.follower.catch_up())
        try:
            taken = await checkpoint.take(
                self.house.criu,
                self.house.images,
                checkpoint_id=ids.new("checkpoint"),
                process=process,
                facts=lambda: {
                    **self.house.facts,
                    "trust": process.trust.value,  # how it was imported, whatever holds here by now
                    "run_id": self.lease.run_id,
                    **process.belongings.facts(),
                    "output_position": output.end(),
                    "output_told_bytes": output.told_bytes,
                    "inherited_bytes": process.belongings.inherited_bytes,
                },
                entered=entered,
            )
        finally:
            await sending
        return taken

    async def settle(
        self,
        taken: checkpoint.Taken,
        kind: checkpoint.Kind,
        tell: Callable[[http.StoredCheckpoint], Awaitable[http.LeaseReply]],
        name: str | None = None,
    ) -> http.LeaseReply:
        """Publish what was taken and let the engine decide. Meanwhile the rest of the output is told; and before that, all
        that the process has said of its run, which is said once and not again by whoever is restored from the image.
        """
        assert self.follower is not None

        async def tell_in_order(stored: http.StoredCheckpoint) -> http.LeaseReply:
            await self.relay.flush()
            return await tell(stored)

        sending = asyncio.create_task(self.follower.catch_up(last=kind in ("wait", "move")))
        try:
            return await checkpoint.settle(
                self.house.images,
                taken,
                kind,
                tell_in_order,
                store_id=self.house.store_id,
                strays=self.house.strays,
                name=name,
            )
        finally:
            await sending

    async def leave(self, process: RunProcess, reply: http.LeaseReply, how: str) -> None:
        """The image is the run now, or another worker has it: nothing of it stays here.

        Stale may mean that an earlier, unanswered copy of our message was accepted: then the image is the run, and is kept.
        """
        if reply.status == "suspended":
            process.lives_on = True
            self.left = how
        process.kill()
        await asyncio.wait([process.exited], timeout=EXIT_TIMEOUT_S)
        await reach(Fault.KILLED)
        self.over = True


def reason(error: Exception) -> str:
    """Why there is no checkpoint, for the story."""
    return error.reason if isinstance(error, CriuError) else str(error)
