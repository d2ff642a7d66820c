"""Messages on their way to the engine: lost, doubled, late, and judged by what the database knew before."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime, timedelta
from random import Random
from typing import Any

import asyncpg
import msgspec

from torpor.engine import Lease, Stale
from torpor.store.database import Transaction

from .checks import CODE
from .postgres import Note, Store
from .stage import Stage
from .weather import CALM, Weather

Act = Callable[[Transaction, datetime], Awaitable[Any]]

_PRINT = """
    select runs.lease, runs.worker_id is not null as is_held,
           md5(runs::text || coalesce((select string_agg(waits::text, ';' order by wait_id) from waits
                                       where waits.run_id = runs.id), '')
               || coalesce((select string_agg(attempts::text, ';' order by number) from attempts
                            where attempts.run_id = runs.id), '')
               || coalesce((select string_agg(checkpoints::text, ';' order by id) from checkpoints
                            where checkpoints.run_id = runs.id), '')) as print
    from runs where id = $1
"""


class Violation(Exception):
    """A rule is broken."""


@dataclass
class Message:
    """What somebody says to the engine, and says again until it is answered."""

    who: str
    what: str
    act: Act
    lease: Lease | None = None
    about: str = ""


class Net:
    """Everything that goes to the engine goes through here, also what its own servers do.

    Attributes:
        hear: called with each announcement, once its transaction has committed.
    """

    def __init__(self, rng: Random, stage: Stage, store: Store, weather: Weather, epoch: datetime) -> None:
        self._rng = rng
        self._stage = stage
        self._store = store
        self.weather = weather
        self._epoch = epoch
        self._skews = [0.0, rng.uniform(-1, 1) * weather.skew_s]
        self.jumped_s = 0.0
        self.hear: Callable[[Note], None] = lambda _: None
        self.trace: list[str] = []
        self.verbs = 0

    def calm_down(self) -> None:
        self.weather = CALM
        self._skews = [max(self._skews)]

    def now(self) -> datetime:
        """By the clock of one of the servers."""
        skew = self._rng.choice(self._skews) if len(self._skews) > 1 and self._skews[1] else self._skews[0]
        return self._epoch + timedelta(seconds=self._stage.time + self.jumped_s + skew)

    def note(self, who: str, what: str) -> None:
        """A line of the trace."""
        self.trace.append(f"{self._stage.time:9.3f} {who:<14} {what}")

    async def send(
        self, message: Message, *, is_cut: Callable[[], bool] = lambda: False, once: bool = False
    ) -> tuple[Any, int]:
        """Say it until it is answered; the answer, and how often it took. With `once` an unanswered one is None."""
        rng, stage, tries = self._rng, self._stage, 0
        while True:
            tries += 1
            weather = self.weather
            await stage.sleep(rng.uniform(0.0005, 0.01))
            if is_cut() or rng.random() < weather.lost:
                self.note(message.who, f"{message.what} {message.about} is lost")
            elif rng.random() < weather.late:
                stage.start("late", self._later(message))
            else:
                outcome = await self.deliver(message)
                if rng.random() < weather.doubled:
                    stage.start("double", self._later(message))
                if not is_cut() and rng.random() >= weather.reply_lost:
                    await stage.sleep(rng.uniform(0.0005, 0.01))
                    return outcome, tries
                self.note(message.who, f"… and its answer is lost ({message.what})")
            if once:
                return None, tries
            await stage.sleep(rng.choice([0.05, 0.5, 2.0]))

    async def _later(self, message: Message) -> None:
        await self._stage.sleep(self._rng.choice([0.01, 1.0, self.weather.latest_s]) * self._rng.random())
        await self.deliver(message, is_late=True)

    async def deliver(self, message: Message, *, is_late: bool = False) -> Any:
        """One verb, in one transaction, by one server's clock."""
        now = self.now()
        before = None
        if message.lease is not None and (is_late or self._rng.random() < 0.2):
            before = await self._store.connection.fetchrow(_PRINT, message.lease.run_id)
        try:
            outcome, notes = await self._store.do(lambda tx: message.act(tx, now))
        except asyncpg.PostgresError as error:
            self.note(message.who, f"{message.what} {message.about} -> {error}")
            if getattr(error, "sqlstate", None) == CODE:
                raise Violation(str(error)) from None
            raise Violation(f"{message.what}: the database refused: {type(error).__name__}: {error}") from error
        self.verbs += 1
        self.note(message.who, f"{'(late) ' if is_late else ''}{message.what} {message.about} -> {brief(outcome)}")
        if before is not None and message.lease is not None:
            await self._judge(message, before, outcome)
        for each in sorted(notes, key=repr):
            self.hear(each)
        return outcome

    async def _judge(self, message: Message, before: Any, outcome: Any) -> None:
        """A message of a lease that was over must be stale, and what is stale must have changed nothing."""
        assert message.lease is not None
        is_over = before["lease"] != message.lease.number or not before["is_held"]
        if is_over and not isinstance(outcome, Stale):
            raise Violation(
                f"fence: {message.what} under lease {message.lease.number} of {message.lease.run_id} was taken"
                f" ({brief(outcome)}); its lease is {before['lease']}"
            )
        if isinstance(outcome, Stale):
            after = await self._store.connection.fetchrow(_PRINT, message.lease.run_id)
            if after is None or after["print"] != before["print"]:
                raise Violation(f"fence: a stale {message.what} has changed {message.lease.run_id}")


def brief(outcome: Any) -> str:
    """An outcome in a few words."""
    if isinstance(outcome, list | tuple):
        return "[" + ", ".join(brief(each) for each in outcome) + "]"
    if isinstance(outcome, msgspec.Raw):
        return bytes(outcome).decode()
    if isinstance(outcome, msgspec.Struct):
        chosen = ("run_id", "lease", "wait_id", "status", "kind", "due_in_s", "checkpoint", "id")
        given = [str(getattr(outcome, name)) for name in chosen if getattr(outcome, name, None) is not None]
        if "checkpoint" in outcome.__struct_fields__:
            stored = getattr(outcome, "checkpoint")  # noqa: B009
            given = [
                *(each for each in given if each != str(stored)),
                f"from {stored.id}" if stored else "from the top",
            ]
        return f"{type(outcome).__name__}({' '.join(given)})"
    if is_dataclass(outcome):
        given = [brief(getattr(outcome, field.name)) for field in fields(outcome)]
        return f"{type(outcome).__name__}({', '.join(given)})"
    return str(outcome)
