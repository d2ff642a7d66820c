"""Uploads, and large payloads and outputs: their types, and their routes."""

from typing import Annotated, Any

from msgspec import Meta

from torpor.server.described.operation import Answer, Body, Operation, Parameter, Resource, Shape


class UploadUrl(Shape):
    presigned_url: Annotated[str, Meta(description="Where the packet is put, without a key.")]
    storage_path: Annotated[str, Meta(description="What the trigger has for a payload.")]


class DownloadUrl(Shape):
    presigned_url: str


class Nothing(Shape):
    pass


UNTIL = Parameter("until", Annotated[int, Meta(ge=0)], "Until when the URL is good: seconds since 1970.")
BYTES = Parameter("bytes", Annotated[int, Meta(ge=0)], "How many bytes are taken at most.")
URL = {"presignedUrl": "https://torpor.example/api/v1/objects/env_1/run_8fz3k1v0q2m4.output/5e1f?until=1772350200"}
NOT_LARGE = {404: "There is no such run, or it has none that is large."}
NOT_SIGNED = {401: "The URL is not one of this server's, or it has run out."}

RESOURCE = Resource(
    "Uploads",
    "How they are used is told under [large payloads](#large-payloads).",
    {
        "PUT /api/v2/packets/{filename}": Operation(
            "createUploadUrl",
            "A presigned URL for an upload, and its path.",
            "A name with slashes is one segment (`%2F`).",
            answers={
                200: Answer(
                    "The upload, to which nothing has been put yet.",
                    UploadUrl,
                    {
                        "presignedUrl": "https://torpor.example/api/v1/objects/env_1/upload_4k/5e1f?until=1772350200",
                        "storagePath": "upload_4k/trigger/packet_1/payload.json",
                    },
                )
            },
            refusals={
                400: "The name has `..`, an empty part, or more than 512 characters.",
                404: "There is a line break in the name.",
            },
        ),
        "PUT /api/v1/objects/{environment_id}/{name}/{given_hash}": Operation(
            "upload",
            "A presigned URL: upload a packet.",
            "Its content type says what it is: `application/json`, `text/plain` or `application/super+json`. A second upload "
            "replaces the first.",
            query=(UNTIL, BYTES),
            body=Body(Any, {"name": "Ada"}, is_required=True),
            answers={200: Answer("It is there.", Nothing, {})},
            refusals=NOT_SIGNED | {400: "The packet can't be read."},
        ),
        "GET /api/v1/objects/{environment_id}/{name}/{given_hash}": Operation(
            "download",
            "A presigned URL: fetch a payload or an output.",
            query=(UNTIL,),
            answers={200: Answer("The JSON.", Any, {"name": "Ada"})},
            refusals=NOT_SIGNED | {404: "It was deleted."},
        ),
        "GET /api/v1/runs/{run_id}/packets/{field}": Operation(
            "retrieveRunPacket",
            "A presigned URL of a run's large `payload` or `output`.",
            "Feeds tell those as `application/store`.",
            answers={200: Answer("Where it is fetched, without a key.", DownloadUrl, URL)},
            refusals=NOT_LARGE,
        ),
        "GET /api/v1/packets/runs/{run_id}/{field}": Operation(
            "retrieveRunPacketByPath",
            "The same, asked by the path that a feed tells, as SDKs before 4.6 do.",
            answers={200: Answer("Where it is fetched, without a key.", DownloadUrl, URL)},
            refusals=NOT_LARGE,
        ),
        "GET /api/v1/packets/{path}": Operation(
            "retrieveUpload",
            "A presigned URL of an upload, by its path.",
            answers={200: Answer("Where it is fetched, without a key.", DownloadUrl, URL)},
            refusals={404: "There is no such upload."},
        ),
    },
)
