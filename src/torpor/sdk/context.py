"""`torpor.current`: the run that this code is part of."""

from dataclasses import dataclass
from datetime import datetime

from torpor.durations import parse_instant
from torpor.sdk import running
from torpor.wire.runner import RunContext


@dataclass(frozen=True)
class Machine:
    """A size of machine, as `current.machine` shows it."""

    name: str
    cpu: float
    memory_bytes: int


class Current:
    """The current run and attempt. Every attribute raises NotInRun outside of a run; `is_running` never does.

    Example:
        >>> from torpor import current
        >>> current.run_id if current.is_running else "no run"
        'no run'
    """

    @property
    def is_running(self) -> bool:
        """Whether this code is part of a run."""
        return running.session is not None

    @property
    def run_id(self) -> str:
        """The run's id; it stays the same through retries and waits."""
        return self._context("run_id").run_id

    @property
    def task_id(self) -> str:
        """The id of the run's task."""
        return self._context("task_id").task_id

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1. Going on after a wait is the same attempt."""
        return self._context("attempt").attempt

    @property
    def max_attempts(self) -> int:
        """How many attempts there may be."""
        return self._context("max_attempts").max_attempts

    @property
    def version(self) -> str:
        """The version of the code that the run is locked to."""
        return self._context("version").version

    @property
    def environment(self) -> str:
        """The environment's slug, such as "dev"."""
        return self._context("environment").environment

    @property
    def tags(self) -> list[str]:
        """The run's tags: those that it was triggered with, and what `torpor.tags.add` has added."""
        return list(running.required("torpor.current.tags").tags)

    @property
    def is_test(self) -> bool:
        """Whether it was triggered as a test."""
        return self._context("is_test").is_test

    @property
    def created_at(self) -> datetime:
        """When the run was triggered, in UTC."""
        return parse_instant(self._context("created_at").created_at)

    @property
    def started_at(self) -> datetime | None:
        """When its first attempt started, in UTC."""
        started_at = self._context("started_at").started_at
        return parse_instant(started_at) if started_at else None

    @property
    def parent_run_id(self) -> str | None:
        """The run that triggered this one."""
        return self._context("parent_run_id").parent_run_id

    @property
    def root_run_id(self) -> str | None:
        """The run at the top of the tree."""
        return self._context("root_run_id").root_run_id

    @property
    def idempotency_key(self) -> str | None:
        """The key it was triggered with."""
        return self._context("idempotency_key").idempotency_key

    @property
    def machine(self) -> Machine | None:
        """The size of machine that it runs on: name, CPUs, memory. After an OOM kill it may be a larger one."""
        preset = self._context("machine").machine
        return Machine(preset.name, preset.cpu, preset.memory_bytes) if preset else None

    @property
    def worker_id(self) -> str | None:
        """The worker that started the attempt."""
        return self._context("worker_id").worker_id

    def __repr__(self) -> str:
        return repr(running.session.context) if running.session else "<torpor.current: not in a run>"

    def _context(self, name: str) -> RunContext:
        return running.required(f"torpor.current.{name}").context


current = Current()
