"""`torpor init`: the first task of a new project. Nothing that exists is overwritten."""

import re
from pathlib import Path
from typing import Annotated

import typer

TASKS = '''\
"""Tasks of this project. Start them with `torpor dev`, then `torpor trigger hello name=Ada --follow`."""

from torpor import logger, task, wait


@task
async def hello(name: str = "world", seconds: float = 20) -> str:
    greeting = f"Hello, {name}."
    logger.info("%s Going to sleep.", greeting)
    await wait.for_(seconds=seconds)  # or hours=6: there is no process while it waits
    return greeting + " Still here."
'''

IGNORED = ".torpor/"

HINTS = """\
[tool.torpor]
# The modules that hold tasks. Without this line: every module here that imports torpor.
tasks = ["tasks"]
"""


def init(
    path: Annotated[Path, typer.Argument(help="The project's directory; made if it isn't there.")] = Path("."),
) -> None:
    """Write an example task, its settings in pyproject.toml and an entry in .gitignore."""
    for line in write_project(path):
        typer.echo(line)
    start = "torpor dev" if path == Path(".") else f"torpor dev {path}"
    typer.echo(f"\nStart it with `{start}`. Then open the link to the dashboard that it prints, and press Test hello;")
    typer.echo("or in another terminal: torpor trigger hello name=Ada --follow")


def write_project(path: Path) -> list[str]:
    """Write what is missing; returns what was done, file by file."""
    path.mkdir(parents=True, exist_ok=True)
    return [_write_tasks(path / "tasks.py"), _ignore_data(path / ".gitignore"), _add_hints(path / "pyproject.toml")]


def _write_tasks(file: Path) -> str:
    if file.exists():
        return f"kept    {file}"
    file.write_text(TASKS, encoding="utf-8")
    return f"written {file}"


def _ignore_data(file: Path) -> str:
    """The data directory holds keys, a database and checkpoint images: none of that belongs in a repository."""
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    if any(line.strip().strip("/") == ".torpor" for line in text.splitlines()):
        return f"kept    {file}"
    separator = "" if not text or text.endswith("\n") else "\n"
    file.write_text(text + separator + IGNORED + "\n", encoding="utf-8")
    return f"{'added   ' + IGNORED + ' to' if text else 'written'} {file}"


def _add_hints(file: Path) -> str:
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    if re.search(r"^\s*\[tool\.torpor\b", text, re.MULTILINE):
        return f"kept    {file}"
    if text and not (file.parent / "tasks.py").read_text(encoding="utf-8").startswith(TASKS[:40]):
        return f"kept    {file}"  # a project with tasks of its own layout: our guess of its modules could be wrong
    separator = "" if not text else "\n" if text.endswith("\n") else "\n\n"
    file.write_text(text + separator + HINTS, encoding="utf-8")
    return f"{'added   [tool.torpor] to' if text else 'written'} {file}"
