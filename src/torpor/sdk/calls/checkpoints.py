"""Checkpoints of runs, new runs that go on from one, and the keys they are sealed with."""

from typing import Any

from torpor.sdk.calls.call import Call, Json, get, post, segment
from torpor.sdk.calls.doors import asked, listed
from torpor.sdk.calls.listings import Listing, Pages

UNSET: Any = object()
"""What wasn't given, where None would be a value."""


class Checkpoints:
    @asked
    def checkpoints(self, run_id: str) -> Call[list[Json]]:
        """The images of a run, oldest first, also those that were dropped."""
        return get(f"/api/v1/runs/{segment(run_id)}/checkpoints").part("data")

    @asked
    def checkpoint(self, checkpoint_id: str) -> Call[Json]:
        """One checkpoint: where its process stands, what it waits for, its sizes."""
        return get(f"/api/v1/checkpoints/{segment(checkpoint_id)}")

    @listed
    def all_checkpoints(self, page_size: int = 25) -> Listing:
        """The checkpoints of all runs that can be used, newest first."""
        return Pages("/api/v1/checkpoints", {"page_size": page_size})

    @asked
    def fork(
        self, run_id: str, checkpoint: str = "latest", answer: Any = UNSET, wait_id: str | None = None
    ) -> Call[Json]:
        """A new run that goes on from a checkpoint of that one: `{"id", "checkpointId", "status"}`.

        Args:
            run_id: the run, also one that is over.
            checkpoint: its id, or "latest".
            answer: what the wait gets that the process was frozen in; without it, what the original got or will get.
            wait_id: which wait that is, where there are several.

        Raises:
            NotFound: there is no such run.
            Unprocessable: it has no such checkpoint, or the answer could be for several waits; the message says which.
        """
        body: Json = {"checkpoint": checkpoint}
        if answer is not UNSET:
            body["answer"] = answer
        if wait_id is not None:
            body["waitId"] = wait_id
        return post(f"/api/v1/runs/{segment(run_id)}/fork", body)

    @asked
    def rotate_data_key(self) -> Call[Json]:
        """Have workers seal checkpoints with a new data key from now on: `{"id", "data": […]}`."""
        return post("/api/v1/data-keys/rotate")

    @asked
    def data_keys(self) -> Call[list[Json]]:
        """The data keys that checkpoints are sealed with: which, not what they are."""
        return get("/api/v1/data-keys").part("data")
