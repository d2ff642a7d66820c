"""How a leased run gets its process: a fresh one from its version's zygote, or the one that it was, from its image.

Either ends with user code on its way: it has what it needs, and only the engine is to be told. A birth that fails leaves
nothing behind.
"""

import asyncio
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

import msgspec

from torpor.errors import ApiError, CriuError, TorporError
from torpor.wire import http, runner
from torpor.wire.networks import strictest
from torpor.worker import restore
from torpor.worker.faults import Fault, reach
from torpor.worker.house import House
from torpor.worker.output import Output
from torpor.worker.process import RunProcess
from torpor.worker.router import NoNetwork

SLEEPING = ("wait", "named")
"""Kinds of checkpoints in which the process sleeps until it is woken."""


class NotHere(TorporError):
    """This worker can't do it, and waiting would not help: its message says why."""


@dataclass(frozen=True)
class Born:
    """A process with user code on its way, and what the engine should hear of it."""

    process: RunProcess
    output: Output
    report: http.StartReport
    open_waits: list[str] = field(default_factory=list)
    """Of a restored process: the waits that are yet to be answered."""
    lost: list[str] = field(default_factory=list)
    """Of a restored process: descriptors that could not be opened again."""
    is_at_work: bool = False
    """It was restored in the middle of its work, and has yet to say `Resumed`."""


async def begin(house: House, assignment: http.Assignment) -> Born:
    """Give the attempt to a process of its version.

    Raises:
        NotHere: this worker does not have the version.
        ZygoteDied, ImportFailed, OSError: no process could be made now.
    """
    began = time.perf_counter()
    _refuse_if_closed(house)
    await house.keep_up(assignment.variables_revision)
    version = house.version(assignment.version)
    if version is None:
        raise NotHere(f"version {assignment.version} is not loaded here")
    payload = await _large_payload(house, assignment) if assignment.payload_is_large else assignment.payload
    await reach(Fault.BEFORE_FORK)
    try:
        process = await version.runner(version.network_of(assignment.task_id))
    except NoNetwork as error:
        raise NotHere(str(error)) from None
    process.belongings.fit(assignment.preset)
    environment, at_server = house.environment, house.set_at_server  # its zygote's may be older
    process.say(
        runner.Begin(_context(house, assignment), payload, env=at_server, env_all=environment, hook=assignment.hook)
    )
    version.make_ahead()
    report = http.StartReport(
        assignment.lease,
        pid=process.pid,
        start_ms=_ms_since(began),
        trust=process.trust.value,
        network=process.belongings.network_kind,
        isolation=house.isolation.level,
        missing=_missing(house),
    )
    output = Output(process.directory / "output.log", limit_bytes=house.settings.output_bytes)
    return Born(process, output, report)


async def _large_payload(house: House, assignment: http.Assignment) -> msgspec.Raw:
    """From the server, which has it from the object store: asked for until it answers."""
    try:
        return await house.link.send(
            f"runs/{assignment.run_id}/payload", http.PayloadCall(assignment.lease), msgspec.Raw
        )
    except ApiError as refused:
        raise NotHere(f"the payload can't be had: {refused.message}") from None


async def thaw(house: House, assignment: http.Assignment) -> Born:
    """Restore the run's checkpoint and hand the process its answers.

    Raises:
        NotHere: this worker can't restore.
        ImageDamaged: this image can never be used.
        Unfit: it can't be used on this machine.
        CriuError, MemoryLost, ObjectsDown, OSError: it could not be restored now.
    """
    began = time.perf_counter()
    _refuse_if_closed(house)
    stored = assignment.checkpoint
    assert stored is not None
    await house.variables.at_least(assignment.variables_revision)
    if house.criu is None:
        raise NotHere(f"this worker can't restore: {house.no_freeze_reason}")
    async with restore.prepared(
        house.images,
        stored,
        house.machine,
        house.run_root,
        house.rooms,
        lazy_bytes=house.settings.lazy_bytes,
        disk_bytes=assignment.preset.disk_bytes,
    ) as prepared:
        process = restore.process_of(prepared, stored.base)
        try:
            process.belongings.limit(house.cgroups, assignment.preset, holds_bytes=prepared.inherited_bytes)
            await _join_network(house, assignment, process, prepared.network)
            await process.listen()
            if prepared.later:
                process.wait_for_memory(prepared.later)
            with process.belongings.room_for_criu():
                pid, restore_ms = await restore.revive(house.criu, prepared, process)
            process.watch(pid)
        except BaseException:
            await process.bury()
            raise
    output = Output(
        process.directory / "output.log",
        prepared.output_base,
        told_bytes=prepared.told_bytes,
        limit_bytes=house.settings.output_bytes,
    )
    if stored.kind in SLEEPING:
        resumed = await _wake(process)
        answers = [answer for answer in assignment.answers if answer.wait_id in resumed.open_waits]
        answered = [answer.wait_id for answer in answers]
        saved = stored.id if stored.kind == "named" else None
        process.say(awoken(house, assignment, answers, saved=saved))
        open_waits = [wait_id for wait_id in resumed.open_waits if wait_id not in answered]
        lost = resumed.lost
    else:
        # It works on where it was, perhaps for hours before it looks at its connection: nobody waits for that.
        process.go_on()
        process.nudge()
        answered, open_waits, lost = [], [], []
    report = http.StartReport(
        assignment.lease,
        answered=answered,
        pid=pid,
        start_ms=_ms_since(began),
        restore_ms=restore_ms,
        since_due_ms=_ms_since_instant(assignment.due_at),
        trust=process.trust.value,
        network=process.belongings.network_kind,
        isolation=house.isolation.level,
        missing=_missing(house),
    )
    await reach(Fault.RESUMED)
    return Born(process, output, report, open_waits, lost, is_at_work=stored.kind not in SLEEPING)


async def _join_network(house: House, assignment: http.Assignment, process: RunProcess, had: str | None) -> None:
    """At least as strict a network as the run had when it was frozen.

    Raises:
        Unfit: there is none for it on this machine.
    """
    version = house.version(assignment.version)
    asked = version.network_of(assignment.task_id) if version is not None else None
    try:
        await process.belongings.join_network(house.networks, strictest(house.network, had, asked))
    except NoNetwork as error:
        raise restore.Unfit(str(error)) from None


async def _wake(process: RunProcess) -> runner.Resumed:
    try:
        process.wake()
        resumed = await process.first_words(runner.Resumed)
        if resumed is None:
            if process.memory_failure is not None:
                raise process.memory_failure
            raise CriuError(f"the restored process did not wake up: {process.end_told()}")
    except BaseException:
        await process.bury()
        raise
    return resumed


def awoken(
    house: House, assignment: http.Assignment, answers: list[runner.Answer], *, saved: str | None = None
) -> runner.Awoken:
    """What a restored process is told, when it says `Resumed`."""
    environment, at_server = house.environment, house.set_at_server
    return runner.Awoken(
        True, answers, env=at_server, env_all=environment, context=_context(house, assignment), saved=saved
    )


def _context(house: House, assignment: http.Assignment) -> runner.RunContext:
    return msgspec.structs.replace(assignment.context, limits=house.limits)


def _refuse_if_closed(house: House) -> None:
    if house.refusal is not None:
        raise NotHere(f"this worker runs nothing: {house.refusal}")


def _missing(house: House) -> list[str]:
    """What a run here has to do without, of what a room could have."""
    return [each.what for each in house.isolation.missing] if house.isolation.level == "partial" else []


async def pause(delay_s: float, given_up: asyncio.Event) -> bool:
    """Wait before the next try; false when the run was taken away meanwhile."""
    try:
        await asyncio.wait_for(given_up.wait(), delay_s)
    except TimeoutError:
        return True
    return False


def _ms_since(began: float) -> float:
    return (time.perf_counter() - began) * 1000


def _ms_since_instant(instant: str | None) -> float | None:
    if instant is None:
        return None
    return (datetime.now(UTC) - datetime.fromisoformat(instant)).total_seconds() * 1000
