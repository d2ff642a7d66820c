"""Simulated time. Actors are coroutines that pause for the stage; one moves at a time, and who is next is decided by the
simulated hour alone, so one seed is one story.

While an actor talks to the database, its futures pass through to the event loop: time stands still.
"""

import heapq
import types
from collections import deque
from collections.abc import Coroutine, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Pause:
    """What a pausing actor yields. Until that hour, or (None) until somebody wakes it."""

    __slots__ = ("until",)

    def __init__(self, until: float | None) -> None:
        self.until = until


class Killed(BaseException):
    """An actor ends itself, as a process does."""


@types.coroutine
def _pause(until: float | None) -> Generator[Pause, None, None]:
    yield Pause(until)


class _Turn:
    """One move of an actor: awaited by the stage, it goes on until the actor pauses or ends."""

    __slots__ = ("_coroutine",)

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine

    def __await__(self) -> Generator[Any, Any, Pause | None]:
        value: Any = None
        error: BaseException | None = None
        while True:
            try:
                yielded = self._coroutine.throw(error) if error is not None else self._coroutine.send(value)
            except (StopIteration, Killed):
                return None
            if isinstance(yielded, Pause):
                return yielded
            value, error = None, None
            try:
                value = yield yielded
            except BaseException as raised:  # noqa: BLE001  # it is the actor's, who awaits
                error = raised


class Actor:
    """Somebody on the stage."""

    __slots__ = ("_coroutine", "is_over", "name", "turn")

    def __init__(self, name: str, coroutine: Coroutine[Any, Any, Any]) -> None:
        self.name = name
        self._coroutine = coroutine
        self.is_over = False
        self.turn = 0  # the pause it is in; a summons for an earlier one is void

    def move(self) -> _Turn:
        return _Turn(self._coroutine)

    def kill(self) -> None:
        """It does not move any more. Nobody kills the one that moves: that one raises `Killed`."""
        if not self.is_over:
            self.is_over = True
            self._coroutine.close()


class Stage:
    """Who is on, and what time it is (seconds from the start)."""

    def __init__(self) -> None:
        self.time = 0.0
        self._summons: list[tuple[float, int, Actor, int]] = []
        self._nth = 0
        self._moving: Actor | None = None
        self._actors: list[Actor] = []

    def start(self, name: str, coroutine: Coroutine[Any, Any, Any]) -> Actor:
        """A new actor; its first move comes once the present one pauses."""
        actor = Actor(name, coroutine)
        self._actors.append(actor)
        self.summon(actor, self.time)
        return actor

    def summon(self, actor: Actor, at: float) -> None:
        self._nth += 1
        heapq.heappush(self._summons, (at, self._nth, actor, actor.turn))

    @property
    def moving(self) -> Actor:
        assert self._moving is not None, "only an actor can pause"
        return self._moving

    async def sleep(self, seconds: float) -> None:
        await _pause(self.time + max(seconds, 0.0))

    async def pause(self, until: float | None) -> None:
        await _pause(until)

    async def play(self, until: float) -> None:
        """Let them move until that hour, or until nobody has anything to do."""
        while self._summons and self._summons[0][0] <= until:
            at, _, actor, turn = heapq.heappop(self._summons)
            if actor.is_over or actor.turn != turn:
                continue
            self.time = max(self.time, at)
            actor.turn += 1
            self._moving = actor
            pause = await actor.move()
            self._moving = None
            if pause is None:
                actor.is_over = True
            elif pause.until is not None and not actor.is_over:
                self.summon(actor, pause.until)
        self.time = max(self.time, until)

    def close(self) -> None:
        for actor in self._actors:
            actor.kill()


class Inbox(Generic[T]):
    """What others leave for one actor."""

    __slots__ = ("_stage", "_waiting", "items")

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.items: deque[T] = deque()
        self._waiting: Actor | None = None

    def put(self, item: T) -> None:
        self.items.append(item)
        if self._waiting is not None:
            self._stage.summon(self._waiting, self._stage.time)
            self._waiting = None

    async def get(self, timeout_s: float | None = None) -> T | None:
        """The next item; None when nothing has come in that time."""
        if not self.items:
            self._waiting = self._stage.moving
            await self._stage.pause(None if timeout_s is None else self._stage.time + timeout_s)
            self._waiting = None
        return self.items.popleft() if self.items else None
