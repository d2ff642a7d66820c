"""For code that does not await: the blocking twins of `torpor.wait` and `torpor.create_token`.

    from torpor.sync import wait, create_token

Tasks and runs have theirs at hand: `task.sync.trigger(...)`, `run.sync.retrieve()`.

Example:
    >>> from torpor import task
    >>> from torpor.sync import wait
    >>> @task
    ... def remind(name: str) -> str:
    ...     wait.for_(hours=6)
    ...     return f"Hello again, {name}"
"""

from torpor.sdk import sync_wait as wait
from torpor.sdk.sync_wait import create_token
from torpor.sdk.waits import Approval, Token

__all__ = ["Approval", "Token", "create_token", "wait"]
