"""Tokens that runs wait for, and approvals, which are tokens for people."""

from datetime import datetime, timedelta
from typing import Any

from torpor.sdk.calls.call import Call, Json, duration, get, post, present, segment
from torpor.sdk.calls.doors import asked, listed
from torpor.sdk.calls.listings import Listing, Pages


class Waitpoints:
    @asked
    def create_token(
        self,
        timeout: str | float | timedelta | datetime | None = None,
        *,
        tags: list[str] | None = None,
        idempotency_key: str | None = None,
        idempotency_key_ttl: str | float | timedelta | None = None,
        title: str | None = None,
        context: Any = None,
    ) -> Call[Json]:
        """A token that a run may wait for: `{"id", "url", "isCached"}`. A POST to `url` completes it, without a key."""
        body = {
            "timeout": duration(timeout),
            "tags": tags,
            "idempotencyKey": idempotency_key,
            "idempotencyKeyTTL": duration(idempotency_key_ttl),
            "title": title,
            "context": context,
        }
        return post("/api/v1/waitpoints/tokens", present(body))

    @asked
    def token(self, token_id: str) -> Call[Json]:
        """One token, with its output when it is complete."""
        return get(f"/api/v1/waitpoints/tokens/{segment(token_id)}")

    @listed
    def tokens(self, **filters: Any) -> Listing:
        """Tokens that fit, newest first: `status`, `tags`, `idempotency_key`, `since`, `until`, `period`."""
        return Pages("/api/v1/waitpoints/tokens", filters)

    @asked
    def complete_token(self, token_id: str, data: Any = None) -> Call[Json]:
        """Give a token its value. The first one wins; later ones change nothing."""
        return _complete(token_id, data)

    @asked
    def approve(
        self, token_id: str, approved: bool = True, *, by: str | None = None, comment: str | None = None
    ) -> Call[Json]:
        """Answer a `wait.for_approval`."""
        return _complete(token_id, present({"approved": approved, "by": by, "comment": comment}))

    @listed
    def approvals(self, page_size: int = 25) -> Listing:
        """What runs ask of people, those that wait first: `title`, `context`, `runIds`, `status`, and the answer."""
        return Pages("/api/v1/approvals", {"page_size": page_size})

    @asked
    def approval(self, token_id: str) -> Call[Json]:
        """One approval."""
        return get(f"/api/v1/approvals/{segment(token_id)}")


def _complete(token_id: str, data: Any) -> Call[Json]:
    return post(f"/api/v1/waitpoints/tokens/{segment(token_id)}/complete", {"data": data})
