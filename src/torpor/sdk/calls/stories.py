"""What has happened to a run: its story, its log and its trace."""

import time
from typing import Any

from torpor.sdk.calls.call import Call, Json, get, segment
from torpor.sdk.calls.doors import asked, listed
from torpor.sdk.calls.listings import Listing

POLL_S = 25.0
"""How long the server holds one request of a follower before it answers that nothing happened."""


class Stories:
    @listed
    def story(self, run_id: str, follow: bool = False) -> Listing:
        """What happened to a run, event by event; with `follow` as it happens, until it ends."""
        return Story(run_id, "story", follow)

    @listed
    def logs(self, run_id: str, follow: bool = False) -> Listing:
        """What a run logged and printed; with `follow` as it comes, until the run ends."""
        return Story(run_id, "logs", follow)

    @asked
    def trace(self, run_id: str) -> Call[Json]:
        """A run's story as a tree of spans: `{"traceId", "rootSpan": {"id", "data", "children"}}`."""
        return get(f"/api/v1/runs/{segment(run_id)}/trace").part("trace")

    @asked
    def span(self, run_id: str, span_id: str) -> Call[Json]:
        """One of a trace's spans: `{"spanId", "message", "durationMs", "properties", "events", …}`.

        Raises:
            NotFound: the run has no such span.
        """
        return get(f"/api/v1/runs/{segment(run_id)}/spans/{segment(span_id)}")

    @asked
    def events(self, run_id: str) -> Call[list[Json]]:
        """The events of a run's spans: log lines, and what the story says beside. `story` and `logs` have all of them."""
        return get(f"/api/v1/runs/{segment(run_id)}/events").part("events")


class Story(Listing):
    """A run's events or log lines; with `follow` until the run has ended."""

    def __init__(self, run_id: str, what: str, follow: bool, after: int = 0, timeout_s: float | None = None) -> None:
        self._path = f"/api/v1/runs/{segment(run_id)}/{what}"
        self._follow = follow
        self._until = None if timeout_s is None else time.monotonic() + timeout_s
        self._run_id = run_id
        self._after = after
        self._has_asked = False
        self.call: Call[Any] | None = self._next()

    def _next(self) -> Call[Any]:
        wait_s = POLL_S if self._follow else 0.0
        if self._until is not None:
            left_s = self._until - time.monotonic()
            if left_s <= 0 and self._has_asked:
                raise TimeoutError(f"run {self._run_id} has not ended in time")
            wait_s = min(wait_s, max(0.0, left_s))
        self._has_asked = True
        return get(self._path, {"after": self._after, "wait_s": round(wait_s, 3) or None}, held_s=wait_s)

    def read(self, answer: Json) -> list[Json]:
        data: list[Json] = answer["data"]
        if data:
            self._after = data[-1]["id"]
        over = answer["ended"] or (not self._follow and not data)
        self.call = None if over else self._next()
        return data
