"""Runs: looked at, canceled, and told things."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from torpor.errors import RunFailed
from torpor.sdk.calls.call import Call, Json, duration, get, post, segment
from torpor.sdk.calls.doors import asked, listed
from torpor.sdk.calls.listings import Listing, Pages

INLINE = (("inline", "true"),)
"""Large payloads and outputs come with their run: one answer, where others are given URLs."""


class Runs:
    @asked
    def run(self, run_id: str) -> Call[Json]:
        """One run, with payload, output and error."""
        return one_run(run_id)

    @listed
    def runs(self, **filters: Any) -> Listing:
        """Runs that fit, newest first: `status`, `task`, `tag`, `version`, `queue`, `machine`, `region`, `is_test`,
        `schedule`, `batch`, `bulk_action`, `search`, `since`, `until`, `period`."""
        return Pages("/api/v1/runs", filters)

    @asked
    def run_counts(self, period: str | timedelta = "24h", bucket: str | timedelta = "1h") -> Call[list[Json]]:
        """How many runs were made in each stretch of time, oldest first, by status: `{"from", "total", "counts"}`."""
        return get("/api/v1/runs/counts", {"period": duration(period), "bucket": duration(bucket)}).part("data")

    @asked
    def cancel(self, run_id: str, *, at_once: bool = False) -> Call[Json]:
        """End a run and its children: one that executes is asked to end by itself, and killed after 30 seconds.

        Args:
            at_once: don't ask; its process is killed. One that has ended already stays as it is, either way.
        """
        query = (("at_once", "true"),) if at_once else ()
        return Call("POST", f"/api/v2/runs/{segment(run_id)}/cancel", query)

    @asked
    def update_metadata(
        self,
        run_id: str,
        metadata: Json | None = None,
        *,
        operations: Sequence[Json] = (),
        parent_operations: Sequence[Json] = (),
        root_operations: Sequence[Json] = (),
    ) -> Call[Json]:
        """Change a run's metadata; returns it as it is then.

        Args:
            run_id: the run.
            metadata: instead of all there is.
            operations: such as `{"type": "increment", "key": "$.steps.done", "value": 1}`: what to change of it, in order.
            parent_operations: the same for its parent's.
            root_operations: the same for its root's.

        Raises:
            Unprocessable: the run is over for more than 15 minutes.
            ApiError: an operation can't be one, or with status 413 the metadata would be too large. Nothing has changed.
        """
        body: Json = {} if metadata is None else {"metadata": metadata}
        told = {"operations": operations, "parentOperations": parent_operations, "rootOperations": root_operations}
        body |= {name: [*listed] for name, listed in told.items() if listed}
        return replace(post(f"/api/v1/runs/{segment(run_id)}/metadata", body), method="PUT").part("metadata")

    @asked
    def add_tags(self, run_id: str, *tags: str) -> Call[None]:
        """Add tags to a run, also to one that is over: ten in all at most, as a rule (`TORPOR_MAX_TAGS`).

        Raises:
            Unprocessable: there would be more.
        """
        return post(f"/api/v1/runs/{segment(run_id)}/tags", {"tags": [*tags]}).nothing()

    @asked
    def send_input(self, run_id: str, key: str, data: Any) -> Call[None]:
        """Send something to a run, which its code reads from the input stream `key`.

        Raises:
            ApiError: the run is over.
        """
        return post(f"/realtime/v1/streams/{segment(run_id)}/input/{segment(key)}", {"data": data}).nothing()


def one_run(run_id: str) -> Call[Json]:
    return Call("GET", f"/api/v3/runs/{segment(run_id)}", INLINE)


def output(run: Json) -> Any:
    """What a run that has ended returned.

    Raises:
        RunFailed: it did not complete.
    """
    if run["status"] == "COMPLETED":
        return run.get("output")
    error = run.get("error")
    if error is not None:
        error = {"name": "Error", "stackTrace": "", **error}
    raise RunFailed(run["id"], run["status"], error)
