"""What the documentation says holds: names are there, defaults are right, code compiles, and the README's task runs."""

import ast
import asyncio
import doctest
import importlib
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer.main
from stack import Stack, eventually, fresh_database

import torpor
from scratch_postgres import ScratchPostgres
from torpor.cli.main import app as command_line
from torpor.config import Settings
from torpor.engine.states import ENDS
from torpor.server.access import ROUTES
from torpor.server.described import markdown
from torpor.server.inventory import limits_of
from torpor.wire.presets import BUILT_IN, GB

ROOT = Path(__file__).resolve().parents[1]
SRC = ROOT / "src"
PAGES = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
README = PAGES[0].read_text(encoding="utf-8")


def scope_types() -> set[tuple[str, str]]:
    """`(action, type)` of every scope that a route asks for."""
    asked = (scope.split(":") for access in ROUTES.values() for scope in access.scopes)
    return {(action, kind) for action, kind, *_ in asked}


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def python_blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def table_rows(text: str) -> list[list[str]]:
    """The cells of every row of every table."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def sections(text: str) -> dict[str, str]:
    """Heading -> what stands below it, up to the next heading of any level."""
    parts = re.split(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


# -- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", PAGES, ids=lambda file: file.name)
def test_tables_are_tables(file: Path) -> None:
    """Folded into the lines of a paragraph, one can't be read."""
    assert [line for line in file.read_text(encoding="utf-8").splitlines() if "|---|" in line and line[0] != "|"] == []


def test_the_table_of_scopes_has_every_type_that_a_route_asks_for() -> None:
    rows = [row for row in table_rows(sections(page("keys.md"))["Scoped keys"]) if "`" in row[0]]
    told = {
        (action, kind)
        for row in rows
        for action in re.findall(r"`(\w+)`", row[0])
        for kind in re.findall(r"`(\w+)`", row[1])
    }
    assert scope_types() - told == set()


@pytest.mark.parametrize("file", PAGES, ids=lambda file: file.name)
def test_every_file_that_is_named_is_there(file: Path) -> None:
    named = re.findall(r"`((?:src|tests|bench|bin|docs|examples)/[\w./-]+)`", file.read_text(encoding="utf-8"))
    assert not [name for name in named if not (ROOT / name).exists()]
    assert named or file.name != "ARCHITECTURE.md"


@pytest.mark.parametrize("file", PAGES, ids=lambda file: file.name)
def test_every_link_leads_somewhere(file: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", file.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        linked = (file.parent / path).resolve() if path else file
        assert linked.exists(), target
        if anchor:
            assert anchor in map(slug, sections(linked.read_text(encoding="utf-8"))), target


def slug(heading: str) -> str:
    """A heading's anchor."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def test_the_sizes_of_machine_are_those_there_are() -> None:
    told = [row for row in table_rows(page("machines.md")) if len(row) == 5 and row[0].startswith("`")]
    assert [tuple(row) for row in told] == [
        (f"`{one.name}`", f"{one.cpu:g}", f"{one.memory_bytes / GB:g} GB", f"{one.disk_bytes / GB:g} GB", str(one.pids))
        for one in BUILT_IN.values()
    ]


def test_every_setting_is_told_with_its_default() -> None:
    told = {row[0].strip("`"): row[1].strip("`") for row in table_rows(page("settings.md")) if len(row) == 4}
    told = {name: default for name, default in told.items() if name.startswith("TORPOR_")}
    assert told == {"TORPOR_" + field.name.upper(): written(field.default) for field in fields(Settings)}


def written(default: object) -> str:
    match default:
        case None:
            return "none"
        case bool():
            return "yes" if default else "no"
        case _:
            return str(default)


def commands() -> dict[str, set[str]]:
    """Every command of the command line, and its long options."""
    found: dict[str, set[str]] = {}

    def walk(command: Any, name: str) -> None:
        options = {option for each in command.params for option in each.opts if option.startswith("--")}
        found[name] = options - {"--help"}
        for sub in getattr(command, "commands", {}).values():
            walk(sub, f"{name} {sub.name}")

    walk(typer.main.get_command(command_line), "torpor")
    return found


def test_every_command_and_option_is_told() -> None:
    told = sections(page("cli.md"))
    real = commands()
    for option in real.pop("torpor"):
        assert f"`{option}`" in told["Command line"], option
    described = {
        heading: set(re.findall(r"^\| `(--[\w-]+)", text, re.MULTILINE))
        for heading, text in told.items()
        if heading.startswith("torpor ")
    }
    assert described == real


def test_every_route_is_told() -> None:
    told = re.findall(r"^### (?:GET|POST|PUT|DELETE|PATCH) /\S+$", page("api.md"), re.MULTILINE)
    assert sorted(told) == sorted(
        f"### {name}" for name, line in ROUTES.items() if "/worker/" not in name and not line.is_page
    )


def test_the_reference_is_what_the_routes_are_described_as() -> None:
    assert markdown.written(page("api.md")) == page("api.md"), "run bin/api-docs"


def test_every_limit_is_told_with_its_default() -> None:
    rows = [row for row in table_rows(sections(page("api.md"))["Limits"]) if len(row) == 4][2:]
    assert {row[0].strip("`"): float(row[1]) if row[1] != "null" else None for row in rows} == limits_of(
        Settings(), None
    )
    for setting in re.findall(r"`(TORPOR_\w+)`", " ".join(row[3] for row in rows)):
        assert setting.removeprefix("TORPOR_").lower() in {field.name for field in fields(Settings)}


def test_every_event_of_a_story_is_told() -> None:
    recorded = {f"run.{state}" for state in ENDS}
    for file in [*(SRC / "torpor" / "engine").glob("*.py"), *(SRC / "torpor" / "worker").glob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and re.fullmatch(r"(run|token|batch)\.[a-z_]+", str(node.value)):
                recorded.add(str(node.value))
    story = sections(page("waits-and-checkpoints.md"))["The story"]
    told = {kind for row in table_rows(story) for kind in re.findall(r"`((?:run|token|batch)\.\w+)`", row[0])}
    assert told == recorded


# -- code -------------------------------------------------------------------------------------------------------------


def test_code_in_pages_compiles_and_uses_what_there_is(tmp_path: Path) -> None:
    """By the type checker, which knows every name and argument of ours."""
    for file in PAGES:
        for number, block in enumerate(python_blocks(file.read_text(encoding="utf-8"))):
            name = f"{file.stem.replace('-', '_')}_{number}.py"
            compile(block, name, "exec")
            (tmp_path / name).write_text(block, encoding="utf-8")
    assert len(list(tmp_path.iterdir())) > 10
    checker = Path(sys.executable).with_name("basedpyright")
    if not checker.exists():
        pytest.skip("basedpyright is not installed")
    (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "standard"}')
    command = [str(checker), "--outputjson", "--pythonpath", sys.executable]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, cwd=tmp_path).stdout)
    assert [one for one in told["generalDiagnostics"] if one["severity"] == "error"] == []


@pytest.mark.parametrize("name", torpor.__all__)
def test_every_public_name_has_an_example(name: str) -> None:
    documented = inspect.getdoc(getattr(torpor, name)) or ""
    assert ">>> " in documented or re.search(r"^Example.*:\n(\n)?    ", documented, re.MULTILINE), name


EXAMPLES = [
    ".".join(file.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__")
    for file in sorted(SRC.rglob("*.py"))
    if ">>> " in file.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("module", EXAMPLES)
def test_examples_in_docstrings_run(module: str) -> None:
    assert doctest.testmod(importlib.import_module(module)).failed == 0


# -- the README's task, for real --------------------------------------------------------------------------------------

CLAIMS = '''
"""What the pages say of a freeze, and no other test shows."""

import asyncio
import os
import signal
import socket

from torpor import Retry, task, wait


@task(retry=Retry(max_attempts=1))
async def claims(port: int) -> dict[str, object]:
    connection = socket.create_connection(("127.0.0.1", port))
    timed_out = False
    try:
        async with asyncio.timeout(1.5):  # counts wall time, also while the run is frozen
            await wait.for_(seconds=30)
    except TimeoutError:
        timed_out = True
    os.kill(os.getpid(), signal.SIGKILL)  # ignored: it is process 1
    return {
        "the connection ended": connection.recv(1) == b"",
        "timed out": timed_out,
        "pid": os.getpid(),
        "our variables": [name for name in os.environ if name.startswith(("TORPOR_", "TRIGGER_"))],
        "files": os.listdir("."),
    }
'''


@pytest.fixture(scope="module")
def documented(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack that serves the README's tasks, as somebody would who has copied them into files."""
    project = tmp_path_factory.mktemp("project")
    tasks, sync_tasks, *_ = python_blocks(README)
    (project / "tasks.py").write_text(tasks, encoding="utf-8")
    (project / "sync_tasks.py").write_text(sync_tasks, encoding="utf-8")
    (project / "claims.py").write_text(CLAIMS, encoding="utf-8")
    postgres = ScratchPostgres(tmp_path_factory.mktemp("postgres"))
    asyncio.run(postgres.start())
    made = Stack(tmp_path_factory.mktemp("docs") / "stack", fresh_database(postgres, "docs"), project)
    try:
        made.start()
        yield made
    finally:
        made.stop()
        asyncio.run(postgres.destroy())


@pytest.mark.criu
def test_the_readmes_task_sleeps_is_approved_and_returns_what_it_held(documented: Stack) -> None:
    run_id = documented.trigger("onboard", {"name": "Ada", "days": 3 / 86400})
    documented.await_event(run_id, "run.suspended")
    eventually(lambda: documented.process_of(run_id) is None, what="its process is gone")
    assert documented.status(run_id) == "WAITING"
    documented.await_event(run_id, "run.suspended", count=2)
    [token] = [each for each in documented.client.tokens(status="WAITING") if run_id in each["runIds"]]
    assert token["title"] == "Send Ada a cake?"
    documented.client.approve(token["id"], by="Grace")
    assert documented.output(run_id) == ["Ada gets a letter", "Ada gets a reminder", "Ada gets a cake from Grace"]
    assert documented.kinds(run_id).count("run.resumed") == 2
    [line] = documented.client.logs(run_id)
    assert (line["message"], line["attributes"]) == ("done with Ada", {"approved": True})


@pytest.mark.criu
def test_the_readmes_blocking_task_sleeps_too(documented: Stack) -> None:
    run_id = documented.trigger("remind", {"name": "Ada", "hours": 2 / 3600})
    assert documented.output(run_id) == "Hello again, Ada"
    assert "run.resumed" in documented.kinds(run_id)


@pytest.mark.criu
def test_what_a_freeze_does_beside_is_as_the_pages_say(documented: Stack) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        run_id = documented.trigger("claims", listener.getsockname()[1])
        peer, _ = listener.accept()
        with peer:
            peer.settimeout(30)
            assert peer.recv(1) == b"", "the peer sees the end"
            assert documented.output(run_id) == {
                "the connection ended": True,
                "timed out": True,
                "pid": 1,
                "our variables": [],
                "files": [],
            }
    assert "run.resumed" in documented.kinds(run_id)
