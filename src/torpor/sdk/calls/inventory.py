"""What there is: tasks, versions and workers, and what the environment allows."""

from typing import Any

from torpor.sdk.calls.call import Call, Json, get, post, renamed, segment
from torpor.sdk.calls.doors import asked, listed
from torpor.sdk.calls.listings import Listing, Pages

_DEPLOYMENT_FILTERS = {
    "status": "status",
    "since": "from",
    "until": "to",
    "period": "period",
    "page_size": "page[size]",
}
_ENVIRONMENT = {
    "concurrency_limit": "concurrencyLimit",
    "burst_factor": "burstFactor",
    "max_queued": "maxQueued",
    "accepts_unknown_tasks": "acceptsUnknownTasks",
    "paused": "paused",
}


class Inventory:
    @asked
    def tasks(self) -> Call[list[Json]]:
        """The tasks of the current version."""
        return get("/api/v1/tasks").part("data")

    @listed
    def deployments(self, **filters: Any) -> Listing:
        """The versions that workers have reported, newest first: `since`, `until`, `period`, `status`."""
        return Pages("/api/v1/deployments", filters, _DEPLOYMENT_FILTERS)

    @asked
    def deployment(self, deployment_id: str = "current") -> Call[Json]:
        """One of them: by its id, "current" (what new runs get), or "latest" (what was first seen last).

        Raises:
            NotFound: there is none.
        """
        return get(f"/api/v1/deployments/{segment(deployment_id)}")

    @asked
    def workers(self) -> Call[list[Json]]:
        """The workers, and what each can do."""
        return get("/api/v1/workers").part("data")

    @asked
    def worker(self, worker_id: str) -> Call[Json]:
        """One worker: what it can do, what it has, and how far it keeps its runs apart."""
        return get(f"/api/v1/workers/{segment(worker_id)}")

    @asked
    def drain_worker(self, worker_id: str) -> Call[Json]:
        """Have a worker leave: it gets no more runs, moves or freezes those that it has, and ends."""
        return post(f"/api/v1/workers/{segment(worker_id)}/drain", {})

    @asked
    def environment(self, **changes: Any) -> Call[Json]:
        """What the environment allows; with `concurrency_limit`, `burst_factor`, `max_queued`, `accepts_unknown_tasks` or
        `paused`, that is set first. None takes a limit away.
        """
        if not changes:
            return get("/api/v1/environment")
        return post("/api/v1/environment", renamed(changes, _ENVIRONMENT, "setting of an environment"))

    @asked
    def limits(self) -> Call[Json]:
        """What requests are held to, by name: `requestBytes`, `tags`, `queuedPerQueue`, …; None where there is no limit."""
        return get("/api/v1/limits")
