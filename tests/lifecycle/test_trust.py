"""Code of others: what it may do while it is imported, how its runs start, and what it can't spoil."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stack import Stack, StackMaker, eventually, fresh_database

from torpor.config import Settings
from torpor.store.embedded import EmbeddedPostgres
from torpor.worker import isolation
from whole_files import put

pytestmark = pytest.mark.criu

SEEN = """
import os, sys, threading, uuid
from torpor import task, wait

{extra}

def tried(act):
    try:
        return act()
    except OSError as error:
        return type(error).__name__

STATUS = open("/proc/self/status").read().splitlines()
AT_IMPORT = {{
    "users": [*os.getresuid(), *os.getgroups()],
    "capabilities": [line.split()[1] for line in STATUS if line.startswith("Cap")],
    "filter": [line.split()[1] for line in STATUS if line.startswith(("NoNewPrivs", "Seccomp:"))],
    "shadow": tried(lambda: len(open("/etc/shadow").read())),
    "project": tried(lambda: open(__file__, "a").close()),
    "root": tried(lambda: os.setuid(0)),
    "signal": tried(lambda: os.kill(2, 0)),
    "pid": os.getpid(),
    "secret": os.environ.get("AWS_SECRET_ACCESS_KEY"),
    "named": os.environ.get("SHOP_NAME"),
    "settings": [name for name in os.environ if name.startswith("TORPOR_")],
    "import": uuid.uuid4().hex,
}}

@task
async def seen(token_id: str | None = None):
    before = AT_IMPORT
    if token_id is not None:
        await wait.for_token(token_id)
    return {{
        **AT_IMPORT,
        "is_same": before is AT_IMPORT,
        "threads": threading.active_count(),
        "name": os.environ.get("SHOP_NAME"),
        "place": [os.environ.get(name) for name in ("HOME", "TMPDIR", "USER")],
    }}
"""

THREAD = "threading.Thread(target=threading.Event().wait, daemon=True).start()"

CONTROL = """
import os, socket, struct
from torpor.wire.runner import Imported, TaskManifest, RetryPolicy, from_runner
places = ["/run/torpor/ctl.sock", os.path.dirname(os.environ.get("TMPDIR", "/x/y")) + "/ctl.sock"]
control = socket.socket(socket.AF_UNIX)
control.connect(next(place for place in places if os.path.exists(place)))
def say(body, times=1):
    for _ in range(times):
        control.sendall(struct.pack(">I", len(body)) + body)
def manifest(id, **more):
    return TaskManifest(id, "tasks.py", 1, True, "none", {}, RetryPolicy(), **more)
def imported(*manifests):
    return from_runner.encode(Imported(list(manifests), 1, 1.0))
"""

FOREVER = "\nimport time\ntime.sleep(1000)\n"

HOSTILE = {
    "hangs": ("import time\ntime.sleep(1000)\n", "took longer than 8 s and was ended"),
    "is frozen": ("import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)\n" + FOREVER, "took longer than 8 s"),
    "raises": ("def deep():\n    raise KeyError('of the tenant')\ndeep()\n", "KeyError: 'of the tenant'"),
    "exits": ("import sys\nsys.exit('enough')\n", "SystemExit: enough"),
    "dies": ("import os\nos._exit(3)\n", "ended with exit status 3"),
    "floods the output": (
        "import os\nwhile True:\n    os.write(1, b'x' * 65536)\n",
        r"printed more than 16 MB|signal \d+|File too large",
    ),
    "takes all memory": (
        "much = []\nwhile True:\n    much.append(b'x' * (64 << 20))\n",
        "MemoryError|signal 9.* used up its memory",
    ),
    "forks without end": (
        "import os\nwhile True:\n    os.fork()\n",
        r"took longer than 8 s|BlockingIOError|temporarily unavailable|signal 9",
    ),
    "speaks nonsense": (CONTROL + "say(b'nonsense')" + FOREVER, "ImportTampered: .* can't be understood.*malformed"),
    "announces gigabytes": (
        CONTROL + "control.sendall(b'\\xff' * 4)" + FOREVER,
        "ImportTampered: .* 4294967295 bytes was announced",
    ),
    "tells too much": (
        CONTROL + "say(imported(manifest('x', doc='x' * (20 << 20))))" + FOREVER,
        r"ImportTampered: .* 209\d+ bytes was announced; at most 8388608",
    ),
    "tells twice": (CONTROL + "say(imported(manifest('x')), times=2)" + FOREVER, "said Imported"),
    "says what is not its turn": (
        CONTROL
        + "from torpor.wire.runner import Finished\nsay(from_runner.encode(Finished(True)), times=9999)"
        + FOREVER,
        "said Finished",
    ),
    "nests": (CONTROL + "say(b'[' * 1000000)" + FOREVER, "ImportTampered: .* can't be understood"),
    "names a task badly": (CONTROL + "say(imported(manifest('a\\x1b[31mb')))\ncontrol.close()" + FOREVER, "is no name"),
    "says what no database takes": (
        "from torpor import task\n@task\ndef t():\n    'a\\0b'\n",
        "can.t be stored",
    ),
}
"""What an import does, and what the worker's log must say of it."""

FOREIGN = {"TORPOR_TRUST": "foreign", "TORPOR_ISOLATION": "full"}
VARIABLES = {"AWS_SECRET_ACCESS_KEY": "secret", "SHOP_NAME": "kiosk", "TORPOR_RUN_ENV": "SHOP_*"}


@pytest.fixture(autouse=True, scope="module")
def full_isolation() -> None:
    found = isolation.possible(Settings())
    if found.level != "full":
        pytest.skip(f"foreign code is not run with less than full isolation: {found.told()}")


def project(directory: Path, source: str) -> Path:
    root = directory / "project"
    root.mkdir(exist_ok=True)
    rewrite(root, source)
    return root


def rewrite(root: Path, source: str) -> None:
    """At once: an import of the worker's own accord would take half a file for a project without tasks."""
    put(root / "tasks.py", source)


def seen(extra: str = "") -> str:
    return SEEN.format(extra=extra)


def foreign(make_stack: StackMaker, root: Path, **settings: str) -> Stack:
    return make_stack(root, **FOREIGN, **settings)


def wait_and_return(stack: Stack) -> tuple[str, dict[str, Any]]:
    """A run that was frozen and thawed in its middle, and what it has seen."""
    token = stack.client.create_token()["id"]
    run_id = stack.trigger("seen", token)
    stack.await_event(run_id, "run.suspended")
    stack.client.complete_token(token)
    return run_id, stack.output(run_id)


@pytest.fixture(scope="module")
def plain(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A worker for foreign code that starts no threads."""
    place = tmp_path_factory.mktemp("plain")
    settings = FOREIGN | VARIABLES | {"TORPOR_IMPORT_TIMEOUT_S": "8"}
    made = Stack(place / "stack", fresh_database(postgres, "plain"), project(place, seen()), **settings)
    made.start()
    yield made
    made.stop()


def test_imports_of_foreign_code_have_no_privilege(plain: Stack) -> None:
    """Told by the import itself, not by a run: it has happened before there was one."""
    told = plain.output(plain.trigger("seen"))
    assert min(told["users"]) >= 200_000
    assert {int(each, 16) for each in told["capabilities"]} == {0}
    assert told["filter"] == ["1", "2"]
    assert told["shadow"] in ("FileNotFoundError", "PermissionError")
    assert told["project"] in ("OSError", "PermissionError"), "it can't be written"
    assert told["root"] == "PermissionError"
    assert (told["pid"], told["signal"]) == (1, "ProcessLookupError")


def test_runs_of_foreign_code_are_thawed_from_one_import(plain: Stack) -> None:
    thawed_from_one_import(plain, threads=1)


def test_so_are_runs_of_code_whose_import_starts_a_thread(make_stack: StackMaker, tmp_path: Path) -> None:
    stack = foreign(make_stack, project(tmp_path, seen(THREAD)), **VARIABLES)
    stack.start()
    thawed_from_one_import(stack, threads=2)


def thawed_from_one_import(stack: Stack, threads: int) -> None:
    run_id, first = wait_and_return(stack)
    assert first["is_same"]
    assert first["secret"] is None
    assert first["settings"] == []
    assert first["named"] == first["name"] == "kiosk"
    assert first["place"] == ["/tmp", "/tmp", "run"]
    assert first["threads"] == threads
    others = [stack.output(stack.trigger("seen")) for _ in range(2)]
    assert {each["import"] for each in others} == {first["import"]}
    assert stack.events(run_id, "run.started")[0]["trust"] == "foreign"
    stack.assert_nothing_left()


def test_without_freezing_each_run_imports_for_itself(make_stack: StackMaker, tmp_path: Path) -> None:
    stack = foreign(make_stack, project(tmp_path, seen()), TORPOR_FREEZE="no", AWS_SECRET_ACCESS_KEY="secret")
    stack.start()
    runs = [stack.output(stack.trigger("seen")) for _ in range(3)]
    assert len({each["import"] for each in runs}) == 3
    assert {each["secret"] for each in runs} == {None}


def test_hostile_imports_end_in_a_line_of_the_log_and_the_version_before_goes_on(plain: Stack) -> None:
    stack, root = plain, plain.project
    before = stack.output(stack.trigger("seen"))
    for what, (source, told) in HOSTILE.items():
        read = len(stack.worker_log())
        rewrite(root, "import torpor\n" + source)
        stack.reload_worker()
        eventually(
            lambda told=told, read=read: re.search(told, stack.worker_log()[read:]),
            what=f"it is told that the import {what}",
        )
        for fault in ("attendant failed", "Task exception", "Fatal error", "supervisor.py", "versions.py"):
            assert fault not in stack.worker_log()[read:], what
        if what == "raises":
            assert '  File "' + str(root / "tasks.py") + '", line 3, in deep' in stack.worker_log()[read:]
    assert stack.output(stack.trigger("seen"))["import"] == before["import"]
    rewrite(root, seen("# mended"))
    stack.reload_worker()
    eventually(
        lambda: stack.output(stack.trigger("seen"))["import"] != before["import"], what="the mended version is used"
    )


def test_what_was_imported_with_privileges_is_not_restored_where_code_is_foreign(
    make_stack: StackMaker, tmp_path: Path
) -> None:
    root = project(tmp_path, seen())
    stack = make_stack(root, TORPOR_ISOLATION="auto", TORPOR_UNFIT_PATIENCE_S="0.5")
    stack.start()
    eventually(lambda: "warm image of dev-" in stack.worker_log(), what="the version is warm")
    token = stack.client.create_token()["id"]
    run_id = stack.trigger("seen", token)
    stack.await_event(run_id, "run.suspended")
    first = stack.output(stack.trigger("seen"))
    stack.stop_worker()
    (root / "pyproject.toml").write_text('[tool.torpor]\ntrust = "foreign"\n')
    stack.start_worker()
    stack.client.complete_token(token)
    again = stack.output(run_id)
    assert again["import"] != first["import"], "neither its image nor the warm one was used"
    assert any("imported with privileges" in str(event) for event in stack.client.story(run_id))
    assert "but not of our environment and trust" in stack.worker_log()


def test_where_runs_cannot_be_kept_apart_foreign_code_is_refused(make_stack: StackMaker, tmp_path: Path) -> None:
    stack = make_stack(project(tmp_path, seen()), TORPOR_TRUST="foreign", TORPOR_ISOLATION="off")
    stack.start_server()
    stack.launch_worker()
    eventually(lambda: "can't be run here" in stack.worker_log(), what="it says why it does not start")
    assert "TORPOR_ISOLATION is off" in stack.worker_log()
