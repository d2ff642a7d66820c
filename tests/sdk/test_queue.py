"""Queue, and what `@task` says of its runs."""

import pytest

from torpor import Queue, task
from torpor.errors import ConfigError
from torpor.sdk import queue
from torpor.wire.runner import QueueManifest


def test_a_declared_queue_is_told_with_its_task_and_by_itself():
    """Q1, T5: shared queues are declared in code."""
    shared = Queue("test-shared", concurrency_limit=3)

    @task(queue=shared, ttl="10m", max_duration=90)
    async def queued_task(number: int) -> int:
        return number

    told = queued_task.manifest()
    assert told.queue == QueueManifest("test-shared", 3)
    assert (told.ttl_s, told.max_duration_s) == (600.0, 90.0)
    assert shared in queue.registry()


@pytest.mark.parametrize("name", ["", " x", "task/x", "y" * 129, 3])
def test_a_name_that_can_not_be_is_refused(name: str):
    with pytest.raises(ValueError, match="name"):
        Queue(name)


@pytest.mark.parametrize("limit", [-1, 100_001, 1.5, True, "3"])
def test_a_limit_that_is_none_is_refused(limit: int):
    with pytest.raises(ValueError, match="from 0 to 100000"):
        Queue("test-limits", concurrency_limit=limit)


def test_two_queues_of_one_name_must_agree():
    Queue("test-twice", 1)
    Queue("test-twice", 1)
    with pytest.raises(ConfigError, match="two queues are called 'test-twice', with the limits 1 and 2"):
        Queue("test-twice", 2)


def test_a_tasks_queue_is_a_queue():
    with pytest.raises(TypeError, match="a Queue"):
        task(queue="emails")  # pyright: ignore[reportArgumentType, reportCallIssue]
    with pytest.raises(ValueError, match="ttl"):
        task(id="test-ttl", ttl=0)(lambda: None)
