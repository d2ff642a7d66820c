"""Projects and their environments: their types, and their routes."""

from typing import Annotated, Any

from msgspec import UNSET, Meta, UnsetType

from torpor.server.described.operation import Answer, Body, Given, Instant, Operation, Resource, Shape

NAME = Meta(pattern="^[a-z][a-z0-9-]{0,30}$")


class NewEnvironment(Given):
    name: Annotated[str, NAME]
    project: Annotated[str, Meta(description="The project that it is for.")] = "default"
    new_project: Annotated[bool, Meta(description="The project begins with it.")] = False


class NewName(Given):
    name: Annotated[str, NAME]


class EnvironmentOfProject(Shape):
    id: str
    project: str
    name: str
    is_own: Annotated[bool, Meta(description="It is the server's own: it keeps its name, and stays.")]
    current_version: str | None
    created_at: Instant
    workers: Annotated[int, Meta(description="How many serve it now.")] | UnsetType = UNSET
    runs: Annotated[int, Meta(description="How many work or are in line.")] | UnsetType = UNSET
    key: Annotated[str, Meta(description="Its first secret key, this once.")] | UnsetType = UNSET


class EnvironmentsOfProjects(Shape):
    data: list[EnvironmentOfProject]


class EnvironmentDeleted(Shape):
    id: str


class EnvironmentsDeleted(Shape):
    data: list[EnvironmentDeleted]


PROD: dict[str, Any] = {
    "id": "env_1",
    "project": "shop",
    "name": "prod",
    "isOwn": False,
    "currentVersion": None,
    "createdAt": "2026-03-01T07:00:00Z",
}
NO_NAME = {422: "The name is taken, or it can't be one, or the server's own environment or project is meant."}
IN_USE = {
    422: "It has runs, batches or bulk actions that are not over, or workers; or it is the server's own. `error` says what to do."
}

RESOURCE = Resource(
    "Projects and environments",
    "What they are is in [projects and environments](self-hosting.md#projects-and-environments).",
    {
        "GET /api/v1/environments": Operation(
            "listEnvironments",
            "All environments, project by project, the server's own first.",
            is_own=True,
            answers={
                200: Answer("All of them.", EnvironmentsOfProjects, {"data": [PROD | {"workers": 2, "runs": 17}]})
            },
        ),
        "POST /api/v1/environments": Operation(
            "createEnvironment",
            "Make an environment.",
            is_own=True,
            body=Body(NewEnvironment, {"name": "prod", "project": "shop", "newProject": True}, is_required=True),
            answers={200: Answer("The environment.", EnvironmentOfProject, PROD | {"key": "tr_prod_4Jd…"})},
            refusals={
                422: "The name is taken or can't be one; there is no such project, or there is, and it was to begin."
            },
        ),
        "PUT /api/v1/environments/{environment_id}": Operation(
            "renameEnvironment",
            "Give an environment another name.",
            "Its keys go on, and so do its workers; one that starts has to say the new name.",
            is_own=True,
            body=Body(NewName, {"name": "prod"}, is_required=True),
            answers={200: Answer("The environment as it is called then.", EnvironmentOfProject, PROD)},
            refusals={404: "There is no such environment."} | NO_NAME,
        ),
        "DELETE /api/v1/environments/{environment_id}": Operation(
            "deleteEnvironment",
            "Delete an environment and all that is in it.",
            "Its keys are worth nothing at once; what is in it is gone within minutes, or hours if it is much.",
            is_own=True,
            answers={200: Answer("Which one.", EnvironmentDeleted, {"id": "env_1"})},
            refusals={404: "There is no such environment."} | IN_USE,
        ),
        "PUT /api/v1/projects/{project}": Operation(
            "renameProject",
            "Give a project another name.",
            is_own=True,
            body=Body(NewName, {"name": "shop"}, is_required=True),
            answers={200: Answer("Its environments.", EnvironmentsOfProjects, {"data": [PROD]})},
            refusals={404: "There is no such project."} | NO_NAME,
        ),
        "DELETE /api/v1/projects/{project}": Operation(
            "deleteProject",
            "Delete a project: all its environments, or none if one of them is in use.",
            is_own=True,
            answers={200: Answer("Which ones.", EnvironmentsDeleted, {"data": [{"id": "env_1"}]})},
            refusals={404: "There is no such project."} | IN_USE,
        ),
    },
)
