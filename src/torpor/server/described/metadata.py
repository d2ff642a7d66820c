"""Metadata and tags of a run: their types, and their routes."""

from typing import Annotated, Any, Literal

from msgspec import Meta

from torpor.server.described.operation import REPEATABLE, Answer, Body, Given, Operation, Resource, Shape
from torpor.server.described.run_types import Tags


class MetadataOperation(Given):
    """One change. A key that begins with `$.` is a path: names, numbers for places in a list, `\\.` for a dot in a name."""

    type: Literal["set", "delete", "append", "remove", "increment", "update"]
    key: Annotated[str, Meta(description="Of all but `update`.")] = ""
    value: Annotated[Any, Meta(description="Of all but `delete`: a number to add, an object for `update`.")] = None


Operations = list[MetadataOperation]


class MetadataUpdate(Given):
    metadata: Annotated[dict[str, Any] | None, Meta(description="All there is from then on.")] = None
    operations: Annotated[Operations | None, Meta(description="What to change of it, in this order.")] = None
    parent_operations: Annotated[Operations | None, Meta(description="The same for its parent's.")] = None
    root_operations: Annotated[Operations | None, Meta(description="The same for its root's.")] = None


class ChangedMetadata(Shape):
    metadata: Annotated[dict[str, Any], Meta(description="The run's own, as it is then.")]


class RunMetadata(Shape):
    metadata: dict[str, Any]
    metadata_type: Literal["application/json"]


class MoreTags(Given):
    tags: Tags | None = None


class TagsAdded(Shape):
    message: str


NO_RUN = {404: "There is no such run."}

RESOURCE = Resource(
    "Metadata and tags",
    "What a run tells of itself while it works. Changes are not in its story; who follows the run sees them.",
    {
        "PUT /api/v1/runs/{run_id}/metadata": Operation(
            "updateRunMetadata",
            "Change a run's metadata, its parent's and its root's.",
            "Operations are carried out in their order:\n\n"
            "| operation | does |\n"
            "|---|---|\n"
            "| `set` | the value is there |\n"
            "| `delete` | it is not |\n"
            "| `append` | at the end of a list; what is there and is none becomes the first of one |\n"
            "| `remove` | all that equal it are gone from a list |\n"
            "| `increment` | a number is more by so much; what is there and is none counts as 0 |\n"
            "| `update` | an object is all there is |\n\n"
            "That happens under a lock, so that many may count at once. Objects that are missing on the way of a path "
            "are made. An operation that meets a text where it needs an object, or no list to remove from, changes nothing. "
            "What goes to a parent or root that a run doesn't have goes to itself; what goes to one that it has needs "
            "`write:runs:<that run>`, where scopes are asked for. A run that is over can be told of for 15 "
            "minutes more.",
            headers=REPEATABLE,
            body=Body(
                MetadataUpdate,
                {
                    "operations": [
                        {"type": "set", "key": "$.steps.0.done", "value": True},
                        {"type": "increment", "key": "progress", "value": 1},
                    ]
                },
            ),
            answers={
                200: Answer("It is changed.", ChangedMetadata, {"metadata": {"steps": [{"done": True}], "progress": 4}})
            },
            refusals=NO_RUN
            | {
                400: "An operation can't be one, or a path names `__proto__`, `constructor` or `prototype`.",
                413: "There would be more than `metadataBytes` of the limits, or so many operations on metadata of that size "
                "would take too long: send fewer at once. Nothing has changed.",
                422: "The run is over for more than 15 minutes.",
            },
        ),
        "GET /api/v1/runs/{run_id}/metadata": Operation(
            "retrieveRunMetadata",
            "A run's metadata.",
            answers={
                200: Answer(
                    "As it is now.", RunMetadata, {"metadata": {"progress": 4}, "metadataType": "application/json"}
                )
            },
            refusals=NO_RUN,
        ),
        "POST /api/v1/runs/{run_id}/tags": Operation(
            "addRunTags",
            "Add tags to a run, also to one that is over.",
            "Those that it has count once.",
            body=Body(MoreTags, {"tags": ["user_123"]}),
            answers={200: Answer("They are there.", TagsAdded, {"message": "Added 1 tag"})},
            refusals=NO_RUN | {422: "There would be more than `tags` of the limits, or one is too long."},
        ),
    },
)
