"""The source tree itself: imports point one way, a run loads little, and nothing lies around."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SRC = ROOT / "src"

FLOOR = {"clock", "config", "cron", "dotenv", "durations", "errors", "figures", "ids", "objects", "words"}
"""Modules directly below the package that everybody may use. They use each other at most."""

MAY_IMPORT = {
    "wire": set[str](),
    "images": FLOOR | {"wire"},
    "store": FLOOR,
    "engine": FLOOR | {"store", "wire"},
    "server": FLOOR | {"engine", "store", "wire", "dashboard"},
    "dashboard": FLOOR | {"engine", "server", "store", "wire"},
    "sdk": FLOOR | {"wire"},
    "worker": FLOOR | {"images", "sdk", "wire"},
    "cli": FLOOR | {"engine", "images", "sdk", "server", "store", "wire", "worker"},
    "sync": FLOOR | {"sdk"},
    "torpor": FLOOR | {"sdk"},
    "__main__": {"cli"},
    **dict.fromkeys(FLOOR, FLOOR),
}
"""The server has the dashboard's routes, and the dashboard what the server's handlers share.
Server and command line -> engine -> store; sdk -> wire; worker -> sdk, wire: a worker never sees the database."""

STARTED_BY_NAME = {"torpor.__main__", "torpor.cli.main", "torpor.server.described.markdown", "torpor.sync"}
"""What nobody imports, since people do, or the `torpor` command, or `bin/api-docs`."""

HEAVY = ("fastapi", "uvicorn", "httpx2", "asyncpg", "typer", "rich", "jsonschema")


def modules() -> dict[str, ast.Module]:
    """Every module of the package, parsed, by its name."""
    found: dict[str, ast.Module] = {}
    for file in sorted(SRC.rglob("*.py")):
        name = ".".join(file.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__")
        found[name] = ast.parse(file.read_text(encoding="utf-8"), str(file))
    return found


def imported(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything of ours that a module imports, inside functions and for types as well."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                dotted = [name.name for name in names]
            case ast.ImportFrom(module=module, names=names, level=level):
                assert level == 0, f"line {node.lineno}: a relative import"
                dotted = [f"{module}.{name.name}" for name in names]
            case _:
                continue
        yield from ((node.lineno, name) for name in dotted if name.split(".")[0] == "torpor")


def part(name: str) -> str:
    """The part of the package that a name belongs to: `engine` of `torpor.engine.wait`."""
    return (*name.split("."), "torpor")[1]


@pytest.fixture(scope="module")
def package() -> dict[str, ast.Module]:
    return modules()


def test_imports_point_one_way(package: dict[str, ast.Module]) -> None:
    wrong = [
        f"{name}, line {line}: {other}"
        for name, tree in package.items()
        for line, other in imported(tree)
        if part(other) not in MAY_IMPORT[part(name)] | {part(name)}
    ]
    assert not wrong


def test_every_module_is_used(package: dict[str, ast.Module]) -> None:
    """By an import, or by a name in a text: `python -m` and lazy imports name modules so."""
    used = set(STARTED_BY_NAME)
    for name, tree in package.items():
        named = {other for _, other in imported(tree)}
        named |= {
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        used |= (named | {each.rpartition(".")[0] for each in named}) - {name}
    # A package is there for its modules.
    packages = {name.rpartition(".")[0] for name in package}
    assert not package.keys() - used - packages


@pytest.mark.parametrize("module", ["torpor", "torpor.sdk.session"])
def test_a_run_loads_no_server_and_no_command_line(module: str) -> None:
    script = f"import sys, {module}; print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    """All files of the repository."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def texts(files: list[Path]) -> Iterator[tuple[Path, str]]:
    for file in files:
        try:
            yield file, file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # not a text


def test_no_file_is_named_for_nothing(tracked: list[Path]) -> None:
    assert not [file for file in tracked if file.stem in ("utils", "util", "helpers", "common", "misc")]


def test_nothing_is_left_to_be_fixed(tracked: list[Path]) -> None:
    note = "FIX" + "ME"
    assert not [file for file, text in texts(tracked) if note in text]


def test_what_users_write_stays_text(tracked: list[Path]) -> None:
    """Templates escape all of it, and no script of ours makes markup or code of a text."""
    forbidden = {
        ".html": r"\|\s*safe\b|autoescape|hx-on|javascript:",
        ".py": r"\bMarkup\(|autoescape=False|\|\s*safe\b",
        ".js": r"\b(inner|outer)HTML\b|insertAdjacentHTML|document\.write|\beval\(|new Function|createContextualFragment",
    }
    files = [file for file in tracked if SRC in file.parents and not file.name.endswith(".min.js")]
    looked_at = [file for file in files if file.suffix in forbidden]
    assert {file.suffix for file in looked_at} == set(forbidden)
    found = [
        (file.name, each[0]) for file, text in texts(looked_at) for each in re.finditer(forbidden[file.suffix], text)
    ]
    assert not found


def test_locks_and_settings_name_no_index(tracked: list[Path]) -> None:
    """Everything installs from whichever index the machine has: no lock and no setting says where from."""
    locks = [
        file for file in tracked if file.parent.name == "requirements" or file.name.endswith((".lock", "-lock.json"))
    ]
    assert locks
    for file, text in texts(locks):
        assert "://" not in text, file
        assert not re.search(r"^--?(?!hash)\w", text, re.MULTILINE), file
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert "://" not in pyproject
    assert not re.search(r"index|find-links", pyproject)


def test_no_file_names_a_path_of_one_machine(tracked: list[Path]) -> None:
    checkout = "/" + "work" + "/"
    assert not [file for file, text in texts(tracked) if checkout in text]
