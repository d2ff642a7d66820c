"""What a batch's upload says, in the words of the public API: how a process outside of runs fills a batch."""

from typing import Any

import msgspec

from torpor.sdk import calls
from torpor.wire import http as wire
from torpor.wire.runner import TaskError

Message = wire.BatchCall | wire.BatchItemsCall | wire.BatchResultsCall


def request(call: Message) -> calls.Call:
    match call:
        case wire.BatchCall():
            asked = {
                "runCount": call.run_count,
                "idempotencyKey": call.idempotency_key,
                "idempotencyKeyTTL": call.idempotency_key_ttl_s,
            }
            return calls.post("/api/v3/batches", {name: value for name, value in asked.items() if value is not None})
        case wire.BatchItemsCall():
            query = (("runs", "true"), ("seal", "true")) if call.seal else (("runs", "true"),)
            body = b"".join(msgspec.json.encode(item) + b"\n" for item in call.items)
            path = f"/api/v3/batches/{calls.segment(call.batch_id)}/items"
            return calls.Call("POST", path, query, body, content_type="application/x-ndjson")
        case wire.BatchResultsCall():
            return calls.get(f"/api/v2/batches/{calls.segment(call.batch_id)}")


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


class Results:
    """The results of a batch, page after page: `call` is what to ask next, None at the end."""

    def __init__(self, batch_id: str) -> None:
        self._path = f"/api/v1/batches/{calls.segment(batch_id)}/results"
        self.call: calls.Call | None = calls.get(self._path)

    def read(self, page: calls.Json) -> list[calls.Json]:
        after = page["pagination"].get("next")
        self.call = calls.get(self._path, {"page[after]": after}) if after else None
        return page["items"]
