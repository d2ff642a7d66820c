"""What a run in memory waits for: the engine is told, the answers are handed on, and meanwhile it is held or frozen."""

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from torpor.wire import http, runner
from torpor.worker import birth
from torpor.worker.hold import Hold, expected
from torpor.worker.life import NO_CHECKPOINT, Life, reason
from torpor.worker.process import RunProcess


@dataclass(frozen=True)
class FreezeNow:
    """The time for which the waiting process was to be held in memory is over."""


class Waiting:
    """The waits of one run.

    Attributes:
        report: under way to the engine: the waits just entered.
        waiting_at: where the code stands, as the process has said before it went to sleep.
        wait_entered: when (`time.perf_counter()`).
    """

    def __init__(self, life: Life) -> None:
        self.report: asyncio.Task[http.BlockReply] | None = None
        self.hold = Hold(life.house.settings)
        self.waiting_at: list[dict[str, Any]] = []
        self.wait_entered = 0.0
        self._life = life
        self._freeze_timer: asyncio.TimerHandle | None = None
        self._told_unfreezable = False

    async def block(self, process: RunProcess, message: runner.Block) -> None:
        self.wait_entered = time.perf_counter()
        self.cancel_freeze()
        self._life.is_idle = message.idle
        if message.waits:
            self.hold.entered_new_wait()
        for wait_id in message.dropped:
            self._life.open.pop(wait_id, None)
        now = datetime.now(UTC)
        self._life.open |= {wait.wait_id: expected(wait, now=now) for wait in message.waits}
        self.report = asyncio.create_task(self._report_block(message))
        if self._life.is_waiting and self.may_freeze and self._freeze_delay() == 0:
            # A long wait for certain: the freeze may begin while the engine is told. Should the engine have the answer
            # already, the dump was in vain, which is rare and does no harm.
            self.ask_to_suspend(process)
        else:
            await self.settle_report(process)

    async def _report_block(self, message: runner.Block) -> http.BlockReply:
        await self._life.relay.flush()
        report = http.BlockReport(
            self._life.lease.lease, message.waits, message.dropped, message.idle, message.blockers, self._life.next()
        )
        reply, tries = await self._life.house.link.send_counting(
            f"runs/{self._life.lease.run_id}/block", report, http.BlockReply
        )
        if reply.status == "ok" and tries > 1:
            # An earlier answer to this message may have been lost on the way, with answers in it.
            reply = await self.collect([*self._life.open])
        return reply

    async def settle_report(self, process: RunProcess) -> http.BlockReply:
        """Wait for what the engine says of the waits just entered, and act on it."""
        assert self.report is not None
        reply = await self.report
        self.report = None
        self.take(process, reply)
        return reply

    async def collect(self, open_waits: list[str]) -> http.BlockReply:
        request = http.CollectRequest(self._life.lease.lease, open_waits, self._life.is_idle, self._life.next())
        return await self._life.send("collect", request, http.BlockReply)

    def take(self, process: RunProcess, reply: http.BlockReply) -> None:
        """Act on what the engine says of our waits."""
        if reply.status == "stale":
            self._life.over = True
            return
        self._life.open = {wait.wait_id: wait for wait in reply.open}
        if self._life.is_waiting:
            self._life.house.vacancy.set()  # who waits does not work: another run may
        if reply.answers:
            self._life.is_idle = False
            self.cancel_freeze()
            self._life.lately_answered.extend(answer.wait_id for answer in reply.answers)
            self._life.relay.inform(process)
            process.say(runner.Answers(reply.answers))
        elif self._life.is_waiting and not self._life.suspend_asked:
            self.consider_freezing(process)

    async def resume_in_place(self, process: RunProcess, open_waits: list[str], lost: list[str]) -> None:
        """The process is back: after a dump that was given up, an answer that came first, a save point; or we had let it go in
        its work, here or in an earlier life.
        """
        self._life.relay.come_back()
        reply = await self.collect(open_waits)
        if self._life.is_at_work:
            process.say(birth.awoken(self._life.house, self._life.assignment, reply.answers))
            self._life.is_at_work = False
            if lost:
                await self._life.tell("run.descriptors_lost", {"lost": lost})
        else:
            saved, error = self._life.saved
            process.say(runner.Awoken(False, reply.answers, saved=saved, error=error))
        self._life.saved = (None, None)
        if self._life.cancel is not None:
            process.ask_to_end(self._life.cancel)
        self._life.open = {wait.wait_id: wait for wait in reply.open}
        if reply.status == "stale":
            self._life.over = True
        elif reply.answers:
            self._life.is_idle = False
        elif self._life.is_waiting:
            self.consider_freezing(process)

    # -- held or frozen -----------------------------------------------------------------------------------------------

    @property
    def may_freeze(self) -> bool:
        """A run that was asked to end is to do that: it isn't frozen in its cleanup."""
        return self._life.house.criu is not None and self._life.cancel is None and not self._life.is_being_stopped

    def _freeze_delay(self) -> float | None:
        return self.hold.delay_s(self._life.open.values(), now=time.monotonic())

    def consider_freezing(self, process: RunProcess) -> None:
        if self._life.house.criu is None:
            if not self._told_unfreezable:
                self._told_unfreezable = True
                self._life.in_background(self._life.tell("run.held", {"reasons": [self._life.house.no_freeze_reason]}))
        elif self.may_freeze and (delay := self._freeze_delay()) is not None:
            self.freeze_in(process, delay)

    def freeze_in(self, process: RunProcess, delay_s: float) -> None:
        self.cancel_freeze()
        self._freeze_timer = asyncio.get_running_loop().call_later(delay_s, process.inbox.put_nowait, FreezeNow())

    def cancel_freeze(self) -> None:
        if self._freeze_timer is not None:
            self._freeze_timer.cancel()
            self._freeze_timer = None

    def ask_to_suspend(self, process: RunProcess) -> None:
        self._life.suspend_asked = True
        process.say(runner.Suspend())

    async def freeze(self, process: RunProcess) -> None:
        """The process sleeps, since it waits: dump it, let the engine decide, then kill it or let it run on."""
        if self._life.cancel is not None:  # it crossed with the request: the process hears of that when it is back
            self._life.stands_still = self._life.suspend_asked = False
            if self.report is not None:
                await self.settle_report(process)
            process.wake()
            return

        async def tell(stored: http.StoredCheckpoint) -> http.LeaseReply:
            if self.report is not None and (await self.settle_report(process)).answers:
                return http.LeaseReply("awake")
            if self._life.over:
                return http.LeaseReply("stale")
            report = http.SuspendReport(
                self._life.lease.lease, stored, self.waiting_at, self._life.next(), process.usage()
            )
            return await self._life.send("suspend", report, http.LeaseReply)

        try:
            taken = await self._life.take_checkpoint(process, self.wait_entered)
            reply = await self._life.settle(taken, "wait", tell)
        except NO_CHECKPOINT as error:
            await self._freeze_failed(process, reason(error))
            return
        if reply.status == "awake":  # the answer came while the process was dumped: the image is of no use
            self._life.stands_still = self._life.suspend_asked = False
            process.go_on()
            process.wake()
        else:
            await self._life.leave(process, reply, "frozen")

    async def _freeze_failed(self, process: RunProcess, why: str) -> None:
        self._life.stands_still = self._life.suspend_asked = False
        if self.report is not None:
            await self.settle_report(process)
        if process.is_alive:  # else its end is in the inbox
            next_try_s = self.hold.failed(now=time.monotonic())
            await self._life.tell("run.freeze_failed", {"reason": why, "next_try_s": next_try_s})
            process.go_on()
            process.wake()
