"""`torpor.inputs`: what others send to a run while it works, such as a user's next question.

    async for question in inputs("chat"):
        ...
    answer = await inputs("chat").next(timeout="10m")

Each reads on where this run has read to, also after a wait, a freeze and a restore. A new attempt reads from the beginning. A run
is held in memory while it reads: to leave memory until one answer comes there is `wait.for_token`.
"""

import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec

from torpor.durations import parse_duration
from torpor.errors import WaitTimeout
from torpor.sdk import running
from torpor.sdk.streams import checked_name
from torpor.sdk.waits import Duration
from torpor.wire.http import InputRead, InputReply

READ_S = 2.0
"""So long the server may take to answer. No checkpoint can be taken meanwhile, so it is not long."""

_NOTHING: Any = object()


class Line:
    """What a run has read of one of its inputs."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.after = -1
        self._waiting: deque[Any] = deque()

    def take(self) -> Any:
        """What was read and not taken yet, if there is something."""
        try:
            return self._waiting.popleft()
        except IndexError:  # another thread may have been quicker
            return _NOTHING

    def question(self, until: float | None) -> InputRead:
        """What to ask the server for.

        Raises:
            WaitTimeout: the time is over.
        """
        left_s = READ_S if until is None else until - time.monotonic()
        if left_s <= 0:
            raise WaitTimeout(f"input {self.name!r}")
        return InputRead(0, self.name, self.after, min(left_s, READ_S))  # the lease is the supervisor's to say

    def take_in(self, body: msgspec.Raw) -> None:
        """Several readers may have asked for the same: each part counts once."""
        for part in msgspec.json.decode(body, type=InputReply).parts:
            if part.seq > self.after:
                self.after = part.seq
                self._waiting.append(msgspec.json.decode(part.data))


class _Reader:
    def __init__(self, name: str) -> None:
        self.name = checked_name("inputs", name)
        self._what = f"inputs({name!r}).next()"

    def _line(self) -> Line:
        return running.required(self._what).input_line(self.name)


class Inputs(_Reader):
    """One of the run's inputs, for code that awaits.

    Attributes:
        name: the name that others send to.
    """

    async def next(self, timeout: Duration | None = None) -> Any:
        """What comes next, as JSON; at once if it is there already.

        Args:
            timeout: text such as "10m", seconds, or a timedelta. None: as long as it takes.

        Raises:
            NotInRun: called outside of a run.
            WaitTimeout: nothing came. It may be asked for again.

        Example:
            >>> async def question() -> str:
            ...     return await inputs("chat").next(timeout="10m")
        """
        line, until = self._line(), _until(timeout)
        while (part := line.take()) is _NOTHING:
            line.take_in(await running.required(self._what).call("inputs", line.question(until)))
        return part

    async def __aiter__(self) -> AsyncIterator[Any]:
        """All that comes. It has no end of its own."""
        while True:
            yield await self.next()


class BlockingInputs(_Reader):
    """The same for code that does not await: `from torpor.sync import inputs`."""

    def next(self, timeout: Duration | None = None) -> Any:
        """As `Inputs.next`, blocking.

        Raises:
            NotInRun: called outside of a run.
            BlockingInLoop: called in a running event loop.
            WaitTimeout: nothing came.
        """
        line, until = self._line(), _until(timeout)
        running.refuse_in_loop(f"torpor.sync.{self._what}")
        while (part := line.take()) is _NOTHING:
            line.take_in(running.required(self._what).call_blocking("inputs", line.question(until)))
        return part

    def __iter__(self) -> Iterator[Any]:
        """All that comes. It has no end of its own."""
        while True:
            yield self.next()


def inputs(name: str) -> Inputs:
    """One of the run's inputs. What is sent to it: `POST /realtime/v1/streams/{run_id}/input/{name}`.

    Raises:
        TypeError, ValueError: the name can't be one.

    Example:
        >>> from torpor import inputs, stream, task
        >>> @task
        ... async def chat() -> None:
        ...     async for question in inputs("chat"):
        ...         stream("answers").append(f"You asked: {question}")
    """
    return Inputs(name)


def inputs_blocking(name: str) -> BlockingInputs:
    """As `torpor.inputs`, for code that does not await.

    Example:
        >>> from torpor.sync import inputs
        >>> def question() -> str:
        ...     return inputs("chat").next(timeout="10m")
    """
    return BlockingInputs(name)


def _until(timeout: Duration | None) -> float | None:
    return None if timeout is None else time.monotonic() + parse_duration(timeout).total_seconds()
