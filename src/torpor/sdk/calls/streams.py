"""How a run's stream is read.

It comes as server-sent events; `StreamReading` says what to ask, reads what comes, and knows where to go on when the
connection broke.
"""

from typing import Any, Literal

import msgspec

from torpor.sdk.calls.call import Call, segment

QUIET_S = 600
"""How long the server holds a request for which nothing comes; then it is asked again."""


class StreamReading:
    """One reader of one stream: `call` is what to ask next, None at the end."""

    def __init__(self, run_id: str, key: str, start: int | Literal["latest"]) -> None:
        self._path = f"/realtime/v1/streams/{segment(run_id)}/{segment(key)}"
        self._after = None if start == "latest" else start - 1
        self._is_over = False
        self._rest = b""

    @property
    def call(self) -> Call[Any] | None:
        if self._is_over:
            return None
        self._rest = b""  # half an event of a connection that broke
        where = ("x-trigger-stream-start", "latest") if self._after is None else ("last-event-id", str(self._after))
        return Call("GET", self._path, headers=(where, ("timeout-seconds", str(QUIET_S))))

    def read(self, data: bytes) -> list[Any]:
        """The parts in what has come, as they were appended."""
        # Not by lines of text: to Python a character within a part may end a line.
        *events, self._rest = (self._rest + data).split(b"\n\n")
        parts: list[Any] = []
        for event in events:
            fields: dict[bytes, bytes] = {}
            for line in event.split(b"\n"):
                name, _, value = line.partition(b": ")
                fields[name] = value
            match fields.get(b"event"):
                case b"batch":
                    for record in msgspec.json.decode(fields[b"data"])["records"]:
                        self._after = record["seq_num"]
                        parts.append(msgspec.json.decode(record["body"])["data"])
                case b"start":
                    self._after = msgspec.json.decode(fields[b"data"])["after"]
                case b"end":
                    self._is_over = True
                case _:
                    pass  # a comment
        return parts
