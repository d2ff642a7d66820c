"""Streams: their types, and their routes."""

from typing import Annotated, Any, Literal

from msgspec import Meta

from torpor.server.described.operation import REPEATABLE, Answer, Body, Given, Operation, Parameter, Resource, Shape

EVENTS = "text/event-stream"
LINES = "application/x-ndjson"


class Input(Given):
    data: Annotated[Any, Meta(description="Anything.")]


class Accepted(Shape):
    ok: Literal[True]


class StreamCreated(Shape):
    version: Literal["v1"]


FOLLOW = (
    Parameter(
        "last-event-id",
        Annotated[str, Meta(pattern="^(-1|[0-9]+)$")],
        "The number of the last part that you have.",
        "7",
    ),
    Parameter(
        "x-trigger-stream-start",
        Literal["latest"],
        "Only what comes from now on; an event `start` says behind which number that is.",
    ),
    Parameter(
        "timeout-seconds",
        Annotated[int, Meta(ge=1, le=600)],
        "How long to wait when nothing comes; 60 unless it is given.",
        60,
    ),
)
PART_ID = Parameter(
    "x-part-id",
    Annotated[str, Meta(min_length=1, max_length=200)],
    "A part that the stream has under this id adds nothing.",
)
WRITER = (
    Parameter("x-client-id", str, "A name for this writer.", "c1f3"),
    Parameter("x-resume-from-chunk", Annotated[int, Meta(ge=0)], "Which of its parts the first line is.", 0),
)
NO_RUN = {404: "There is no such run."}
REFUSED = NO_RUN | {
    400: "The run whose stream it is, is over; or the part can't be read.",
    413: "The part, or the stream with it, would be larger than `streamPartBytes` or `streamBytes` of the limits.",
    422: "The key can't be one, or the run has as many streams as it may.",
}
SHOWN = """event: batch
data: {"records":[{"seq_num":0,"timestamp":1767225600000,"body":"{\\"data\\":\\"Hel\\",\\"id\\":\\"p1\\"}","headers":[]}]}

event: end
data: {}

"""
OTHERS = "A scoped key or token that writes to its parent's or root's stream needs `write:runs` for that run as well."

RESOURCE = Resource(
    "Streams",
    "A stream is a row of parts: output, which a run's code appends while it works, or input, which others send to it. Parts "
    "are numbered from 0 without gaps, and a reader who was cut off goes on behind the number that he has. They are kept for "
    "28 days, and as long as the run at most. A key has up to 256 characters; it may hold slashes, and doesn't begin with "
    "`input/`.",
    {
        "GET /realtime/v1/streams/{run_id}/{stream_key}": Operation(
            "followStream",
            "What a run makes, as it comes.",
            "The stream need not be there yet. `body` is JSON text: the part and its id. A comment comes every 15 seconds when "
            "nothing else does. `end` is sent when the run is over and you have all; then, and when nothing came for so long, "
            "the answer ends. A server that stops cuts the connection instead: there may be more, at another one. `HEAD` "
            "answers the header `x-last-chunk-index`: the number of the last part (-1: there is none), or, with `x-client-id`, "
            "of the last one that this writer has sent.",
            headers=FOLLOW,
            answers={
                200: Answer(
                    "Events, as long as the run works.",
                    str,
                    SHOWN,
                    EVENTS,
                    {"x-stream-version": "`v2`: how the events are framed."},
                )
            },
            refusals=NO_RUN,
        ),
        "POST /realtime/v1/streams/{run_id}/{target}/{stream_key}/append": Operation(
            "appendToStream",
            "One part of an output, from outside.",
            f"The body as text, whatever its content type says. {OTHERS}",
            headers=(PART_ID, *REPEATABLE),
            body=Body(str, "Hel", "text/plain"),
            answers={200: Answer("It is there.", Accepted, {"ok": True})},
            refusals=REFUSED,
        ),
        "POST /realtime/v1/streams/{run_id}/{target}/{stream_key}": Operation(
            "appendLinesToStream",
            "Many parts of an output as they come, one JSON text per line.",
            "In one request that may last. A writer that was cut off asks by `HEAD` how far it got, and goes on behind that. "
            + OTHERS,
            headers=WRITER,
            body=Body(Any, {"token": "Hel"}, LINES),
            answers={200: Answer("All are there.", Accepted, {"ok": True})},
            refusals=REFUSED,
        ),
        "PUT /realtime/v1/streams/{run_id}/{target}/{stream_key}": Operation(
            "createStream",
            "How to send many parts.",
            answers={
                202: Answer(
                    "By the route of the same path.",
                    StreamCreated,
                    {"version": "v1"},
                    headers={"x-stream-version": "`v1`."},
                )
            },
            refusals=NO_RUN,
        ),
        "GET /realtime/v1/streams/{run_id}/input/{stream_key}": Operation(
            "followInputStream",
            "What is sent to a run, as it comes.",
            headers=FOLLOW,
            answers={
                200: Answer(
                    "The same events.",
                    str,
                    SHOWN,
                    EVENTS,
                    {"x-stream-version": "`v2`: how the events are framed."},
                )
            },
            refusals=NO_RUN,
        ),
        "POST /realtime/v1/streams/{run_id}/input/{stream_key}": Operation(
            "sendInput",
            "Send something to a run, which is kept until its code reads it.",
            "The public token that comes with a trigger may do this for its run.",
            headers=REPEATABLE,
            body=Body(Input, {"data": {"text": "hello"}}),
            answers={200: Answer("It is there.", Accepted, {"ok": True})},
            refusals=REFUSED | {413: "The data has more than `streamInputBytes` of the limits, or the stream is full."},
        ),
    },
)
