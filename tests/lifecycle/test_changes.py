"""A project that changes while its worker runs."""

import os
import signal
from collections.abc import Iterator

import pytest
from stack import Stack, eventually, fresh_database

from torpor.store.embedded import EmbeddedPostgres
from whole_files import put

WHICH = """
from torpor import AbortRun, task, wait

@task
async def which(token_id: str | None = None) -> int:
    if token_id:
        await wait.for_token(token_id)
        raise AbortRun(VERSION)  # the author's line
    return VERSION

VERSION = """
"""Its task returns the number that is written behind it."""

GATED = """
import time
from pathlib import Path

HERE = Path(__file__).parent
(HERE / "begun").touch()
while not (HERE / "go").exists():
    time.sleep(0.01)
"""


@pytest.fixture(scope="module")
def changing(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """On a project with one task, `which`, that is closed to runs."""
    place = tmp_path_factory.mktemp("changing")
    (place / "project").mkdir(mode=0o700)
    (place / "project" / "tasks.py").write_text(WHICH + "1\n")
    made = Stack(place / "stack", fresh_database(postgres, "changing"), place / "project")
    made.start()
    yield made
    made.stop()


def rewrite(stack: Stack, text: str) -> None:
    """At once: a half-written file would be a project without tasks."""
    put(stack.project / "tasks.py", text)


def returned(stack: Stack, token_id: str | None = None) -> int:
    return stack.output(stack.trigger("which", token_id))


def imports(stack: Stack) -> int:
    return stack.worker_log().count("version dev-")


def test_a_changed_project_is_imported_while_runs_of_the_old_one_go_on(changing: Stack) -> None:
    """And tell the lines that they were made of, which are no longer there, and which they were never allowed to read."""
    assert returned(changing) == 1
    token = changing.client.create_token()["id"]
    old = changing.trigger("which", token)
    changing.await_event(old, "run.waiting")
    rewrite(changing, "from torpor import task\nthis is no Python")
    changing.reload_worker()
    eventually(lambda: "SyntaxError" in changing.worker_log(), what="the error is told")
    assert returned(changing) == 1
    before = imports(changing)
    rewrite(changing, "# another line\n" + WHICH + "2\n")
    changing.reload_worker()
    eventually(lambda: imports(changing) > before, what="the new version is imported")
    assert returned(changing) == 2
    changing.client.complete_token(token)
    error = changing.await_end(old)["error"]
    assert error["message"] == "1"
    assert "    raise AbortRun(VERSION)  # the author's line\n" in error["stackTrace"]
    assert f"{changing.project} is closed to runs" in changing.worker_log()


def test_of_two_reloads_the_later_one_wins(changing: Stack) -> None:
    """Also when the import of the first takes longer."""
    before = imports(changing)
    rewrite(changing, GATED + WHICH + "3\n")
    changing.reload_worker()
    eventually((changing.project / "begun").exists, what="it is being imported")
    rewrite(changing, WHICH + "4\n")
    changing.reload_worker()
    (changing.project / "go").touch()
    eventually(lambda: imports(changing) == before + 2, what="both are imported")
    assert {returned(changing) for _ in range(3)} == {4}


def test_a_zygote_that_died_never_imports_changed_files_under_the_old_name(changing: Stack) -> None:
    spare = eventually(lambda: changing.processes(naming="torpor spare"), what="a process is made ahead")
    rewrite(changing, WHICH + "5\n")  # and nobody tells the worker
    zygote = changing.zygote()
    assert zygote is not None
    for pid in (zygote, *spare):
        os.kill(pid, signal.SIGKILL)
    run_id = changing.trigger("which")
    assert changing.output(run_id) == 5
    assert f"version {changing.run(run_id)['version']}: which" in changing.worker_log()
