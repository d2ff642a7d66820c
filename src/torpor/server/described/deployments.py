"""Deployments: their types, and their routes."""

from typing import Annotated, Literal

from msgspec import Meta

from torpor.server.described.operation import PAGED, Answer, Cursors, Instant, Operation, Parameter, Resource, Shape

Status = Literal["PENDING", "INSTALLING", "BUILDING", "DEPLOYING", "DEPLOYED", "FAILED", "CANCELED", "TIMED_OUT"]


class DeploymentInList(Shape):
    """Git, an external id and an error are never there, as nothing is known of them."""

    id: str
    created_at: Annotated[Instant, Meta(description="When the version was first reported.")]
    deployed_at: Annotated[Instant, Meta(description="When it became the current one.")]
    short_code: str
    version: str
    runtime: Literal["python"]
    runtime_version: str | None
    status: Annotated[Literal["DEPLOYED"], Meta(description="What can't be imported is never registered.")]


class DeploymentPage(Shape):
    data: list[DeploymentInList]
    pagination: Cursors


class Deployment(DeploymentInList):
    tasks: Annotated[list[str], Meta(description="The ids of its tasks, as long as they are kept. Torpor's own.")]


DEPLOYMENT = {
    "id": "deployment_8w2c",
    "createdAt": "2026-03-01T07:00:00Z",
    "deployedAt": "2026-03-01T07:00:00Z",
    "shortCode": "8w2c",
    "version": "dev-20260301-070000",
    "runtime": "python",
    "runtimeVersion": "3.12.1",
    "status": "DEPLOYED",
}
NONE_YET = {404: "There is none yet."}

RESOURCE = Resource(
    "Deployments",
    "The versions that workers have reported, to be read. (`torpor dev` and `torpor worker` report one when they have imported "
    "it, and it is current from then on.) A version that no worker has and no living run needs is forgotten after "
    "`TORPOR_RETENTION_DAYS`.",
    {
        "GET /api/v1/deployments": Operation(
            "listDeployments",
            "List deployments; 20 per page unless it is given.",
            query=(
                *PAGED,
                Parameter("status", list[Status], "These statuses; none but `DEPLOYED` is there.", ["DEPLOYED"]),
                Parameter("from", str, "Not before: ISO 8601, or milliseconds since 1970.", "2026-03-01T00:00:00Z"),
                Parameter("to", str, "Not after.", "2026-04-01T00:00:00Z"),
                Parameter("period", str, "Not longer ago.", "7d"),
            ),
            answers={200: Answer("A page, newest first.", DeploymentPage, {"data": [DEPLOYMENT], "pagination": {}})},
        ),
        "GET /api/v1/deployments/current": Operation(
            "retrieveCurrentDeployment",
            "The version that new runs get.",
            answers={200: Answer("The deployment.", DeploymentInList, DEPLOYMENT)},
            refusals=NONE_YET,
        ),
        "GET /api/v1/deployments/latest": Operation(
            "retrieveLatestDeployment",
            "The version that was first reported last.",
            answers={200: Answer("The deployment.", DeploymentInList, DEPLOYMENT)},
            refusals=NONE_YET,
        ),
        "GET /api/v1/deployments/{deployment_id}": Operation(
            "retrieveDeployment",
            "One of them.",
            answers={200: Answer("The deployment.", Deployment, DEPLOYMENT | {"tasks": ["onboard"]})},
            refusals={404: "There is no such deployment."},
        ),
    },
)
