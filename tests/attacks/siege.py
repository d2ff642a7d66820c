"""All attacks on one worker, at once where they don't disturb each other, and what came of each."""

import asyncio
import ctypes
import os
import re
import secrets
import shutil
import socket
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
from stack import ENDS, Stack, eventually

PROJECT = Path(__file__).parent / "project"
TOKEN = "tr_worker_attacked_" + secrets.token_hex(8)
PATIENCE_S = 450.0
"""Two minutes and a half are enough where nobody else wants the CPU: some attackers are killed four times first."""
CANCELED_AFTER_S = 6.0
HELD_S = 15.0
"""A run that isn't frozen within this time is taken for one that can't be, once it attacks."""
QUIET_IN_ONE = 25
"""Attacks in one run."""
_libc = ctypes.CDLL(None, use_errno=True)


class Host:
    """What somebody else has on the machine: all of it is open to everybody who sees it."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="torpor-attacks-", dir="/var/tmp"))
        self.directory.chmod(0o755)
        self.secret = self.directory / "secret"
        self.secret.write_text("the host's own")
        self.secret.chmod(0o644)
        self.shared = Path("/dev/shm", self.directory.name)
        self.shared.write_text("the host's own")
        self.shared.chmod(0o666)
        self.socket = str(self.directory / "socket")
        self.abstract = self.directory.name
        self._listening = [
            self._listen(self.socket),
            self._listen("\0" + self.abstract),
            socket.create_server(("127.0.0.1", 0)),
        ]
        os.chmod(self.socket, 0o666)
        self.port: int = self._listening[2].getsockname()[1]
        self.memory_key = secrets.randbits(31)
        self._memory = _libc.shmget(self.memory_key, 4096, 0o1000 | 0o666)
        self.project = self.directory / "project"
        shutil.copytree(PROJECT, self.project, ignore=shutil.ignore_patterns("__pycache__"))
        program = self.project / "id_of_root"
        shutil.copy("/usr/bin/id", program)
        program.chmod(0o4755)

    @staticmethod
    def _listen(address: str) -> socket.socket:
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(address)
        listening.listen(100)
        return listening

    def remove(self) -> None:
        for each in self._listening:
            each.close()
        _libc.shmctl(self._memory, 0, None)
        self.shared.unlink(missing_ok=True)
        shutil.rmtree(self.directory)


@dataclass(frozen=True)
class Came:
    """What came of a run."""

    status: str
    output: Any
    error: str
    kinds: list[str]
    lines: int


class Siege:
    """One worker under attack.

    Args:
        stack: started.
        host: what it is on.
    """

    def __init__(self, stack: Stack, host: Host) -> None:
        self.stack = stack
        self._host = host
        self._runs: dict[tuple[str, bool], str] = {}
        self._quiet: dict[str, str] = {}
        self._canceled: set[str] = set()
        self._secret = secrets.token_hex(16)
        self.sleep = 31_536_000 + secrets.randbelow(10**6)
        self._victim = stack.trigger("is_attacked", self._secret)
        self.world = self._look_around()

    # -- what attackers are told --------------------------------------------------------------------------------------

    def _look_around(self) -> dict[str, Any]:
        eventually(lambda: self._token_of(self._victim), what="the victim waits")
        victim = eventually(lambda: self.stack.process_of(self._victim), what="the victim runs")
        supervisor = self.stack.worker_pids()[1]
        seen = [number for pid in (supervisor, victim, self.stack.zygote() or 1) for number in _numbers(pid)]
        places = Path(f"/proc/{supervisor}/root/run/torpor")
        data = self.stack.directory / "data"
        names = [place.name for place in places.iterdir() if place.is_dir()]
        others = [f"{above}/{name}" for name in names for above in ("/run/torpor", data / "worker" / "runs")]
        packages = Path(asyncpg.__file__).parents[1]
        return {
            "pids": sorted({pid for pid in seen if pid > 1}),
            "others": [*others, *(f"{other}/room" for other in others)],
            "data": str(data),
            "secret": str(self._host.secret),
            "socket": self._host.socket,
            "abstract": self._host.abstract,
            "port": self._host.port,
            "memory_key": self._host.memory_key,
            "shared": str(self._host.shared),
            "project": str(self._host.project),
            "packages": str(packages),
            "api_port": self.stack.port,
            # In a form that doesn't fit itself: it must not be found where we have told it.
            "token_pattern": f"{TOKEN[0]}[{TOKEN[1]}]{TOKEN[2:]}",
            "sleep": self.sleep,
        }

    def _token_of(self, run_id: str) -> str | None:
        found = [token["id"] for token in self.stack.client.tokens(status="WAITING") if run_id in token["runIds"]]
        return found[0] if found else None

    # -- the attacks --------------------------------------------------------------------------------------------------

    def attack(self, quiet: list[str], loud: dict[str, bool]) -> None:
        """Make all of these at once, fresh and after a restore.

        Args:
            loud: by name, whether the run is to be canceled.
        """
        begun: dict[str, bool] = {}
        frozen_first: set[str] = set()
        for part in range(0, len(quiet), QUIET_IN_ONE):
            names = quiet[part : part + QUIET_IN_ONE]
            run_id = self.stack.trigger("make_quiet_attacks", {"world": self.world, "names": names})
            self._quiet |= dict.fromkeys(names, run_id)
            begun[run_id] = False
            frozen_first.add(run_id)
        for name, is_canceled in loud.items():
            for restored in (False, True):
                run_id = self.stack.trigger(name, {"world": self.world, "restored": restored})
                self._runs[name, restored] = run_id
                begun[run_id] = is_canceled
                if restored:
                    frozen_first.add(run_id)
        asyncio.run(self._answer(begun, frozen_first))

    def do_nothing_wrong(self) -> int:
        """What a run gets that does nothing wrong."""
        run_id = self.stack.trigger("does_nothing_wrong", 21)
        asyncio.run(self._answer({run_id: False}, {run_id}))
        return self.stack.output(run_id)

    async def _answer(self, runs: dict[str, bool], frozen_first: set[str]) -> None:
        """Complete their tokens when they are frozen, or can't be; cancel those that would never end.

        Of those that attack when they were frozen and thawed, the first token is completed when they are frozen, however long
        that takes, and none is canceled before.
        """
        left, until = set(runs), time.monotonic() + PATIENCE_S
        since: dict[str, float] = {}
        not_yet = set(frozen_first)
        connection = await asyncpg.connect(self.stack.database_url)
        try:
            while left and time.monotonic() < until:
                rows = await connection.fetch(
                    "select r.id, r.state, w.id as token from runs r "
                    "left join waits t on t.run_id = r.id and t.detached_at is null "
                    "left join waitpoints w on w.id = t.waitpoint_id and w.kind = 'token' and w.status = 'pending' "
                    "where r.id = any($1)",
                    list(left),
                )
                for run_id, state, token in rows:
                    if state.upper() in ENDS:
                        left.discard(run_id)
                        continue
                    part = token or f"{state}, and {'is to be frozen' if run_id in not_yet else 'attacks'}"
                    began = since.setdefault(f"{run_id} {part}", time.monotonic())
                    if token and (
                        state == "suspended" or (run_id not in not_yet and time.monotonic() - began > HELD_S)
                    ):
                        with suppress(Exception):
                            await asyncio.to_thread(self.stack.client.complete_token, token)
                            not_yet.discard(run_id)
                    elif (
                        not token
                        and run_id not in not_yet
                        and state in ("executing", "waiting")
                        and runs[run_id]
                        and run_id not in self._canceled
                        and time.monotonic() - began > CANCELED_AFTER_S
                    ):
                        self._canceled.add(run_id)
                        await asyncio.to_thread(self.stack.client.cancel, run_id)
                await asyncio.sleep(0.1)
        finally:
            await connection.close()

    # -- what came of it ----------------------------------------------------------------------------------------------

    def got(self, name: str, *, restored: bool) -> str:
        """What a quiet attack has got."""
        run_id = self._quiet[name]
        assert "run.suspended" in self.stack.kinds(run_id)
        return self.stack.output(run_id)["restored" if restored else "fresh"][name]

    def came(self, name: str, *, restored: bool) -> Came:
        run_id = self._runs[name, restored]
        run = self.stack.run(run_id)
        error = run.get("error") or {}
        lines = list(self.stack.client.logs(run_id))
        told = f"{error.get('name')}: {error.get('message')}" if error else ""
        return Came(run["status"], run.get("output"), told, self.stack.kinds(run_id), len(lines))

    def victim(self) -> dict[str, str]:
        """What the victim has to say in the end."""
        token = self._token_of(self._victim)
        assert token is not None, self.stack.status(self._victim)
        self.stack.client.complete_token(token)
        found = self.stack.output(self._victim)
        assert found["memory"] == found["file"] == self._secret
        return found

    def survivors(self) -> list[int]:
        """Processes that were to outlive their runs."""
        found: list[int] = []
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                if entry.name.isdigit() and str(self.sleep).encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
        return found

    def supervisor_bytes(self) -> int:
        """Of its memory."""
        text = Path(f"/proc/{self.stack.worker_pids()[1]}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", text)
        assert found
        return int(found[1]) << 10


def _numbers(pid: int) -> list[int]:
    """A process's numbers, in every view that it is in."""
    found = re.search(r"NSpid:\s+(.*)", Path(f"/proc/{pid}/status").read_text())
    assert found
    return [pid, *map(int, found[1].split())]
