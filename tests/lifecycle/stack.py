"""A whole Torpor for a test: database, server and worker as the processes that users run, with the means to kill each.

Nothing is imitated. The tests wait for facts (a state, an event, a line in a journal) with `eventually`, never for time.
"""

import asyncio
import copy
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from ports import kept_port
from scratch_postgres import create_database
from torpor.sdk.client import Client
from torpor.store.embedded import EmbeddedPostgres

KEY = "tr_dev_lifecycle0000000000000000"
PROJECT = Path(__file__).parent / "project"
PATIENCE_S = 60.0
ENDS = {"COMPLETED", "FAILED", "CANCELED", "CRASHED", "SYSTEM_FAILURE", "TIMED_OUT", "EXPIRED"}

Found = TypeVar("Found")


def eventually(
    look: Callable[[], Found | None],
    *,
    what: str,
    patience_s: float = PATIENCE_S,
    interval_s: float = 0.05,
    told: Callable[[], object] = lambda: "",
) -> Found:
    """What `look` finds as soon as it finds something true. `told`: how things stand when it doesn't, for the message.

    The longer it takes, the seldomer it looks, up to four times: most looks cost a request.
    """
    end = time.monotonic() + patience_s
    longest_s = 4 * interval_s
    while not (found := look()):
        assert time.monotonic() < end, f"{what}: not within {patience_s:.0f} s {told()}"
        time.sleep(interval_s)
        interval_s = min(1.2 * interval_s, longest_s)
    return found


class Stack:
    """Server and worker on a directory of their own.

    Args:
        directory: data, logs, journals and fault files.
        database_url: a database of this stack's own.
        project: the tasks.
        settings: further TORPOR_* variables.
    """

    _proof: str | None = None
    """What a worker has found out of this machine's CRIU, so that none of the others spends a second on it."""

    def __init__(self, directory: Path, database_url: str, project: Path = PROJECT, **settings: str) -> None:
        self.directory = directory
        self.database_url = database_url
        self.faults = directory / "faults"
        self.faults.mkdir(parents=True)
        for place in (directory, directory.parent):
            place.chmod(place.stat().st_mode | 0o777)  # runs write their journals there, and are not root
        self.port = kept_port()
        self.project = project
        self.within: tuple[str, ...] = ()
        """A command that starts others somewhere, such as in a network namespace."""
        self._scene = directory
        self._versions_seen = 0
        self._server: subprocess.Popen[bytes] | None = None
        self._worker: subprocess.Popen[bytes] | None = None
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("TORPOR_", "TRIGGER_"))},
            "TORPOR_DATABASE_URL": database_url,
            "TORPOR_DATA_DIR": str(directory / "data"),
            "TORPOR_PORT": str(self.port),
            "TORPOR_API_URL": f"http://127.0.0.1:{self.port}",
            "TORPOR_SECRET_KEY": KEY,
            "TORPOR_WORKER_TOKEN": "tr_worker_lifecycle",
            "TORPOR_LEASE_S": "4",
            "TORPOR_HEARTBEAT_INTERVAL_S": "0.5",
            "TORPOR_HOLD_S": "0.2",
            "TORPOR_HOLD_CHILD_S": "0.1",
            "TORPOR_FREEZE_RETRY_S": "0.5",
            "TORPOR_TIDY_INTERVAL_S": "0.5",
            "TORPOR_CANCEL_GRACE_S": "5",
            "TORPOR_CHECKPOINT_RETENTION_S": "0",
            "TORPOR_CHECKPOINT_GRACE_S": "0.5",
            "TORPOR_DRAIN_S": "10",
            "TORPOR_FAULT_DIR": str(self.faults),
            "TORPOR_WRITABLE": str(directory.parent),
            **({"TORPOR_ISOLATION": os.environ["STACK_ISOLATION"]} if "STACK_ISOLATION" in os.environ else {}),
            **settings,
        }
        self.client = Client(f"http://127.0.0.1:{self.port}", KEY)

    # -- the processes ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Both at once: the worker tries until the server answers."""
        self._server = self._launch("server")
        self.launch_worker()
        eventually(self._server_answers, what="the server answers")
        self.await_version()

    def beside(self, directory: Path, **settings: str) -> "Stack":
        """Another worker for the same server, with directories of its own. Start and stop its worker only."""
        other = copy.copy(self)
        other.directory = directory
        other.faults = directory / "faults"
        other.faults.mkdir(parents=True)
        other._server = other._worker = None
        other._versions_seen = 0
        other._environment = self._environment | {
            "TORPOR_DATA_DIR": str(directory / "data"),
            "TORPOR_FAULT_DIR": str(other.faults),
            **settings,
        }
        return other

    def drain(self) -> str:
        """`torpor worker drain`, to its end: what it has printed."""
        command = [sys.executable, "-m", "torpor", "worker", "drain"]
        done = subprocess.run(
            command, env=self._environment, cwd=self.directory, capture_output=True, text=True, timeout=PATIENCE_S
        )
        assert done.returncode == 0, done.stderr
        assert self._worker is not None
        assert self._worker.wait(PATIENCE_S) == 0, self.worker_log()
        return done.stdout

    def start_server(self) -> None:
        self._server = self._launch("server")
        eventually(self._server_answers, what="the server answers")

    def start_worker(self, **settings: str) -> None:
        """Start one; with another data directory it is another one."""
        self.launch_worker(**settings)
        self.await_version()

    def launch_worker(self, **settings: str) -> None:
        proof = Path({**self._environment, **settings}["TORPOR_DATA_DIR"], "criu-proof.json")
        if Stack._proof is not None and not proof.exists():
            proof.parent.mkdir(parents=True, exist_ok=True)
            proof.write_text(Stack._proof)
        self._worker = self._launch("worker", str(self.project), **settings)
        self._versions_seen += 1

    def await_version(self) -> None:
        """The worker has imported its project."""
        eventually(
            lambda: self.worker_log().count("version dev-") >= self._versions_seen or self._worker_ended(),
            what="the worker is up",
        )
        proof = Path(self._environment["TORPOR_DATA_DIR"], "criu-proof.json")
        if proof.exists():
            Stack._proof = proof.read_text()

    def begin_scene(self, directory: Path) -> None:
        """For a stack that several tests share: journals of the next test, and everything up again."""
        self._scene = directory
        directory.chmod(0o777)
        for pause in self.faults.iterdir():
            pause.unlink()
        if self._server is None:
            self.start()
        if self._server is None or self._server.poll() is not None:
            self.start_server()
        if self._worker is None or self._worker.poll() is not None:
            self.start_worker()

    def kill_server(self) -> None:
        assert self._server is not None
        self._server.send_signal(signal.SIGKILL)
        self._server.wait()

    def kill_worker(self) -> None:
        """SIGKILL for the worker; the kernel takes its supervisor, zygotes and runs along."""
        assert self._worker is not None
        self._worker.send_signal(signal.SIGKILL)
        self._worker.wait()
        eventually(lambda: not self.processes(), what="everything below the worker is gone")

    def supervisor(self) -> int:
        """The process below the worker in which everything is."""
        assert self._worker is not None
        children = Path(f"/proc/{self._worker.pid}/task/{self._worker.pid}/children")
        # The kernel may miss some while others come or go.
        [pid] = eventually(lambda: children.read_text().split(), what="the worker has its supervisor")
        return int(pid)

    def kill_supervisor(self) -> None:
        """SIGKILL for the supervisor; the worker, which was waiting for it, ends as well."""
        assert self._worker is not None
        os.kill(self.supervisor(), signal.SIGKILL)
        assert self._worker.wait(PATIENCE_S) == 128 + signal.SIGKILL, self.worker_log()

    def stop_worker(self) -> None:
        """SIGTERM, and wait until it has left."""
        assert self._worker is not None
        self._worker.terminate()
        assert self._worker.wait(PATIENCE_S) == 0, self.worker_log()

    def stop(self) -> None:
        self.client.close()
        for process in (self._worker, self._server):
            if process is not None and process.poll() is None:
                process.terminate()
                try:
                    process.wait(PATIENCE_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    raise

    def reload_worker(self) -> None:
        assert self._worker is not None
        self._worker.send_signal(signal.SIGHUP)

    def worker_log(self) -> str:
        return (self.directory / "worker.log").read_text()

    def _launch(self, *arguments: str, **settings: str) -> subprocess.Popen[bytes]:
        with open(self.directory / f"{arguments[0]}.log", "ab") as log:
            return subprocess.Popen(
                [*self.within, sys.executable, "-m", "torpor", *arguments],
                env={**self._environment, **settings},
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _server_answers(self) -> bool:
        assert self._server is not None
        assert self._server.poll() is None, (self.directory / "server.log").read_text()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/healthz", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def _worker_ended(self) -> bool:
        assert self._worker is not None
        assert self._worker.poll() is None, self.worker_log()
        return False

    # -- what is there ------------------------------------------------------------------------------------------------

    def processes(self, naming: str | None = None) -> list[int]:
        """Live processes below this stack's worker; with `naming`, those whose command line holds it."""
        return [
            pid
            for pid, command, environment in _all_processes()
            if (naming is None or naming in command)
            and (str(self.directory) in environment + command or self._is_of_our_worker(pid, command))
            and pid not in (self._server_pid, self._worker_pid)
            and "torpor server" not in command
        ]

    def _is_of_our_worker(self, pid: int, command: str) -> bool:
        """A run's title overwrites its environment. But it sees our data directory mounted, or something over it."""
        with suppress(OSError):
            data = self._environment["TORPOR_DATA_DIR"]
            return command.startswith("torpor ") and data in Path(f"/proc/{pid}/mountinfo").read_text()
        return False

    def process_of(self, run_id: str) -> int | None:
        """The pid of a run's process, seen from outside; None when it has none."""
        found = [pid for pid, command, _ in _all_processes() if command.startswith("torpor run") and run_id in command]
        return found[0] if found else None

    def alive(self, pid: int) -> bool:
        return Path(f"/proc/{pid}").exists()

    def worker_pids(self) -> list[int]:
        """The worker with everything below it."""
        assert self._worker is not None
        return _descendants(self._worker.pid)

    def criu(self) -> list[int]:
        """Those of this worker that are at a dump or a restore."""
        found: list[int] = []
        for pid in self.worker_pids():
            with suppress(OSError):
                if b"\0swrk\0" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
        return found

    def server_pids(self) -> list[int]:
        assert self._server is not None
        return _descendants(self._server.pid)

    def zygote(self) -> int | None:
        below = set(self.worker_pids())  # others' stacks have zygotes, too
        found = [pid for pid, command, _ in _all_processes() if pid in below and "torpor.worker.zygote" in command]
        return found[0] if found else None

    @property
    def _server_pid(self) -> int | None:
        return self._server.pid if self._server else None

    @property
    def _worker_pid(self) -> int | None:
        return self._worker.pid if self._worker and self._worker.poll() is None else None

    def journal(self, name: str = "journal") -> Path:
        return self._scene / name

    def lines(self, name: str = "journal") -> list[str]:
        path = self.journal(name)
        return path.read_text().splitlines() if path.exists() else []

    # -- runs ---------------------------------------------------------------------------------------------------------

    def trigger(self, task_id: str, payload: Any = None, **options: Any) -> str:
        return self.client.trigger(task_id, payload, **options)["id"]

    def run(self, run_id: str) -> dict[str, Any]:
        return self.client.run(run_id)

    def status(self, run_id: str) -> str:
        return self.run(run_id)["status"]

    def kinds(self, run_id: str) -> list[str]:
        return [event["kind"] for event in self.client.story(run_id)]

    def events(self, run_id: str, kind: str) -> list[dict[str, Any]]:
        return [event["data"] for event in self.client.story(run_id) if event["kind"] == kind]

    def await_event(self, run_id: str, kind: str, count: int = 1) -> None:
        eventually(
            lambda: self.kinds(run_id).count(kind) >= count,
            what=f"{kind} of {run_id}",
            told=lambda: self.how_it_stands(run_id),
        )

    def await_end(self, run_id: str) -> dict[str, Any]:
        eventually(lambda: self.status(run_id) in ENDS, what=f"{run_id} ends", told=lambda: self.how_it_stands(run_id))
        return self.run(run_id)

    def output(self, run_id: str) -> Any:
        run = self.await_end(run_id)
        assert run["status"] == "COMPLETED", (run.get("error"), self.kinds(run_id))
        return run.get("output")

    def how_it_stands(self, run_id: str) -> str:
        """The last of a run's story and of the logs, for the message of a test that has waited in vain."""
        told = [f"{event['kind']} {event['data']}" for event in self.client.story(run_id)]
        return "\n".join([*told[-12:], *self._last_words()])

    def _last_words(self) -> list[str]:
        logs = (self.directory / name for name in ("worker.log", "server.log"))
        return [line for log in logs if log.exists() for line in log.read_text(errors="replace").splitlines()[-12:]]

    # -- faults -------------------------------------------------------------------------------------------------------

    def pause_at(self, fault: str) -> None:
        """Let the worker stand still when it next comes to this place."""
        (self.faults / f"{fault}.reached").unlink(missing_ok=True)
        (self.faults / f"{fault}.pause").touch()

    def await_reached(self, fault: str) -> None:
        eventually((self.faults / f"{fault}.reached").exists, what=f"the worker comes to {fault}")

    def go_on(self, fault: str) -> None:
        (self.faults / f"{fault}.pause").unlink(missing_ok=True)

    def assert_nothing_left(self) -> None:
        """After all runs ended: no process of a run, no directory of a run, no half-written image."""
        eventually(lambda: not self.processes(naming="torpor run"), what="no process of a run is left")
        worker = self.directory / "data" / "worker"
        # One process is always forked ahead, and has its directory.
        eventually(lambda: len(list((worker / "runs").iterdir())) <= 1, what="no directory of a run is left")
        eventually(lambda: not list((worker / "images").iterdir()), what="no image is left half written or laid")
        eventually(
            lambda: len(self._mounts_and_groups_of_runs()) <= 1, what="no mount or control group of a run is left"
        )
        eventually(
            lambda: not self.images(),
            what="no image of an ended run is left",
            told=lambda: "\n".join(self._last_words()),
        )

    def _mounts_and_groups_of_runs(self) -> set[str]:
        """The names of runs, or of processes that wait for one, that have something mounted or limited in our worker's sight."""
        mounts = Path(f"/proc/{self.supervisor()}/mountinfo").read_text().splitlines()
        points = [Path(line.split()[4]).relative_to("/run/torpor").parts for line in mounts if " /run/torpor/" in line]
        groups = [Path(group).relative_to("/").parts for group in self._control_groups()]
        of_runs = {parts[parts.index(self.worker_id) + 1] for parts in groups if parts[-1] != self.worker_id}
        return {point[0] for point in points} | of_runs

    def _control_groups(self) -> list[str]:
        """Our worker's, whatever comes and goes while they are looked for."""
        return [place for place, _, _ in os.walk("/sys/fs/cgroup") if f"/torpor/{self.worker_id}" in place]

    def assert_dead_worker_left_nothing(self) -> None:
        """After its end, however it came: of all its runs nothing is left on this machine."""
        assert not self.processes(), "its processes are gone with it"
        worker = self.directory / "data" / "worker"
        left = [str(path) for place in ("runs", "images") for path in (worker / place).iterdir()]
        left += map(str, Path("/dev/shm").glob("link_remap.*"))
        left += self._control_groups()
        left += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(worker) in line]
        assert not left

    @property
    def worker_id(self) -> str:
        return (self.directory / "data" / "worker" / "id").read_text().strip()

    def images(self) -> list[Path]:
        """The manifests in the worker's own store of images, warm ones left out."""
        return list((self.directory / "data" / "worker" / "store" / "images").glob("checkpoint_*"))


StackMaker = Callable[..., Stack]


def _all_processes() -> Iterator[tuple[int, str, str]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                environment = (entry / "environ").read_bytes().decode(errors="replace")
                zombie = ") Z " in (entry / "stat").read_text()
            except OSError:
                continue
            if not zombie:
                yield int(entry.name), command, environment


def _descendants(pid: int) -> list[int]:
    found = [pid]
    for each in found:
        for children in Path(f"/proc/{each}/task").glob("*/children"):
            with suppress(OSError):  # it has just ended
                found += [int(child) for child in children.read_text().split()]
    return found


def fresh_database(postgres: EmbeddedPostgres, name: str) -> str:
    """A database of its own inside the session's Postgres."""

    async def create() -> str:
        return await create_database(await postgres.ensure(), name)

    return asyncio.run(create())
