"""How far a worker trusts the code of its project, and what follows for the processes that it makes.

    own        one team's own code. The zygote imports it, with the worker's privileges, and forks runs in milliseconds
    foreign    somebody else's code. No line of it runs with a privilege, imports included: the zygote stays bare, the
               first runner imports in its room, and runs are thawed from its image

The stricter of `TORPOR_TRUST` and `[tool.torpor] trust` holds: an operator can't be talked out of it by a project, and a
project can ask for more than its operator does.

What is installed beside the worker, in its own Python, runs in the worker itself, so it must be the operator's. All else is
kept from the zygote: it starts without the working directory, without `PYTHON…` variables, without the start-up code of
site-packages (`.pth` files, `sitecustomize`, `usercustomize`), and finds Torpor's own packages only after the standard library.
"""

import os
import sys
from collections.abc import Iterable, Mapping
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec
import setproctitle

from torpor.config import Settings
from torpor.errors import ConfigError
from torpor.worker import cpu
from torpor.worker.isolation import Isolation

HIDDEN = ("TORPOR_", "TRIGGER_")
"""Our settings and keys: no user code has them."""
PASSED_ON = ("PATH", "LANG", "LANGUAGE", "LC_*", "TZ", "TERM", "SSL_CERT_FILE", "SSL_CERT_DIR", "OPENBLAS_NUM_THREADS")
"""What foreign code has of the worker's variables. None of them tells a secret."""
_OWN_PLACES = (Path(__file__).parents[2], *(Path(str(each.__file__)).parents[1] for each in (msgspec, setproctitle)))
"""Where a bare zygote finds what it imports outside of the standard library; msgspec's own needs are beside it."""


class Trust(StrEnum):
    OWN = "own"
    FOREIGN = "foreign"


def read(text: object, where: str) -> Trust:
    """A level of trust as somebody wrote it.

    Args:
        where: what it was found in, for the message.

    Raises:
        ConfigError: it is none.
    """
    if isinstance(text, str) and text in tuple(Trust):
        return Trust(text)
    raise ConfigError(f'{where} is {text!r}: it should be "own" (your own code) or "foreign" (code of others)')


def stricter(*levels: Trust) -> Trust:
    """The one that holds where several are asked for."""
    return Trust.FOREIGN if Trust.FOREIGN in levels else Trust.OWN


def why_refused(trust: Trust, isolation: Isolation, project: Path) -> str | None:
    """Why nothing of the project may run here: less would be kept than `foreign` promises. None: it may."""
    if trust is Trust.OWN:
        return None
    if isolation.level != "full":
        return f"its code is foreign, and runs can't be kept apart as that needs: {isolation.told()}"
    return why_exposed(project)


def why_exposed(project: Path) -> str | None:
    """How the project's files could get into the worker itself, which runs with all privileges; None: they can't.

    Foreign code must not lie where the worker's own Python looks for modules, nor hold that Python.
    """
    root = project.resolve()
    root = root if root.is_dir() else root.parent
    for entry in (sys.prefix, os.path.dirname(sys.executable), *sys.path):
        place = Path(entry or os.getcwd()).resolve()
        if place == root or root in place.parents:
            return (
                f"the worker itself would import from {place}, which is the project's: "
                "start it with `torpor worker` (not `python -m torpor`), from a Python outside of the project"
            )
    return None


def environment_of_runs(trust: Trust, settings: Settings, ours: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables that user code has: under `own` the worker's without our own settings and secrets; under `foreign` only
    those that tell nothing, and those that `TORPOR_RUN_ENV` names. With what holds it to the baseline of the CPU.
    """
    ours = os.environ if ours is None else ours
    theirs = {name: value for name, value in ours.items() if not name.startswith(HIDDEN)}
    if trust is Trust.FOREIGN:
        theirs = _matching(theirs, (*PASSED_ON, *(settings.run_env or "").replace(",", " ").split()))
    return theirs | cpu.environment(settings.cpu_baseline, theirs)


def with_variables(ours: Mapping[str, str], variables: Mapping[str, str], settings: Settings) -> dict[str, str]:
    """What `environment_of_runs` gives, and over it the environment's variables, which the server has. But what holds code to
    the baseline of the CPU stays.
    """
    theirs = {**ours, **variables}
    return theirs | cpu.environment(settings.cpu_baseline, theirs)


def environment_of_bare_zygote(environment: Mapping[str, str]) -> dict[str, str]:
    """Of the variables of foreign code those that matter to an interpreter and C libraries when they start, and can't do harm.

    What `TORPOR_RUN_ENV` names is not among them: it could be PYTHONPATH or LD_PRELOAD, with a path of the project's. And the
    variables of the environment are whose the code is, so `environment` must be the worker's own.
    """
    return _matching(environment, (*PASSED_ON, *cpu.VARIABLES))


def bare_command(arguments: Iterable[str]) -> list[str]:
    """Start a zygote in which nothing is imported but the standard library and Torpor's own packages."""
    places = list(dict.fromkeys(map(str, _OWN_PLACES)))
    start = f"import sys; sys.path += {places!r}; from torpor.worker import zygote; zygote.main()"
    return [sys.executable, "-I", "-S", "-c", start, *arguments]


def _matching(variables: Mapping[str, str], patterns: tuple[str, ...]) -> dict[str, str]:
    return {
        name: value
        for name, value in variables.items()
        if any(fnmatchcase(name, pattern) for pattern in patterns) and not name.startswith(HIDDEN)
    }
