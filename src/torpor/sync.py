"""For code that does not await: the blocking twins of `torpor.wait`, `torpor.checkpoint`, `torpor.create_token`,
`torpor.batch_trigger`, `torpor.metadata` (its `flush`) and `torpor.inputs`.

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
from torpor.sdk.any_batch import batch_trigger_and_wait_blocking as batch_trigger_and_wait
from torpor.sdk.any_batch import batch_trigger_blocking as batch_trigger
from torpor.sdk.inputs import inputs_blocking as inputs
from torpor.sdk.metadata import blocking_metadata as metadata
from torpor.sdk.save_point import Checkpoint
from torpor.sdk.save_point import checkpoint_blocking as checkpoint
from torpor.sdk.sync_wait import create_token
from torpor.sdk.waits import Approval, Token

__all__ = [
    "Approval",
    "Checkpoint",
    "Token",
    "batch_trigger",
    "batch_trigger_and_wait",
    "checkpoint",
    "create_token",
    "inputs",
    "metadata",
    "wait",
]
