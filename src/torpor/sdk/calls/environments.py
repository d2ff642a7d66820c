"""Environments of the server and their projects. All of it takes a secret key of the server's own environment."""

from dataclasses import replace

from torpor.sdk.calls.call import Call, Json, get, post, present, segment
from torpor.sdk.calls.doors import asked


class Environments:
    @asked
    def environments(self) -> Call[list[Json]]:
        """All environments, project by project: `{"id", "project", "name", "isOwn", …}`."""
        return get("/api/v1/environments").part("data")

    @asked
    def create_environment(self, name: str, *, project: str | None = None, new_project: bool = False) -> Call[Json]:
        """Another one, with its first secret key in the reply's `key`, this once.

        Args:
            project: the one that it is for; default: the server's first.
            new_project: that project begins with it.

        Raises:
            Unprocessable: the name is taken or can't be one, or there is no such project.
        """
        body = {"name": name, "project": project, "newProject": new_project or None}
        return post("/api/v1/environments", present(body))

    @asked
    def rename_environment(self, environment_id: str, name: str) -> Call[Json]:
        """It is called so from now on. Keys go on, and workers that are at work; one that starts has to say the new name."""
        return replace(post(f"/api/v1/environments/{segment(environment_id)}", {"name": name}), method="PUT")

    @asked
    def delete_environment(self, environment_id: str) -> Call[None]:
        """It is gone with all that is in it.

        Raises:
            Unprocessable: something in it isn't over, it has workers, or it is the server's own.
        """
        return Call[None]("DELETE", f"/api/v1/environments/{segment(environment_id)}").nothing()

    @asked
    def rename_project(self, project: str, name: str) -> Call[list[Json]]:
        """As `rename_environment`, for all of a project; they are returned."""
        return replace(post(f"/api/v1/projects/{segment(project)}", {"name": name}), method="PUT").part("data")

    @asked
    def delete_project(self, project: str) -> Call[list[Json]]:
        """As `delete_environment`, for all of a project or none; their ids are returned, as `{"id"}`."""
        return Call[list[Json]]("DELETE", f"/api/v1/projects/{segment(project)}").part("data")
