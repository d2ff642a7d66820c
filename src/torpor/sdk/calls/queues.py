"""Queues and their limits."""

from typing import Any

from torpor.sdk.calls.call import Call, Json, get, post, segment
from torpor.sdk.calls.doors import asked, listed
from torpor.sdk.calls.listings import Listing, Numbered


class Queues:
    @listed
    def queues(self) -> Listing:
        """All queues: their limits, how many runs stand in them and work."""
        return Numbered("/api/v1/queues")

    @asked
    def queue(self, queue: str) -> Call[Json]:
        """One queue, by its name or id; a task's own by the task's id."""
        return _queue(queue)

    @asked
    def pause_queue(self, queue: str) -> Call[Json]:
        """Hand out no more runs of it. Those that work go on."""
        return _queue(queue, "pause", action="pause")

    @asked
    def resume_queue(self, queue: str) -> Call[Json]:
        """Hand out its runs again."""
        return _queue(queue, "pause", action="resume")

    @asked
    def limit_queue(self, queue: str, concurrency_limit: int) -> Call[Json]:
        """Another limit than the declared one, until `reset_queue`."""
        return _queue(queue, "concurrency/override", concurrencyLimit=concurrency_limit)

    @asked
    def reset_queue(self, queue: str) -> Call[Json]:
        """Back to the limit that its code declares."""
        return _queue(queue, "concurrency/reset")


def _queue(queue: str, what: str | None = None, **body: Any) -> Call[Json]:
    # A name may hold a slash, and paths are decoded before they are routed: so it is encoded twice.
    path = f"/api/v1/queues/{segment(segment(queue))}"
    return get(path) if what is None else post(f"{path}/{what}", body)
