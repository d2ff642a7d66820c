"""One action on many runs."""

from collections.abc import Iterable
from typing import Any

from torpor.sdk.calls.call import Call, Json, get, post, present, renamed, segment, when
from torpor.sdk.calls.doors import asked, listed
from torpor.sdk.calls.listings import RUN_FILTERS, Listing, Pages


class BulkActions:
    @asked
    def bulk_cancel(
        self, run_ids: Iterable[str] | None = None, *, name: str | None = None, **filters: Any
    ) -> Call[Json]:
        """Cancel many runs: `{"id": "bulk_…"}`. The servers do it one after the other; `bulk_action` tells how far they are.

        Args:
            run_ids: these runs.
            name: what it is shown as.
            **filters: instead of ids, those of `runs`: all that fit now.

        Example:
            >>> made = client.bulk_cancel(task="digest", status="QUEUED")  # doctest: +SKIP
            >>> client.bulk_action(made["id"])["counts"]  # doctest: +SKIP
            {'total': 1200, 'success': 350, 'failure': 0}
        """
        return _bulk("cancel", run_ids, name, False, filters)

    @asked
    def bulk_replay(
        self, run_ids: Iterable[str] | None = None, *, name: str | None = None, **filters: Any
    ) -> Call[Json]:
        """Perform many runs again, each as a new one. As `bulk_cancel`."""
        return _bulk("replay", run_ids, name, False, filters)

    @asked
    def bulk_count(self, **filters: Any) -> Call[int]:
        """How many runs a bulk action with these filters would have now."""
        return _bulk("cancel", None, None, True, filters).part("count")

    @asked
    def bulk_action(self, bulk_id: str) -> Call[Json]:
        """One bulk action: `status` (PENDING, COMPLETED, ABORTED), `counts`, and in `failures` the first that failed."""
        return get(f"/api/v1/bulk-actions/{segment(bulk_id)}")

    @listed
    def bulk_actions(self, page_size: int = 25) -> Listing:
        """All bulk actions, newest first."""
        return Pages("/api/v1/bulk-actions", {"page_size": page_size})

    @asked
    def abort_bulk_action(self, bulk_id: str) -> Call[Json]:
        """Stop a bulk action: what was done stays done."""
        return post(f"/api/v1/bulk-actions/{segment(bulk_id)}/abort")


def _bulk(action: str, run_ids: Iterable[str] | None, name: str | None, preview: bool, filters: Json) -> Call[Any]:
    """Runs by their ids, or by the filters of a list."""
    chosen = present(renamed(filters, RUN_FILTERS))
    chosen |= {key: when(chosen[key]) for key in chosen.keys() & {"from", "to", "period"}}
    body: Json = {
        "action": action,
        "runIds": None if run_ids is None else [*run_ids],
        "filter": chosen if filters else None,
        "name": name or None,
        "preview": preview or None,
    }
    return post("/api/v1/bulk-actions", present(body))
