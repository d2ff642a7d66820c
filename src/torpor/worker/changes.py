"""Changes of metadata that a run has made and the server does not know of: as few as come to the same in the end."""

from dataclasses import dataclass

import msgspec

from torpor.wire.runner import Change, Op, Target

WHOLE = 2**53
"""Whole numbers below are exact in every reader of JSON."""


@dataclass
class Pending:
    """An operation (none: tags), and the latest of the messages that it is made of."""

    change: Change
    op: Op | None


class Changes:
    """In the order in which they were made, but that a later one may take the place of an earlier one of the same key:

    set, delete    after anything: it alone counts
    increment      after an increment or after a number that was set, whole ones: the sum
    update         after anything: nothing before it counts

    Nothing is merged across an operation on a path, which may lie within other keys.
    """

    def __init__(self) -> None:
        self._pending: list[Pending] = []
        self._last: dict[tuple[Target, str], Pending] = {}

    def __len__(self) -> int:
        return len(self._pending)

    def add(self, change: Change) -> list[Change]:
        """Take one in. Returns those that need not be reported any more, for this one stands for them."""
        op = change.op
        if op is None:
            self._pending.append(Pending(change, op))
            return []
        place = (change.target, op.key)
        if op.type == "update":
            return self._begin_anew(change)
        if op.key.startswith("$."):
            self._last.clear()
            self._pending.append(Pending(change, op))
        elif (before := self._last.get(place)) is not None and (merged := _merged(before.op, op)) is not None:
            replaced, before.change, before.op = before.change, change, merged
            return [replaced]
        else:
            self._last[place] = pending = Pending(change, op)
            self._pending.append(pending)
        return []

    def _begin_anew(self, change: Change) -> list[Change]:
        gone: list[Change] = []
        kept: list[Pending] = []
        for each in self._pending:
            if each.op is not None and each.change.target == change.target:
                gone.append(each.change)
            else:
                kept.append(each)
        self._pending = [*kept, Pending(change, change.op)]
        self._last.clear()
        return gone

    def take(self) -> list[Pending]:
        """All of them: they are reported now."""
        taken, self._pending = self._pending, []
        self._last.clear()
        return taken


def _merged(before: Op | None, op: Op) -> Op | None:
    """The one operation that does what these two do; None: there is none."""
    if before is None:
        return None
    if op.type in ("set", "delete"):
        return op
    if op.type == "increment" and before.type in ("set", "increment") and _is_whole(before.value, op.value):
        return msgspec.structs.replace(before, value=before.value + op.value)
    return None


def _is_whole(*values: object) -> bool:
    return all(isinstance(value, int) and not isinstance(value, bool) and abs(value) < WHOLE // 2 for value in values)
