"""Batches: looked at, and what one's upload says in the words of the public API, as a process outside of runs fills it."""

from typing import Any

import msgspec

from torpor.sdk.calls.call import Call, Json, get, post, present, segment
from torpor.sdk.calls.doors import asked, listed
from torpor.sdk.calls.listings import Listing, Pages
from torpor.wire import http as wire
from torpor.wire.runner import TaskError

Message = wire.BatchCall | wire.BatchItemsCall | wire.BatchResultsCall


class Batches:
    @asked
    def batch(self, batch_id: str) -> Call[Json]:
        """One batch: `status`, `runCount`, `runs`, and in `processing` the items that could not become runs."""
        return get(f"/api/v2/batches/{segment(batch_id)}")

    @listed
    def batches(self, **filters: Any) -> Listing:
        """Batches, newest first: `status`, `since`, `until`, `period`."""
        return Pages("/api/v1/batches", filters)

    @listed
    def batch_results(self, batch_id: str) -> Listing:
        """How the items have ended, in their order; those that have not are left out."""
        return Results(batch_id)


def request(call: Message) -> Call[Any]:
    match call:
        case wire.BatchCall():
            body = {
                "runCount": call.run_count,
                "idempotencyKey": call.idempotency_key,
                "idempotencyKeyTTL": call.idempotency_key_ttl_s,
            }
            return post("/api/v3/batches", present(body))
        case wire.BatchItemsCall():
            query = (("runs", "true"), ("seal", "true")) if call.seal else (("runs", "true"),)
            body = b"".join(msgspec.json.encode(item) + b"\n" for item in call.items)
            path = f"/api/v3/batches/{segment(call.batch_id)}/items"
            return Call("POST", path, query, body, content_type="application/x-ndjson")
        case wire.BatchResultsCall():
            return get(f"/api/v2/batches/{segment(call.batch_id)}")


def reply(call: Message, body: Any) -> wire.BatchReply | wire.BatchItemsReply | wire.BatchResultsReply:
    match call:
        case wire.BatchCall():
            # Sealed from the start: a batch of nothing. A cached one has all its items.
            is_sealed = body["isCached"] or (call.run_count == 0 and body["runCount"] == 0)
            return wire.BatchReply(body["id"], body["isCached"], is_sealed)
        case wire.BatchItemsCall():
            items = [
                wire.BatchItemReply(one["index"], one.get("id"), one.get("isCached", False), one.get("error"))
                for one in body["items"]
            ]
            return wire.BatchItemsReply(items, body["sealed"], body["runCount"])
        case wire.BatchResultsCall():
            runs = [wire.BatchResult(-1, "", run_id) for run_id in body["runs"]]
            failed = [
                wire.BatchResult(one["index"], one["taskIdentifier"], error=TaskError("NotTriggered", one["error"]))
                for one in body["processing"]["errors"]
            ]
            return wire.BatchResultsReply([*runs, *failed])


class Results(Listing):
    """The results of a batch, page after page: `call` is what to ask next, None at the end."""

    def __init__(self, batch_id: str) -> None:
        self._path = f"/api/v1/batches/{segment(batch_id)}/results"
        self.call: Call[Any] | None = get(self._path)

    def read(self, answer: Json) -> list[Json]:
        after = answer["pagination"].get("next")
        self.call = get(self._path, {"page[after]": after}) if after else None
        return answer["items"]
