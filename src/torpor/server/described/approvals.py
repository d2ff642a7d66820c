"""Approvals: their types, and their routes."""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, UnsetType

from torpor.server.described.operation import (
    PAGED,
    Answer,
    Body,
    Cursors,
    Given,
    Instant,
    Operation,
    Resource,
    Shape,
)


class PersonsAnswer(Given):
    by: Annotated[
        str | None, Meta(description="Who answers; the run sees it. With a personal token it is that person.")
    ] = None
    comment: str | None = None


class Approval(Shape, kw_only=True):
    id: Annotated[str, Meta(description="Of the wait token that it is.")]
    status: Annotated[
        Literal["WAITING", "APPROVED", "REJECTED", "TIMED_OUT"],
        Meta(description="A value that is no answer counts as `REJECTED`, as it does in the run."),
    ]
    title: str
    context: Any | UnsetType = UNSET
    run_ids: Annotated[list[str], Meta(description="The runs that wait for it.")]
    made_by: Annotated[str, Meta(description="The run that asked.")] | UnsetType = UNSET
    tags: list[str]
    created_at: Annotated[Instant, Meta(description="Since when it is asked.")]
    timeout_at: Annotated[Instant, Meta(description="Until when.")] | UnsetType = UNSET
    answered_at: Instant | UnsetType = UNSET
    by: str | UnsetType = UNSET
    comment: str | UnsetType = UNSET
    url: Annotated[str, Meta(description="The token's callback.")]


class ApprovalPage(Shape):
    data: list[Approval]
    pagination: Cursors


EXAMPLE = {
    "id": "waitpoint_9k2p",
    "status": "WAITING",
    "title": "Send Ada a cake?",
    "context": {"price": 30},
    "runIds": ["run_8fz3k1v0q2m4"],
    "madeBy": "run_8fz3k1v0q2m4",
    "tags": [],
    "createdAt": "2026-03-01T07:00:00Z",
    "timeoutAt": "2026-03-04T07:00:00Z",
    "url": "https://torpor.example/api/v1/waitpoints/tokens/waitpoint_9k2p/callback/5e1f",
}
APPROVED = EXAMPLE | {"status": "APPROVED", "runIds": [], "answeredAt": "2026-03-01T09:00:00Z", "by": "Grace"}
NO_APPROVAL = {404: "There is no such token, or it is no approval."}
LOST = {410: "A large answer is missing in the server's object store."}

RESOURCE = Resource(
    "Approvals",
    "What runs ask of people: wait tokens with a title, and the answers. All Torpor's own. The public token that a wait token "
    "comes with may look at its approval, and answer it.",
    {
        "GET /api/v1/approvals": Operation(
            "listApprovals",
            "List approvals.",
            is_own=True,
            query=PAGED,
            answers={
                200: Answer(
                    "A page: those that wait, newest first, and then the others.",
                    ApprovalPage,
                    {"data": [EXAMPLE], "pagination": {}},
                )
            },
            refusals=LOST,
        ),
        "GET /api/v1/approvals/{token_id}": Operation(
            "retrieveApproval",
            "Look at an approval.",
            is_own=True,
            answers={200: Answer("The approval.", Approval, APPROVED)},
            refusals=NO_APPROVAL | LOST,
        ),
        **{
            f"POST /api/v1/approvals/{{token_id}}/{word}": Operation(
                f"{word}Approval",
                f"Say {said}.",
                "The first answer wins, and a later one is answered with it.",
                is_own=True,
                body=Body(PersonsAnswer, {"by": "Grace", "comment": "with candles"}),
                answers={200: Answer("The approval as it is then.", Approval, APPROVED)},
                refusals=NO_APPROVAL | LOST,
            )
            for word, said in (("approve", "yes"), ("reject", "no"))
        },
    },
)
