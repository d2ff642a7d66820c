"""`Run`: the handle that a trigger returns."""

from dataclasses import dataclass
from typing import Any

from torpor.errors import NotYet
from torpor.sdk import running


@dataclass(frozen=True)
class Run:
    """A run that was triggered. It is only its name: asking about it asks the server.

    Attributes:
        id: the run's id.
        task_id: its task.
        is_cached: the idempotency key was known, so this is the run of an earlier trigger.

    Example:
        >>> Run("run_1", "send_campaign").id
        'run_1'
    """

    id: str
    task_id: str
    is_cached: bool = False

    async def retrieve(self) -> dict[str, Any]:
        """The run as the API tells it: `status`, `output`, `error`, `attemptCount` and more.

        Raises:
            NotYet: called inside a run, which holds no key.
            ApiError, ConnectionFailed: the server refused or could not be reached.

        Example:
            >>> async def status(run: Run) -> str:
            ...     return (await run.retrieve())["status"]
        """
        _outside("retrieve")
        from torpor.sdk.kept_client import kept_async

        return await (await kept_async()).run(self.id)

    async def cancel(self) -> None:
        """End the run now. One that has ended already stays as it is.

        Raises:
            NotYet: called inside a run, which holds no key.
            ApiError, ConnectionFailed: the server refused or could not be reached.
        """
        _outside("cancel")
        from torpor.sdk.kept_client import kept_async

        await (await kept_async()).cancel(self.id)

    @property
    def sync(self) -> "BlockingRun":
        """The same for code that does not await."""
        return BlockingRun(self)


@dataclass(frozen=True)
class BlockingRun:
    """`Run.sync`: the blocking twins.

    Example:
        >>> def status(run: Run) -> str:
        ...     return run.sync.retrieve()["status"]
    """

    run: Run

    def retrieve(self) -> dict[str, Any]:
        """As `Run.retrieve`."""
        _outside("retrieve")
        running.refuse_in_loop("run.sync.retrieve()")
        from torpor.sdk.kept_client import kept

        return kept().run(self.run.id)

    def cancel(self) -> None:
        """As `Run.cancel`."""
        _outside("cancel")
        running.refuse_in_loop("run.sync.cancel()")
        from torpor.sdk.kept_client import kept

        kept().cancel(self.run.id)


def _outside(what: str) -> None:
    if running.session is not None or running.is_fork:
        raise NotYet(f"run.{what}() inside a run is not carried out yet: use trigger_and_wait(), or ask from outside")
