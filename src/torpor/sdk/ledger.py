"""The waits a run has open and the calls it has under way: what was told to the supervisor, and what is to be told."""

from collections.abc import Iterable
from typing import Any, Protocol

from torpor.wire.runner import Answer, Block, NewWait, Result, RunnerMessage


class Slot(Protocol):
    """Where an answer is put: an asyncio future in async tasks, a plain box in blocking ones."""

    def done(self) -> bool: ...
    def set_result(self, result: Any, /) -> None: ...


class Ledger:
    """Who waits for what. Touched by one thread at a time; the doors see to that."""

    def __init__(self) -> None:
        self._waits: dict[str, Slot] = {}
        self._calls: dict[int, Slot] = {}
        self._last_call = 0
        self._new: dict[str, NewWait] = {}
        self._dropped: list[str] = []
        self._alarm: str | None = None
        self._told: tuple[bool, tuple[str, ...]] = (False, ())

    def open_waits(self, unsent: Iterable[RunnerMessage] = ()) -> list[str]:
        """Ids of the waits that have no answer yet, the alarm among them, as far as the supervisor has heard of them: without
        those in messages that have not left.
        """
        untold = {new.wait_id for block in unsent if isinstance(block, Block) for new in block.waits}
        return [wait_id for wait_id in self._waits if wait_id not in untold and wait_id not in self._new]

    @property
    def has_waits(self) -> bool:
        """Whether user code waits for anything; the alarm doesn't count."""
        return len(self._waits) > self.has_alarm

    @property
    def has_alarm(self) -> bool:
        """Whether the alarm was set and has not gone off."""
        return self._alarm in self._waits

    @property
    def is_calling(self) -> bool:
        """Whether a reply of the server is awaited."""
        return bool(self._calls)

    @property
    def has_moved(self) -> bool:
        """Whether waits came or went that the supervisor hasn't been told of."""
        return bool(self._new or self._dropped)

    def enter(self, new: NewWait, slot: Slot) -> None:
        self._waits[new.wait_id] = slot
        self._new[new.wait_id] = new

    def leave(self, wait_id: str) -> None:
        """Nobody waits for it any more. Nothing happens to a wait that has its answer."""
        if self._waits.pop(wait_id, None) is not None and self._new.pop(wait_id, None) is None:
            self._dropped.append(wait_id)

    def set_alarm(self, new: NewWait | None) -> None:
        """A wait of our own beside those of user code: it is only to wake the run. Takes the place of the one before."""
        if self._alarm is not None:
            self.leave(self._alarm)
        self._alarm = None
        if new is not None:
            self._alarm = new.wait_id
            self.enter(new, _Nobody())

    def answer(self, answers: list[Answer]) -> None:
        """Hand out answers. One for a wait that was left meanwhile is of no use to anyone.

        An answer sets the run going, so it is told anew when the run is idle again with the waits that are left.
        """
        for answer in answers:
            if (slot := self._waits.pop(answer.wait_id, None)) is not None:
                self._new.pop(answer.wait_id, None)
                self.tell_again()
                _put(slot, answer)

    def calling(self, slot: Slot) -> int:
        self._last_call += 1
        self._calls[self._last_call] = slot
        return self._last_call

    def hang_up(self, call_id: int) -> None:
        """Nobody is interested in the reply any more."""
        self._calls.pop(call_id, None)

    def reply(self, result: Result) -> None:
        if (slot := self._calls.pop(result.call_id, None)) is not None:
            _put(slot, result)

    def tell(self, is_idle: bool, blockers: list[str]) -> Block | None:
        """The message that brings the supervisor up to date, or None if it knows everything.

        Without an open wait it makes no difference what keeps the run awake, so nothing is told then.
        """
        state = (is_idle, tuple(blockers)) if self._waits else (False, ())
        if not self.has_moved and (state == self._told or not self._waits):
            return None
        block = Block(list(self._new.values()), self._dropped, *state[:1], list(state[1]))
        self._new, self._dropped, self._told = {}, [], state
        return block

    def tell_again(self) -> None:
        """The supervisor takes the run for awake: tell it when it is idle, even if that was told before."""
        self._told = (False, ())


class _Nobody:
    """Takes no answer."""

    def done(self) -> bool:
        return True

    def set_result(self, result: Any, /) -> None: ...


def _put(slot: Slot, result: Any) -> None:
    if not slot.done():
        slot.set_result(result)
