"""Something that a thread does for us, and that is waited for also by who is canceled meanwhile.

A thread can't be stopped. Whoever left it behind and cleaned up would do so too early: what it makes after that stays.
"""

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def uninterrupted(do: Callable[[], T], undo: Callable[[T], object] | None = None) -> T:
    """Do it in a thread. Who is canceled waits for its end, and then has it undone, if it was done and `undo` says how.

    Raises:
        whatever it raises.
    """
    doing = asyncio.ensure_future(asyncio.to_thread(do))
    try:
        return await asyncio.shield(doing)
    except asyncio.CancelledError:
        await asyncio.wait({doing})
        if undo is not None and doing.exception() is None:
            made = doing.result()
            await asyncio.to_thread(lambda: undo(made))
        raise
