"""Environment variables of runs."""

from collections.abc import Mapping

from torpor.sdk.calls.call import Call, Json, get, post, present, segment
from torpor.sdk.calls.doors import asked

_VARIABLES = "/api/v1/projects/default/envvars/default"
"""Any name will do: the key says of which project and environment."""


class Variables:
    @asked
    def variables(self) -> Call[list[Json]]:
        """What all runs have in `os.environ`: `{"name", "value", "isSecret"}`; the value of a secret one isn't told."""
        return get(_VARIABLES)

    @asked
    def variable(self, name: str) -> Call[Json]:
        """One of them.

        Raises:
            NotFound: it isn't set.
        """
        return get(f"{_VARIABLES}/{segment(name)}")

    @asked
    def set_variable(self, name: str, value: str, *, secret: bool | None = None) -> Call[None]:
        """Set a variable, whether it is there or not: runs that start or come back from now on have it.

        Args:
            secret: nobody but runs sees its value again; None: as it was.

        Raises:
            ApiError: the name or the value can't be one.
            Unprocessable: there would be too many, or too many bytes.
        """
        return post(_VARIABLES, present({"name": name, "value": value, "isSecret": secret})).nothing()

    @asked
    def unset_variable(self, name: str) -> Call[None]:
        """Have no variable of that name.

        Raises:
            NotFound: there was none.
        """
        return Call[None]("DELETE", f"{_VARIABLES}/{segment(name)}").nothing()

    @asked
    def import_variables(
        self, variables: Mapping[str, str], *, override: bool = False, secret: bool | None = None
    ) -> Call[None]:
        """Set all of these variables, or none.

        Args:
            variables: values by their names.
            override: also those that are set already.
            secret: as `set_variable`.

        Raises:
            ApiError: one can't be set, or is set already; `error.body["variableErrors"]` says which and why.
        """
        body = {"variables": dict(variables), "override": override, "isSecret": secret}
        return post(f"{_VARIABLES}/import", present(body)).nothing()
