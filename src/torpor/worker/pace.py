"""Something that is to be done soon, by one at a time, and not too often."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any


class Paced:
    """Does it after a while, so that more can come together; or now, for whoever wants to be certain.

    Args:
        do: does all that there is to do.
        apart_s: so long after the end of one time the next begins at the earliest.
        in_background: has a coroutine performed.
    """

    def __init__(
        self,
        do: Callable[[], Awaitable[None]],
        apart_s: float,
        in_background: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._do = do
        self._apart_s = apart_s
        self._in_background = in_background
        self._one_at_a_time = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._is_in_line = False
        self._done_at = 0.0

    @property
    def is_busy(self) -> bool:
        """Whether it is being done, or somebody waits to do it."""
        return self._one_at_a_time.locked()

    def within(self, delay_s: float, *, hurry: bool = False) -> None:
        """Have it done after so long at most, if pace allows; with `hurry` whether it does or not."""
        loop = asyncio.get_running_loop()
        due = loop.time() + delay_s
        if not hurry:
            due = max(due, self._done_at + self._apart_s)
        if self._is_in_line or (self._timer is not None and self._timer.when() <= due):
            return
        self.stop()
        self._timer = loop.call_at(due, self._begin)

    async def now(self) -> None:
        """Do it. When this returns, all is done that there was to do when it was called."""
        async with self._one_at_a_time:
            self._is_in_line = False
            self.stop()
            try:
                await self._do()
            finally:
                self._done_at = asyncio.get_running_loop().time()

    def stop(self) -> None:
        """It need not be done, but for what is under way."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _begin(self) -> None:
        self._timer = None
        self._is_in_line = True
        self._in_background(self.now())
