"""What is asked for page after page, and by which filters."""

from abc import ABC, abstractmethod
from typing import Any

from torpor.sdk.calls.call import Call, Json, get, renamed
from torpor.sdk.calls.sending import Attempts

RUN_FILTERS = {
    "status": "status",
    "task": "taskIdentifier",
    "version": "version",
    "tag": "tag",
    "queue": "queue",
    "machine": "machine",
    "region": "region",
    "is_test": "isTest",
    "batch": "batch",
    "schedule": "schedule",
    "bulk_action": "bulkAction",
    "search": "search",
    "since": "from",
    "until": "to",
    "period": "period",
}
"""Which runs: by our names, and as the body of a bulk action has them."""
FILTERS = {
    **{name: f"filter[{theirs}]" for name, theirs in RUN_FILTERS.items()},
    "task_id": "filter[taskIdentifier]",
    "tags": "filter[tags]",
    "idempotency_key": "filter[idempotencyKey]",
    "since": "filter[createdAt][from]",
    "until": "filter[createdAt][to]",
    "period": "filter[createdAt][period]",
    "page_size": "page[size]",
}
"""As the queries of listings have them, those of other things than runs as well."""


class Listing(ABC):
    """Things that come one after the other, several with each answer: `call` is what to ask next, None at the end."""

    call: Call[Any] | None
    attempts = Attempts
    """How often a call is tried, and how its reply is read."""

    @abstractmethod
    def read(self, answer: Any) -> list[Json]:
        """The things in an answer; with it `call` becomes the next one."""


class Pages(Listing):
    """A listing whose pages name the next one."""

    def __init__(self, path: str, filters: Json, names: dict[str, str] = FILTERS) -> None:
        self._path = path
        self._query = renamed(filters, names)
        self.call: Call[Any] | None = get(path, self._query)

    def read(self, answer: Json) -> list[Json]:
        after = answer["pagination"].get("next")
        self.call = get(self._path, {**self._query, "page[after]": after}) if after else None
        return answer["data"]


class Numbered(Listing):
    """A listing whose pages have numbers."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.call: Call[Any] | None = get(path, {"page": 1, "perPage": 100})

    def read(self, answer: Json) -> list[Json]:
        told = answer["pagination"]
        after = told["currentPage"] + 1
        self.call = get(self._path, {"page": after, "perPage": 100}) if after <= told["totalPages"] else None
        return answer["data"]
