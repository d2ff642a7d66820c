"""A `torpor dev` of the demo's own, on a free port, with its data in a temporary directory."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from evidence import find_processes, is_alive

from torpor.cli.connection import Target

PROJECT = Path(__file__).resolve().parent
COMES_UP_S = 120.0
GOES_DOWN_S = 90.0


class StackFailed(Exception):
    """Torpor did not start, or did not stop; the message holds what it said."""


class Stack:
    """Everything that `torpor dev` starts. Use it as a context: at the end nothing of it is left.

    Args:
        readable, writable: what runs may see of this machine, beside their own rooms and the project.
    """

    def __init__(self, *, readable: Path | None, writable: Path) -> None:
        self._shown = {"TORPOR_WRITABLE": str(writable), **({"TORPOR_READABLE": str(readable)} if readable else {})}
        self.directory = Path(tempfile.mkdtemp(prefix="torpor-demo-"))
        self.directory.chmod(0o755)  # the database's own user must be able to pass
        self.data_dir = self.directory / "data"
        self.log = self.directory / "dev.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] | None = None

    def __enter__(self) -> Self:
        environment = {
            **os.environ,
            **self._shown,
            "TORPOR_DATA_DIR": str(self.data_dir),
            "TORPOR_HOLD_S": "0",  # a short sleep would be held in memory, and the tale is about being frozen
            "PYTHONUNBUFFERED": "1",
        }
        for name in ("TORPOR_API_URL", "TRIGGER_API_URL", "TORPOR_DATABASE_URL"):
            environment.pop(name, None)
        self._output = self.log.open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "torpor", "dev", str(PROJECT), "--port", "0"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C at the terminal is the demo's business, which then stops this
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        finally:
            if self._output is not None:
                self._output.close()
            place = self.data_dir / "postgres" / "place"  # where the database lives if its user can't get here
            with contextlib.suppress(OSError):
                shutil.rmtree(place.read_text().strip(), ignore_errors=True)
            shutil.rmtree(self.directory, ignore_errors=True)

    # -- what it says of itself ---------------------------------------------------------------------------------------

    @property
    def state(self) -> dict[str, Any]:
        """dev.json: url, secret key, and the pids of the services as they are now."""
        with contextlib.suppress(OSError, ValueError):
            return json.loads((self.data_dir / "dev.json").read_text())
        return {}

    def target(self) -> Target:
        """Where its server is."""
        state = self.state
        return Target(state["url"], state["secret_key"], str(self.data_dir), str(self.data_dir))

    def pid(self, service: str) -> int | None:
        return self.state.get("pids", {}).get(service)

    def wait_until_up(self) -> None:
        """Wait until server and worker have been started.

        Raises:
            StackFailed: it ended, or took too long.
        """
        deadline = time.monotonic() + COMES_UP_S
        while not (self.pid("server") and self.pid("worker")):
            self.check()
            if time.monotonic() > deadline:
                raise StackFailed(f"torpor dev is not up after {COMES_UP_S:.0f} s; it said:\n{self.tail()}")
            time.sleep(0.05)

    def check(self) -> None:
        """Fail with what it said if it has ended."""
        assert self._process is not None
        if self._process.poll() is not None:
            raise StackFailed(f"torpor dev ended with exit code {self._process.returncode}; it said:\n{self.tail()}")

    def tail(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join(lines[-40:])

    # -- what is done to it -------------------------------------------------------------------------------------------

    def kill(self, *services: str) -> dict[str, int]:
        """SIGKILL to these services; returns the pids that they had, when they are gone."""
        pids = {service: pid for service in services if (pid := self.pid(service)) is not None}
        for pid in pids.values():
            os.kill(pid, signal.SIGKILL)
        while any(is_alive(pid) for pid in pids.values()):
            time.sleep(0.01)
        return pids

    def stop(self) -> None:
        """Ctrl-C, as it were, and see that everything is gone.

        Raises:
            StackFailed: something of it is left.
        """
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(GOES_DOWN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise StackFailed(f"torpor dev did not stop within {GOES_DOWN_S:.0f} s; it said:\n{self.tail()}") from None
        left = self.left_over()
        if left:
            raise StackFailed("these processes are left: " + "; ".join(left))

    def left_over(self) -> list[str]:
        """Processes that have this stack's directory on their command line: the database, for one."""
        return [f"{process.pid} {process.title}" for process in find_processes(str(self.directory))]
