"""`checkpoint`: keep the run as it is now, and go on. After a crash it continues from here instead of from the top."""

import logging
from dataclasses import dataclass

from torpor.sdk import running
from torpor.wire.runner import Awoken

log = logging.getLogger("torpor.checkpoint")


@dataclass(frozen=True)
class Checkpoint:
    """What became of a save point. It counts as true when there is one.

    Attributes:
        id: the checkpoint; None when it could not be saved.
        name: as it was given.
        restored: this process was restored from it, now: after a crash, or as a fork of the run.
        reason: why it could not be saved.

    Example:
        >>> bool(Checkpoint(None, "loaded", reason="this machine can't freeze"))
        False
    """

    id: str | None
    name: str
    restored: bool = False
    reason: str | None = None

    def __bool__(self) -> bool:
        return self.id is not None


async def checkpoint(name: str) -> Checkpoint:
    """Save the run as it is now: memory, threads, its own files. It goes on at once, with its connections open.

    Should its process die later, it is restored from here: this call returns once more, with `restored` set. So what follows
    may happen twice, what came before doesn't. A save point that can't be made is no error: the reason is returned and logged.

    Args:
        name: to find it by. The same name may be used again: each is a checkpoint of its own.

    Raises:
        NotInRun: called outside a run.

    Example:
        >>> from torpor import checkpoint, task
        >>> @task
        ... async def train(epochs: int) -> None:
        ...     for epoch in range(epochs):
        ...         saved = await checkpoint(f"epoch {epoch}")
        ...         if saved.restored:
        ...             print("the worker died; going on with epoch", epoch)
    """
    session = running.required("checkpoint()")
    return _read(_checked(name), await session.save(name))


def checkpoint_blocking(name: str) -> Checkpoint:
    """Save the run as it is now, and go on. As `torpor.checkpoint`, blocking.

    Raises:
        NotInRun: called outside a run.
        BlockingInLoop: called in a running event loop.

    Example:
        >>> from torpor.sync import checkpoint
        >>> def load() -> None:
        ...     checkpoint("loaded")
    """
    session = running.required("checkpoint()")
    running.refuse_in_loop("torpor.sync.checkpoint()")
    return _read(_checked(name), session.save_blocking(name))


def _checked(name: str) -> str:
    if not isinstance(name, str) or not name:
        raise TypeError(f"checkpoint({name!r}): a name is needed, such as checkpoint('loaded')")
    return name


def _read(name: str, awoken: Awoken) -> Checkpoint:
    if awoken.saved is None:
        log.warning("checkpoint %r could not be saved: %s", name, awoken.error)
    return Checkpoint(awoken.saved, name, awoken.restored, awoken.error if awoken.saved is None else None)
