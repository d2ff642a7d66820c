"""`Queue`: where runs line up, and how many of them work at once."""

from dataclasses import dataclass

from torpor.errors import ConfigError
from torpor.wire.runner import QueueManifest

MOST = 100_000
OF_TASKS = "task/"


@dataclass(frozen=True)
class Queue:
    """A queue that several tasks may share. Make it at the top of a module, beside the tasks that use it.

    Every task has a queue of its own without a limit, `task/<task id>`; this is for a limit, or for sharing one.

    Args:
        name: what it is called on the server; at most 128 characters.
        concurrency_limit: how many of its runs work at once, from 0 to 100,000; None: as many as workers take. Each
            concurrency key of a trigger has this limit for itself. A run that waits doesn't count.

    Raises:
        ValueError: an argument makes no sense.
        ConfigError: another queue of that name has another limit.

    Example:
        >>> from torpor import Queue, task
        >>> emails = Queue("emails", concurrency_limit=5)
        >>> @task(queue=emails)
        ... async def send(address: str) -> None:
        ...     print("to", address)
    """

    name: str
    concurrency_limit: int | None = None

    def __post_init__(self) -> None:
        name, most = self.name, self.concurrency_limit
        if not isinstance(name, str) or not name.strip() or name != name.strip() or len(name) > 128:
            raise ValueError(f"Queue({name!r}): a name of up to 128 characters is needed")
        if name.startswith(OF_TASKS):
            raise ValueError(f"Queue({name!r}): names that begin with {OF_TASKS!r} are those of the tasks' own queues")
        if most is not None and (isinstance(most, bool) or not isinstance(most, int) or not 0 <= most <= MOST):
            raise ValueError(f"Queue({name!r}, concurrency_limit={most!r}): a whole number from 0 to {MOST}, or None")
        known = _REGISTRY.setdefault(name, self)
        if known.concurrency_limit != most:
            raise ConfigError(
                f"two queues are called {name!r}, with the limits {known.concurrency_limit} and {most}: "
                "make it once and import it where it is used"
            )

    @property
    def manifest(self) -> QueueManifest:
        """What the platform should know of it."""
        return QueueManifest(self.name, self.concurrency_limit)


_REGISTRY: dict[str, Queue] = {}


def registry() -> list[Queue]:
    """All queues that this process has declared, by name."""
    return [_REGISTRY[name] for name in sorted(_REGISTRY)]
