"""Turns the database's notifications into wake-ups of the requests that are held open here.

    held dequeue   -- ("work", environment_id)     one at a time: a run is for one worker
    news stream    -- ("news", worker_id)          all, and each notification is kept until it is read
    story, logs    -- ("run", run_id)              all
    dashboard      -- ("runs",)                    all: any run
                      ("changes",)                 all: what else pages show, and each kind is kept until it is read
                      ("session", cookie_hash)     all: for the end of what they may see
    streams        -- ("stream", run_id, direction, key)   all; and ("run", run_id), for its end
    timer duty     -- ("timer",)                   all
    grant duty     -- ("grant",)                   all
    bulk duty      -- ("bulk",)                    all

Who waits subscribes first, then looks in the database, then waits: so nothing falls between look and wait. A
notification may be lost (the listening connection broke), so every waiter also looks again after a while by itself.
"""

import asyncio
from collections import deque
from types import TracebackType
from typing import Any

Topic = tuple[str, ...]


class Ear:
    """One waiter on one topic. A context manager: it hears from its entry to its exit."""

    def __init__(self, wakeups: "Wakeups", topic: Topic) -> None:
        self._wakeups = wakeups
        self.topic = topic
        self._topics = [topic]
        self.heard: deque[dict[str, Any]] = deque()
        self._woken = asyncio.Event()

    def and_to(self, *topic: str) -> "Ear":
        """It listens to that as well. Before it is entered."""
        self._topics.append(topic)
        return self

    def __enter__(self) -> "Ear":
        for topic in self._topics:
            self._wakeups._ears.setdefault(topic, deque()).append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for topic in self._topics:
            ears = self._wakeups._ears[topic]
            ears.remove(self)
            if not ears:
                del self._wakeups._ears[topic]
        if self.topic[0] == "work" and self._woken.is_set():
            self._wakeups.wake_next(self.topic, None)  # woken, but gone before it looked: the work is another's

    def wake(self, data: dict[str, Any] | None) -> None:
        if data is not None:
            self.heard.append(data)
        self._woken.set()

    @property
    def is_woken(self) -> bool:
        return self._woken.is_set()

    async def wait(self, timeout_s: float) -> bool:
        """Until woken (True) or the time is over. What was heard stays in `heard`."""
        if self._wakeups.is_closed:
            return False
        try:
            async with asyncio.timeout(max(0.0, timeout_s)):
                await self._woken.wait()
        except TimeoutError:
            return False
        self._woken.clear()
        return True

    def pass_on(self) -> None:
        """Wake the next waiter of this topic instead: this one took all it could and there may be more."""
        self._wakeups.wake_next(self.topic, self)


class Wakeups:
    """Who waits for what, in this process."""

    def __init__(self) -> None:
        self._ears: dict[Topic, deque[Ear]] = {}
        self.is_closed = False

    def listen(self, *topic: str) -> Ear:
        return Ear(self, topic)

    def listening(self, *topic: str) -> int:
        """How many."""
        return len(self._ears.get(topic, ()))

    def hear(self, kind: str, data: dict[str, Any]) -> None:
        """The database's callback."""
        match kind:
            case "work":
                self.wake_next(("work", data["environment_id"]), None)
            case "news":
                self._wake_all(("news", data["worker_id"]), data)
            case "grant":
                self._wake_all(("grant",), data)
            case "bulk":
                self._wake_all(("bulk",), None)
            case "run":
                self._wake_all(("run", data["run_id"]), None)
                self._wake_all(("runs",), None)
            case "changed":
                self._wake_all(("changes",), data)
            case "keys":
                self._wake_all(("changes",), {"what": "keys"})
            case "session":
                self._wake_all(("session", data["cookie_hash"]), None)
            case "stream":
                self._wake_all(("stream", data["run_id"], data["direction"], data["key"]), None)
            case "timer":
                self._wake_all(("timer",), data)
            case "reconnected":
                self._wake_everybody()  # what was announced meanwhile went unheard
            case _:
                pass  # a newer server in the same fleet has more to say

    def wake_next(self, topic: Topic, after: Ear | None) -> None:
        """Wake one waiter that is still asleep: the one longest in line, or the next behind `after`.

        Waking all of them for one run would have every idle worker of a fleet query for it at once. The one that is
        woken passes it on unless it is sure to have taken all there was.
        """
        ears = self._ears.get(topic, ())
        behind = after is None
        for ear in ears:
            if behind and not ear.is_woken:
                ear.wake(None)
                return
            behind = behind or ear is after

    def _wake_all(self, topic: Topic, data: dict[str, Any] | None) -> None:
        for ear in tuple(self._ears.get(topic, ())):
            ear.wake(data)

    def close(self) -> None:
        """The server stops: every held request ends now, and none is held any more."""
        self.is_closed = True
        self._wake_everybody()

    def _wake_everybody(self) -> None:
        for topic in tuple(self._ears):
            self._wake_all(topic, None)
