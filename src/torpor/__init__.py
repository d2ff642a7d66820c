"""Torpor: background jobs in Python whose waits leave the machine and come back on the next line.

    from torpor import task, wait

    @task
    async def follow_up(name: str) -> str:
        await wait.for_(hours=6)          # the process leaves memory here …
        return f"Hello again, {name}"     # … and goes on here, with all it held

Names are loaded when they are first used, so that `import torpor` costs next to nothing wherever tasks are triggered.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torpor.errors import (
        AbortRun,
        ApiError,
        BlockingInLoop,
        ConfigError,
        ConnectionFailed,
        NotInRun,
        NotYet,
        OutputError,
        PayloadError,
        RunCanceled,
        RunFailed,
        TokenTimeout,
        TorporError,
        WaitCycle,
        WaitTimeout,
    )
    from torpor.sdk import wait
    from torpor.sdk.any_batch import batch_trigger, batch_trigger_and_wait
    from torpor.sdk.app import app
    from torpor.sdk.async_client import AsyncClient
    from torpor.sdk.batch import Batch, BatchItem, BatchResult
    from torpor.sdk.checkpoints import Checkpoints
    from torpor.sdk.client import Client
    from torpor.sdk.context import current
    from torpor.sdk.debounce import Debounce
    from torpor.sdk.idempotency import Idempotency
    from torpor.sdk.inputs import inputs
    from torpor.sdk.logger import logger
    from torpor.sdk.metadata import metadata
    from torpor.sdk.queue import Queue
    from torpor.sdk.retry import Retry
    from torpor.sdk.retrying import retry
    from torpor.sdk.runs import Run
    from torpor.sdk.save_point import Checkpoint, checkpoint
    from torpor.sdk.schedule import ScheduleTick, schedule
    from torpor.sdk.streams import stream
    from torpor.sdk.tags import tags
    from torpor.sdk.task import Task, task
    from torpor.sdk.wait import create_token
    from torpor.sdk.waits import Approval, Token

__all__ = [
    "AbortRun",
    "ApiError",
    "Approval",
    "AsyncClient",
    "Batch",
    "BatchItem",
    "BatchResult",
    "BlockingInLoop",
    "Checkpoint",
    "Checkpoints",
    "Client",
    "ConfigError",
    "ConnectionFailed",
    "Debounce",
    "Idempotency",
    "NotInRun",
    "NotYet",
    "OutputError",
    "PayloadError",
    "Queue",
    "Retry",
    "Run",
    "RunCanceled",
    "RunFailed",
    "ScheduleTick",
    "Task",
    "Token",
    "TokenTimeout",
    "TorporError",
    "WaitCycle",
    "WaitTimeout",
    "app",
    "batch_trigger",
    "batch_trigger_and_wait",
    "checkpoint",
    "create_token",
    "current",
    "inputs",
    "logger",
    "metadata",
    "retry",
    "schedule",
    "stream",
    "tags",
    "task",
    "wait",
]

_HOMES = {
    "torpor.sdk.any_batch": ("batch_trigger", "batch_trigger_and_wait"),
    "torpor.sdk.batch": ("Batch", "BatchItem", "BatchResult"),
    "torpor.sdk.app": ("app",),
    "torpor.sdk.checkpoints": ("Checkpoints",),
    "torpor.sdk.async_client": ("AsyncClient",),
    "torpor.sdk.client": ("Client",),
    "torpor.sdk.context": ("current",),
    "torpor.sdk.debounce": ("Debounce",),
    "torpor.sdk.idempotency": ("Idempotency",),
    "torpor.sdk.inputs": ("inputs",),
    "torpor.sdk.logger": ("logger",),
    "torpor.sdk.metadata": ("metadata",),
    "torpor.sdk.queue": ("Queue",),
    "torpor.sdk.retry": ("Retry",),
    "torpor.sdk.retrying": ("retry",),
    "torpor.sdk.runs": ("Run",),
    "torpor.sdk.save_point": ("Checkpoint", "checkpoint"),
    "torpor.sdk.schedule": ("ScheduleTick", "schedule"),
    "torpor.sdk.streams": ("stream",),
    "torpor.sdk.tags": ("tags",),
    "torpor.sdk.task": ("Task", "task"),
    "torpor.sdk.wait": ("create_token",),
    "torpor.sdk.waits": ("Approval", "Token"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "wait":
        value = import_module("torpor.sdk.wait")
    elif name in __all__:
        value = getattr(import_module(_HOME.get(name, "torpor.errors")), name)
    else:
        raise AttributeError(f"module 'torpor' has no attribute {name!r}")
    globals()[name] = value  # so that the next look-up doesn't come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
