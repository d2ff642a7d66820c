"""Which modules of a project hold tasks, and what this state of the project is called.

`[tool.torpor] tasks = ["shop.tasks", "shop.reports"]` in pyproject.toml names the modules. Without it every .py file
below PATH that mentions torpor is taken, tests and hidden folders left out.
"""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from torpor.errors import ConfigError

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


def find(path: Path) -> Project:
    """Look at the project at `path`, a directory or a single .py file.

    Raises:
        ConfigError: there is no such path, or pyproject.toml can't be used.
    """
    path = path.resolve()
    if path.is_file():
        return Project(path, path.parent, [path.stem], _digest(path.parent, [path]))
    if not path.is_dir():
        raise ConfigError(f"there is no {path}: name a directory with tasks, or a .py file")
    sources = sorted(file for file in path.rglob("*.py") if not _SKIP.search("/" + str(file.relative_to(path))))
    named = _named_modules(path / "pyproject.toml")
    if named is not None:
        modules = named
    else:
        modules = [_module_name(path, file) for file in sources if _MENTIONS_TORPOR.search(_text(file))]
    return Project(path, path, modules, _digest(path, sources))


def _named_modules(pyproject: Path) -> list[str] | None:
    if not pyproject.is_file():
        return None
    try:
        settings = tomllib.loads(_text(pyproject)).get("tool", {}).get("torpor", {})
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{pyproject} can't be read: {error}") from None
    modules = settings.get("tasks")
    if modules is None:
        return None
    if not isinstance(modules, list) or not all(isinstance(module, str) for module in modules):
        raise ConfigError(f'{pyproject}: [tool.torpor] tasks should be a list of module names, such as ["shop.tasks"]')
    return modules


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
