"""All programs on their way at once: they are frozen, left alone for a moment, answered, thawed, frozen again, until they end.

A test that took one program after the other would wait most of the time: for a CPU that another program could use.
"""

import ast
import asyncio
import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
from stack import ENDS, Stack, eventually

PROGRAMS = Path(__file__).parent / "programs"
PATIENCE_S = 300.0
"""A minute is enough where nobody else wants the CPU."""
FROZEN_S = 1.0
"""Each run is left frozen for at least this long: its clocks are to notice."""

Meanwhile = Callable[[str, Path], None]
"""What somebody else does to the directory of a program (by name) that is frozen."""


def programs() -> dict[str, bool]:
    """The names of all programs that come back as they were, and whether they want to know what is outside."""
    others = ("limits", "two_lives")
    return _programs(*(file for file in sorted(PROGRAMS.glob("*.py")) if file.stem not in others))


def travellers() -> dict[str, bool]:
    """As `programs`: those that go on two workers, every second one of each file; all with TORPOR_PROGRAMS=all."""
    step = 1 if _all_everywhere() else 2
    by_file = [list(_programs(file)) for file in sorted(PROGRAMS.glob("*.py"))]
    chosen = {name for names in by_file for name in names[::step]}
    return {name: wants_to_know for name, wants_to_know in programs().items() if name in chosen}


def stayers() -> dict[str, bool]:
    """As `programs`: those that stay on one worker, the others; all with TORPOR_PROGRAMS=all."""
    leave = {} if _all_everywhere() else travellers()
    return {name: wants_to_know for name, wants_to_know in programs().items() if name not in leave}


def _all_everywhere() -> bool:
    return os.environ.get("TORPOR_PROGRAMS") == "all"


def limits() -> dict[str, bool]:
    """As `programs`: those that don't, or aren't frozen at all."""
    return _programs(PROGRAMS / "limits.py")


def two_lives() -> dict[str, bool]:
    """As `programs`: those whose image is restored twice."""
    return _programs(PROGRAMS / "two_lives.py")


def _programs(*files: Path) -> dict[str, bool]:
    found: dict[str, bool] = {}
    for file in files:
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _is_program(node):
                assert node.name not in found, f"two programs are called {node.name}"
                found[node.name] = bool(node.args.args)
    return found


def _is_program(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(isinstance(mark, ast.Name) and mark.id in ("program", "twice") for mark in function.decorator_list)


@dataclass(frozen=True)
class Passed:
    """What became of one program."""

    run: dict[str, Any]
    kinds: list[str]
    why_not: list[dict[str, Any]]
    """Reasons for which it was held in memory, if it was."""


class Journey:
    """Runs of programs on one stack, each with a directory of its own that no run's files are in."""

    def __init__(
        self, stack: Stack, addresses: dict[str, str], meanwhile: Meanwhile = lambda _name, _directory: None
    ) -> None:
        self.stack = stack
        self._addresses = addresses
        self._meanwhile = meanwhile
        self._directories = stack.directory / "outside"
        self._is_over = threading.Event()
        self._until = 0.0
        self._frozen_since: dict[str, float] = {}
        self.runs: dict[str, str] = {}

    def begin(self, names: dict[str, bool]) -> None:
        """Trigger them all."""
        self._until = time.monotonic() + PATIENCE_S
        for name, wants_to_know in names.items():
            directory = self._directory(name)
            directory.mkdir(parents=True)
            directory.chmod(0o777)  # runs are not root
            payload = {**self._addresses, "directory": str(directory)} if wants_to_know else None
            self.runs[name] = self.stack.trigger(name, payload)

    def advance(self, *, rounds: int | None = None, patience_s: float = PATIENCE_S) -> None:
        """Answer every program as often as it is frozen, until all have ended, or for some rounds: until all have
        ended or are frozen after their last answer.

        A program that is neither when the patience is over stays what it is: its own test will say so.
        """
        self._until = time.monotonic() + patience_s
        asyncio.run(self._advance(rounds, self._until))

    def in_background(self) -> threading.Thread:
        thread = threading.Thread(target=self.advance, daemon=True)
        thread.start()
        return thread

    def passed(self, name: str) -> Passed:
        """What became of a program, when it has ended. All have the same time for that, however many are asked for."""
        run_id = self.runs[name]
        eventually(
            lambda: self.stack.status(run_id) in ENDS,
            what=f"{name} ends: {self._told(run_id)}",
            patience_s=max(self._until - time.monotonic(), 1.0),
        )
        return Passed(self.stack.run(run_id), self.stack.kinds(run_id), self._told(run_id))

    def end(self) -> None:
        """Stop answering, and cancel what is still on its way: when only some tests were asked for, the others' programs."""
        self._is_over.set()
        for run_id in self.runs.values():
            if self.stack.status(run_id) not in ENDS:
                self.stack.client.cancel(run_id, at_once=True)
        for run_id in self.runs.values():
            self.stack.await_end(run_id)

    def answer(self, name: str) -> None:
        """Complete the token that a program waits for, though it is held in memory."""
        tokens = self.stack.client.tokens(status="WAITING")
        [token] = [token["id"] for token in tokens if self.runs[name] in token["runIds"]]
        self.stack.client.complete_token(token)

    def _told(self, run_id: str) -> list[dict[str, Any]]:
        return [
            event["data"]
            for event in self.stack.client.story(run_id)
            if event["kind"] in ("run.held", "run.freeze_failed", "run.checkpoint_refused", "run.start_failed")
        ]

    def _directory(self, name: str) -> Path:
        return self._directories / name

    async def _advance(self, rounds: int | None, until: float) -> None:
        names = {run_id: name for name, run_id in self.runs.items()}
        answered: dict[str, int] = dict.fromkeys(names, 0)
        connection = await asyncpg.connect(self.stack.database_url)
        try:
            while names and time.monotonic() < until and not self._is_over.is_set():
                states = await connection.fetch("select id, state from runs where id = any($1)", list(names))
                for run_id, state in states:
                    if state != "suspended":
                        self._frozen_since.pop(run_id, None)
                    elif run_id not in self._frozen_since:
                        self._frozen_since[run_id] = time.monotonic()
                        self._meanwhile(names[run_id], self._directory(names[run_id]))
                    if state.upper() in ENDS or (state == "suspended" and answered[run_id] == rounds):
                        del names[run_id]
                rested = [each for each, since in self._frozen_since.items() if time.monotonic() - since >= FROZEN_S]
                tokens = await connection.fetch(
                    "select t.run_id, t.waitpoint_id from waits t join waitpoints w on w.id = t.waitpoint_id "
                    "where t.run_id = any($1) and w.kind = 'token' and w.status = 'pending' and t.detached_at is null "
                    "order by t.created_at",
                    [each for each in rested if each in names],
                )
                # One at a time: a run that waits for two is frozen again in between.
                for run_id, token in dict(reversed([tuple(each) for each in tokens])).items():
                    answered[run_id] += 1
                    await asyncio.to_thread(self.stack.client.complete_token, token)
                await asyncio.sleep(0.2)
        finally:
            await connection.close()


def addresses(directory: Path) -> dict[str, str]:
    """Of the servers that were started on this directory, when they are up."""
    file = directory / "addresses.json"
    eventually(file.exists, what="the servers are up", patience_s=PATIENCE_S)
    return json.loads(file.read_text())
