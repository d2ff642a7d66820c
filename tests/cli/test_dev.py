"""`torpor dev` as people use it: real database, server and worker; services killed; a Ctrl-C that leaves nothing."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from torpor.cli.project import DevState, read_state
from torpor.errors import TorporError
from torpor.sdk.client import Client
from whole_files import put

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc"),
    pytest.mark.timeout(400),
]

HELLO = Path(__file__).resolve().parents[2] / "examples" / "hello"
QUESTIONS = """
from torpor import task, wait


@task
async def ask(question: str) -> str:
    answer = await wait.for_approval(question)
    return f"{bool(answer)}, says {answer.by}: {answer.comment}"
"""
PATIENCE_S = 120.0
T = TypeVar("T")


def eventually(look: Callable[[], T | None], what: str) -> T:
    """The first true answer; a fact that never comes is told by its name."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            found = look()
        except TorporError:
            found = None
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"never came: {what}")


class RunningDev:
    """A `torpor dev` on a copy of the hello example."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.project = directory / "project"
        self.data_dir = self.project / ".torpor"
        self.log = directory / "dev.log"
        shutil.copytree(HELLO, self.project, ignore=shutil.ignore_patterns(".torpor", "__pycache__"))
        (self.project / "questions.py").write_text(QUESTIONS)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("TORPOR_", "TRIGGER_"))}
        self.environment = kept | {
            "XDG_STATE_HOME": str(directory / "state"),
            "TORPOR_FREEZE": "no",  # that has tests of its own; here it would only cost the look for a CRIU
            "TORPOR_DRAIN_S": "0.5",  # for runs that can't be frozen it is waited in vain
            "NO_COLOR": "1",
        }
        self.process = self.start()

    def start(self) -> "subprocess.Popen[bytes]":
        with self.log.open("ab") as output:
            return subprocess.Popen(
                self.command("dev", str(self.project), "--port", "0"),
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-P", "-m", "torpor", *arguments]

    def torpor(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """A `torpor` command in the project, told nothing of the server."""
        return subprocess.run(
            self.command(*arguments),
            cwd=self.project,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )

    def state(self) -> DevState | None:
        return read_state(self.data_dir)

    def pid(self, service: str) -> int | None:
        state = self.state()
        return state.pids.get(service) if state else None

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def client(self) -> Client:
        state = self.state()
        assert state is not None
        return Client(state.url, state.secret_key)

    def version(self) -> str | None:
        with self.client() as client:
            tasks = client.tasks()
        return str(tasks[0]["version"]) if tasks else None

    def sleeper(self) -> str:
        """A run that waits for an hour, and is held."""
        run_id = self.torpor("trigger", "hello", "seconds=3600").stdout.strip()
        with self.client() as client:
            eventually(lambda: "run.held" in [event["kind"] for event in client.story(run_id)], "a run that is held")
        return run_id

    def left_over(self) -> list[str]:
        """Processes that have our directory on their command line."""
        return [title for title in titles() if str(self.directory) in title]


def titles() -> list[str]:
    """The command lines of all processes."""
    found: list[str] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it ended meanwhile
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return found


@pytest.fixture(scope="module")
def dev() -> Iterator[RunningDev]:
    directory = Path(tempfile.mkdtemp(prefix="torpor-test-dev-"))
    directory.chmod(0o755)  # the database's own user must be able to pass
    running = RunningDev(directory)
    try:
        eventually(lambda: running.pid("server") and running.pid("worker"), "server and worker")
        eventually(running.version, "a version with tasks")
        yield running
    finally:
        print(running.text())  # shown when a test failed
        if running.process.poll() is None:
            running.process.terminate()
            running.process.wait(PATIENCE_S)
        shutil.rmtree(directory, ignore_errors=True)


def test_a_run_is_followed_to_its_end_from_the_project_alone(dev: RunningDev) -> None:
    done = dev.torpor("trigger", "hello", "name=Ada", "seconds=0.2", "--follow")
    assert done.returncode == 0, done.stderr
    for told in ("triggered", "started", "Hello, Ada.", "waiting", "Still here, Ada.", "completed"):
        assert told in done.stdout
    assert done.stdout.index("Still here") < done.stdout.index("completed"), "the end is told last"
    eventually(lambda: "Still here, Ada." in dev.text(), "the same story in the terminal of torpor dev")


def test_a_run_that_ends_badly_has_exit_code_1_and_an_unknown_task_3(dev: RunningDev) -> None:
    misfit = dev.torpor("trigger", "hello", "seconds=soon")
    assert misfit.returncode == 3
    assert "seconds" in misfit.stderr
    pairs = dev.torpor("trigger", "ask", "question=Why?")
    assert pairs.returncode == 3
    assert "one parameter" in pairs.stderr
    unknown = dev.torpor("trigger", "helo")
    assert unknown.returncode == 3
    assert "Did you mean hello?" in unknown.stderr

    wrong = dev.torpor("runs", "list", TORPOR_SECRET_KEY="tr_dev_wrong")
    assert wrong.returncode == 3
    assert "does not accept the secret key from TORPOR_SECRET_KEY" in wrong.stderr

    run_id = dev.sleeper()
    following = subprocess.Popen(
        dev.command("runs", "logs", run_id, "--follow"),
        cwd=dev.project,
        env=dev.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert run_id in dev.torpor("runs", "list", "--status", "waiting").stdout
    assert dev.torpor("runs", "cancel", run_id).returncode == 0
    out, _ = following.communicate(timeout=PATIENCE_S)
    assert "Hello, world." in out
    shown = dev.torpor("runs", "show", run_id).stdout
    assert "CANCELED" in shown
    assert "held in memory" in shown


def test_services_that_are_killed_come_back(dev: RunningDev) -> None:
    for service in ("server", "worker"):
        killed = dev.pid(service)
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        eventually(lambda killed=killed, service=service: dev.pid(service) not in (None, killed), f"a new {service}")
        assert f"the {service} was killed (SIGKILL)" in dev.text()
    eventually(dev.version, "an answer of the server")
    done = dev.torpor("trigger", "hello", "seconds=0.1", "--follow")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_database_that_is_killed_comes_back(dev: RunningDev) -> None:
    pid_file = next(dev.data_dir.rglob("postmaster.pid"))
    killed = pid_in(pid_file)
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: "the database died" in dev.text(), "the notice")
    eventually(lambda: pid_in(pid_file) not in (None, killed), "a new postmaster")
    eventually(dev.version, "an answer of the server")
    done = dev.torpor("trigger", "hello", "seconds=0.1", "--follow")
    assert done.returncode == 0, done.stdout + done.stderr


def pid_in(file: Path) -> int | None:
    """None: Postgres has not made it yet, or has made it and not written it."""
    try:
        words = file.read_text().split()
    except FileNotFoundError:
        return None
    return int(words[0]) if words else None


def test_a_changed_file_is_a_new_version_and_a_broken_one_tells_its_traceback(dev: RunningDev) -> None:
    tasks, before = dev.project / "tasks.py", eventually(dev.version, "a version")
    good = tasks.read_text()
    put(tasks, good.replace("Still here", "Here again"))
    eventually(lambda: dev.version() != before, "a new version")
    assert "Here again" in dev.torpor("trigger", "hello", "seconds=0.1", "--follow").stdout
    put(tasks, good + "\nundefined_name\n")
    eventually(lambda: "NameError: name 'undefined_name' is not defined" in dev.text(), "the traceback")
    put(tasks, good)
    eventually(lambda: dev.version() == before, "the first version again")


def test_a_second_dev_on_the_same_data_is_refused(dev: RunningDev) -> None:
    second = dev.torpor("dev", ".", "--port", "0")
    assert second.returncode == 2
    assert "another `torpor dev` already runs" in second.stderr


def test_approvals_are_answered_by_run_by_token_or_by_being_the_only_one(dev: RunningDev) -> None:
    def open_question(question: str) -> str:
        run_id = dev.torpor("trigger", "ask", f'"{question}"').stdout.strip()
        with dev.client() as client:
            eventually(
                lambda: any(run_id in each["runIds"] for each in client.tokens(status="WAITING")), "the question"
            )
        return run_id

    def output(run_id: str) -> str | None:
        with dev.client() as client:
            return client.run(run_id).get("output")

    first = open_question("Publish?")
    assert first in dev.torpor("tokens", "list", "--status", "waiting").stdout
    assert "torpor approve " + first in dev.torpor("runs", "show", first).stdout
    approved = dev.torpor("approve", "--by", "Ada", "--comment", "fine")
    assert approved.stdout == "approved: Publish?\n"
    assert eventually(lambda: output(first), "its output") == "True, says Ada: fine"

    second, third = open_question("Delete?"), open_question("Send?")
    unclear = dev.torpor("approve")
    assert unclear.returncode == 2
    assert second in unclear.stderr
    assert third in unclear.stderr
    dev.torpor("approve", second, "--reject", "--by", "Ada")
    assert (eventually(lambda: output(second), "its output") or "").startswith("False, says Ada")

    (token,) = [line.split()[0] for line in unclear.stderr.splitlines() if third in line]
    assert dev.torpor("approve", token).returncode == 0
    eventually(lambda: output(third), "its output")
    late = dev.torpor("approve", token, "--reject")
    assert late.returncode == 3
    assert "answered before" in late.stdout
    assert "there is no run_nope" in dev.torpor("approve", "run_nope").stderr


def test_a_killed_dev_takes_its_services_along_and_the_next_one_takes_over(dev: RunningDev) -> None:
    sleeping = dev.sleeper()
    services = [dev.pid("server"), dev.pid("worker")]
    dev.process.kill()
    dev.process.wait()
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in services), "the end of the services")
    dev.process = dev.start()
    eventually(lambda: dev.pid("server") not in (None, *services) and dev.pid("worker"), "server and worker")
    eventually(dev.version, "an answer of the server")
    assert sleeping in dev.torpor("runs", "list").stdout, "its database is the same"
    assert dev.torpor("runs", "cancel", sleeping).returncode == 0


def test_ctrl_c_stops_everything_in_order_and_leaves_nothing(dev: RunningDev) -> None:
    sleeping = dev.sleeper()
    dev.process.send_signal(signal.SIGINT)
    assert dev.process.wait(PATIENCE_S) == 0
    assert dev.left_over() == []
    assert not any(sleeping in line for line in titles())
    state = dev.state()
    assert state is not None
    assert state.pids == {}
    refused = dev.torpor("runs", "list")
    assert refused.returncode == 3
    assert state.url in refused.stderr
