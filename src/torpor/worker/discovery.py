"""Which modules of a project hold tasks, and what this state of the project is called.

`[tool.torpor] tasks = ["shop.tasks", "shop.reports"]` in pyproject.toml names the modules. Without it every .py file
below PATH that mentions torpor is taken, tests and hidden folders left out.

`machine = "small-2x"` beside it is the preset of tasks that name none. `trust = "foreign"` asks that no line of this project
runs with a privilege, `network = "private"` that its runs reach no more than that. It is all read here, in the worker, so
nothing of the project is carried out, and nothing but regular files is opened.
"""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from torpor.errors import ConfigError
from torpor.wire.networks import KINDS
from torpor.worker import trust
from torpor.worker.trust import Trust

_SKIP = re.compile(
    r"(^|/)(\.[^/]+|__pycache__|node_modules|tests?|venv|site-packages|build|dist)/|(^|/)(test_[^/]*|conftest|setup)\.py$"
)
_MENTIONS_TORPOR = re.compile(r"^\s*(from|import)\s+torpor\b", re.MULTILINE)


@dataclass(frozen=True)
class Project:
    """A project as found at `path`: `root` goes on sys.path, `modules` are imported, `version` names this state of its files."""

    path: Path
    root: Path
    modules: list[str]
    version: str
    trust: Trust = Trust.OWN
    """What it asks for itself; its worker may be stricter."""
    network: str | None = None
    """What its runs reach at most; None: it leaves that to its worker."""
    machine: str | None = None
    """The preset of its tasks that name none themselves."""


def find(path: Path) -> Project:
    """Look at the project at `path`, a directory or a single .py file.

    Raises:
        ConfigError: there is no such path, or pyproject.toml can't be used.
    """
    path = path.resolve()
    if path.is_file():
        asked = asked_of(path)
        digest = _digest(path.parent, [path])
        return Project(path, path.parent, [path.stem], digest, asked.trust, asked.network, asked.machine)
    if not path.is_dir():
        raise ConfigError(f"there is no {path}: name a directory with tasks, or a .py file")
    sources = sorted(file for file in path.rglob("*.py") if not _SKIP.search("/" + str(file.relative_to(path))))
    sources = [file for file in sources if file.is_file()]  # a pipe by such a name would never come to its end
    settings = _settings(path / "pyproject.toml")
    named = settings.modules
    if named is None:
        named = [_module_name(path, file) for file in sources if _MENTIONS_TORPOR.search(_text(file))]
    return Project(path, path, named, _digest(path, sources), settings.trust, settings.network, settings.machine)


@dataclass(frozen=True)
class Asked:
    """`[tool.torpor]` of a project."""

    modules: list[str] | None = None
    trust: Trust = Trust.OWN
    network: str | None = None
    machine: str | None = None


def asked_of(path: Path) -> Asked:
    """What the project at `path` asks for. Of one that can't be read nothing is imported either."""
    try:
        return _settings((path.parent if path.is_file() else path) / "pyproject.toml")
    except ConfigError:
        return Asked()


def _settings(pyproject: Path) -> Asked:
    if not pyproject.is_file():
        return Asked()
    try:
        settings = tomllib.loads(_text(pyproject)).get("tool", {}).get("torpor", {})
    except (tomllib.TOMLDecodeError, AttributeError) as error:
        raise ConfigError(f"{pyproject} can't be read: {error}") from None
    if not isinstance(settings, dict):
        raise ConfigError(f"{pyproject}: [tool.torpor] should be a table")
    modules = settings.get("tasks")
    if modules is not None and (
        not isinstance(modules, list) or not all(isinstance(module, str) for module in modules)
    ):
        raise ConfigError(f'{pyproject}: [tool.torpor] tasks should be a list of module names, such as ["shop.tasks"]')
    network = settings.get("network")
    if network is not None and network not in KINDS:
        raise ConfigError(f"{pyproject}: [tool.torpor] network is {network!r}: it should be {' or '.join(KINDS)}")
    machine = settings.get("machine")
    if machine is not None and (not isinstance(machine, str) or not machine):
        raise ConfigError(f'{pyproject}: [tool.torpor] machine should be the name of a preset, such as "small-1x"')
    asked_trust = trust.read(settings.get("trust", "own"), f"{pyproject}: [tool.torpor] trust")
    return Asked(modules, asked_trust, network, machine)


def _module_name(root: Path, file: Path) -> str:
    parts = file.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace")


def _digest(root: Path, sources: list[Path]) -> str:
    """Equal files, equal version: a worker that starts again takes up the version that it had."""
    digest = blake3()
    for file in sources:
        digest.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes() + b"\0")
    return "dev-" + digest.hexdigest()[:12]
