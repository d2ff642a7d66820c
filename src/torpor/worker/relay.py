"""What user code says of its run, led on to the server: changes of metadata and tags, parts of streams.

    changes    reported FLUSH_S after the first one; sooner when there are many
    parts      at once, but not more often than every STREAM_S, unless there are many

All of it is told before the server hears that the run waits, is frozen, saved or moved, or ends (`flush`): what the process in an
image has said is then the server's, and is never said again. What it had not got rid of when it was stopped is in its image.

A report of changes has a number, and a part an id: a report that is repeated, since its answer was lost, changes nothing.

A run that says more than can be told stands in its own way only: what is not told yet weighs in its inbox (inbox.py), and while
that is too much nothing more is read from it.
"""

import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import msgspec

from torpor.errors import ApiError
from torpor.wire import http, runner
from torpor.worker.changes import Changes, Pending
from torpor.worker.pace import Paced
from torpor.worker.process import RunProcess

log = logging.getLogger(__name__)

FLUSH_S = 0.5
CHANGES_APART_S = 0.1
MANY_CHANGES = 200
STREAM_S = 0.05
MANY_PARTS = 100
MANY_BYTES = 256 << 10
MOST_PARTS = 1000
MOST_BYTES = 4 << 20
"""In one report; a single part may have more."""
SMALL_BYTES = 64 << 10
"""What a process is told though it may not read: one such message has room in its socket, and is in nobody's way there."""
MOST_SINGLED_OUT = 20
"""So many changes of one report are refused one by one, for the sake of the others; what is refused then is refused together."""
MOST_TOLD = 20
"""How often a run's story and its log tell that something was refused."""
LEASE_IS_OVER = 410

Send = Callable[[str, Any, type[Any]], Awaitable[Any]]


class Relay:
    """Of one run under one lease.

    Args:
        lease: of the run.
        send: says something about it to the server until that answers.
        tell: adds a line to its story.
        in_background: has a coroutine performed.
    """

    def __init__(
        self,
        lease: http.HeldLease,
        send: Send,
        tell: Callable[[str, dict[str, Any]], Awaitable[None]],
        in_background: Callable[[Any], object],
    ) -> None:
        self._lease = lease
        self._send = send
        self._tell = tell
        self._process: RunProcess | None = None
        self._is_over = False
        self._changes = Changes()
        self._reports = 0
        self._heard = 0  # the number of the last change
        self._reporting = Paced(self._report_changes, CHANGES_APART_S, in_background)
        self._parts: dict[tuple[runner.Target, str], list[runner.Append]] = {}
        self._part_count = 0
        self._part_bytes = 0
        self._appending = Paced(self._append_parts, STREAM_S, in_background)
        self._known: runner.Known | None = None  # the latest, if the process was not told of it
        self._is_asked = False
        self._reply = http.MetadataReply({}, [])
        self._told = 0
        self._seen = 0
        self._refused: list[str] = []  # and the process was not told
        self._refusals = 0
        self._refusal: ApiError | None = None  # the first one since its code has asked

    def change(self, process: RunProcess, change: runner.Change) -> None:
        """The process says that metadata or tags are to be changed."""
        self._process, self._heard, self._seen = process, change.number, change.seen
        for needless in self._changes.add(change):
            process.inbox.dealt_with(needless)
        self._reporting.within(FLUSH_S if len(self._changes) < MANY_CHANGES else 0)

    def append(self, process: RunProcess, append: runner.Append) -> None:
        """The process says that a stream goes on."""
        self._process = process
        self._parts.setdefault((append.target, append.key), []).append(append)
        self._part_count += 1
        self._part_bytes += len(append.part.data)
        self._appending.within(0, hurry=self._part_count >= MANY_PARTS or self._part_bytes >= MANY_BYTES)

    async def flush(self) -> None:
        """See to it that the server has all that was heard so far."""
        if len(self._changes) or self._parts or self._reporting.is_busy or self._appending.is_busy:
            await self._reporting.now()
            await self._appending.now()

    async def answer(self, call: runner.Call) -> runner.Result:
        """The process asks whether all that it has said is stored."""
        self._is_asked = True
        await self._appending.now()
        await self._reporting.now()
        if (refusal := self._refusal) is not None:
            self._refusal = None
            body = msgspec.Raw(msgspec.json.encode(refusal.body))
            return runner.Result(call.call_id, False, body, refusal.status, refusal.message)
        return runner.Result(call.call_id, True, msgspec.Raw(msgspec.json.encode(self._reply)))

    def inform(self, process: RunProcess) -> None:
        """Tell a process that is going to read what others have made of its metadata, if it doesn't know."""
        if self._known is not None and process.is_connected:
            process.say(self._known)
            self._told, self._known, self._refused = self._known.number, None, []

    def come_back(self) -> None:
        """The process has another connection: what it was told on the last one may be lost."""
        self._told = 0

    def stop(self) -> None:
        """No more is told of what was not asked to be."""
        self._reporting.stop()
        self._appending.stop()

    # -- changes ------------------------------------------------------------------------------------------------------

    async def _report_changes(self) -> None:
        changes, through, refusals = self._changes.take(), self._heard, self._refusals
        if self._is_over or not (changes or self._is_asked):
            return
        self._is_asked = False
        await self._report(changes, refusals)
        if self._refusals > refusals:
            await self._report([], 0)  # to know what there is without them
        if self._process is None:
            return  # nothing was ever said
        for each in changes:
            self._process.inbox.dealt_with(each.change)
        self._known = runner.Known(self._told + 1, through, self._reply.metadata, self._reply.tags, self._refused)
        has_read_all = self._told == 0 or self._seen == self._told
        if has_read_all and len(msgspec.json.encode(self._known)) <= SMALL_BYTES:
            self.inform(self._process)

    async def _report(self, changes: list[Pending], refusals: int) -> None:
        """Of several that are refused together each that can be stored is; unless there is no end of those that can't.

        Args:
            refusals: how many there were before these.
        """
        report = http.MetadataReport(
            self._lease.lease,
            self._reports + 1,
            [each.op for each in changes if each.op is not None and each.change.target == "self"],
            [each.op for each in changes if each.op is not None and each.change.target == "parent"],
            [each.op for each in changes if each.op is not None and each.change.target == "root"],
            [tag for each in changes for tag in each.change.tags],
        )
        try:
            self._reply = await self._send("metadata", report, http.MetadataReply)
        except ApiError as refusal:
            if refusal.status == LEASE_IS_OVER:
                self._lose_lease()
            elif len(changes) > 1 and self._refusals - refusals < MOST_SINGLED_OUT:
                half = len(changes) // 2
                await self._report(changes[:half], refusals)
                await self._report(changes[half:], refusals)
            elif changes:
                await self._refuse(_named(changes), refusal)
        else:
            self._reports += 1

    # -- parts --------------------------------------------------------------------------------------------------------

    async def _append_parts(self) -> None:
        parts, self._parts = self._parts, {}
        self._part_count = self._part_bytes = 0
        for (target, key), appended in parts.items():
            for lot in _lots(appended):
                if self._is_over:
                    return
                report = http.StreamReport(self._lease.lease, key, [each.part for each in lot], target)
                try:
                    await self._send("streams", report, http.StreamReply)
                except ApiError as refusal:
                    if refusal.status == LEASE_IS_OVER:
                        self._lose_lease()
                    else:
                        count = "a part" if len(lot) == 1 else f"{len(lot)} parts"
                        await self._refuse(f"{count} of the stream {key[:80]!r}", refusal)
                assert self._process is not None
                for each in lot:
                    self._process.inbox.dealt_with(each)

    # -- what the server does not take --------------------------------------------------------------------------------

    async def _refuse(self, what: str, refusal: ApiError) -> None:
        reason = f"{what} can't be stored: {refusal.message}"
        if self._refusal is None:
            self._refusal = ApiError(refusal.status, reason, refusal.body)
        self._refusals += 1
        if self._refusals <= MOST_TOLD:
            self._refused.append(reason)
            try:
                await self._tell("run.not_stored", {"reason": reason})
            except ApiError as unheard:  # it is no reason to end the run
                log.warning("run %s: %s; nor can that be told: %s", self._lease.run_id, reason, unheard)

    def _lose_lease(self) -> None:
        self._is_over = True
        if self._process is not None:
            self._process.inbox.put_nowait(http.News("stale", self._lease.run_id, self._lease.lease))


def _lots(appended: list[runner.Append]) -> Iterator[list[runner.Append]]:
    """Pieces that fit into one report each."""
    lot: list[runner.Append] = []
    size = 0
    for each in appended:
        if lot and (len(lot) == MOST_PARTS or size + len(each.part.data) > MOST_BYTES):
            yield lot
            lot, size = [], 0
        lot.append(each)
        size += len(each.part.data)
    if lot:
        yield lot


def _named(changes: list[Pending]) -> str:
    """In words; a single one as its author has written it."""
    pending, *others = changes
    if others:
        return f"{len(changes)} changes of metadata"
    op, target = pending.op, pending.change.target
    if op is None:
        return f"tags.add({', '.join(map(repr, pending.change.tags)):.200})"
    whose = "metadata" if target == "self" else f"metadata.{target}"
    return f"{whose}.replace(…)" if op.type == "update" else f"{whose}.{op.type}({op.key[:80]!r}, …)"
