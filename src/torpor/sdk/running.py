"""Which run this process performs, if any. Small and import-free, so that asking costs nothing outside a run."""

import sys
from typing import TYPE_CHECKING

from torpor.errors import BlockingInLoop, NotInRun

if TYPE_CHECKING:
    from torpor.sdk.session import Session
    from torpor.wire.runner import WordLimits

session: "Session | None" = None
is_fork = False  # a child process that user code forked off a run: it must not speak for the run


def required(what: str) -> "Session":
    """The session of this run.

    Raises:
        NotInRun: there is none; `what` is what was called, for the message.
    """
    if session is not None:
        return session
    if is_fork:
        raise NotInRun(f"{what} was called in a child process of a run: call it in the run's own process")
    raise NotInRun(
        f"{what} works only inside a run. Trigger the task (`await my_task.trigger(...)`) and let a worker perform it"
    )


def listening(what: str) -> "Session | None":
    """The session of this run, for what a task only says of itself: outside of a run, where a unit test calls it as a plain
    function, there is nobody to say it to. That is logged once for each thing.

    Raises:
        NotInRun: this is a child process of a run, from which it would silently be lost.
    """
    if session is not None or is_fork:
        return required(what)
    if what not in _unheard:
        import logging  # seldom needed

        _unheard.add(what)
        logging.getLogger("torpor").warning("%s outside of a run: it is checked, and goes nowhere", what)
    return None


_unheard: set[str] = set()


def limits() -> "WordLimits":
    """How much a run may say of itself; outside of a run, as a rule."""
    if session is not None:
        return session.context.limits
    from torpor.wire.runner import WordLimits

    return WordLimits()


def refuse_in_loop(what: str) -> None:
    """Refuse to block a running event loop.

    Raises:
        BlockingInLoop: there is one in this thread.
    """
    asyncio = sys.modules.get("asyncio")  # not loaded: then no loop runs, and we need not load it to know
    if asyncio is not None and asyncio._get_running_loop() is not None:
        raise BlockingInLoop(f"{what} would stop the running event loop: use the one without `sync`, and await it")
