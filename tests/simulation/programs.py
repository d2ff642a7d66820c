"""What runs do. A program is a list of steps that is performed from the top at each attempt; a run's payload names it."""

from dataclasses import dataclass, field
from random import Random
from typing import Literal

TASKS = ("alpha", "beta", "gamma")


@dataclass(frozen=True)
class Work:
    """User code runs for so long."""

    seconds: float


@dataclass(frozen=True)
class AWait:
    """One of the waits of a step."""

    kind: Literal["time", "token", "shared", "child", "other", "batch"]
    seconds: float = 0.0
    nth: int = 0  # shared: which token
    program: int = -1  # child: what it performs. batch: what each item performs
    count: int = 0  # batch
    key: str | None = None  # child: an idempotency key
    timeout_s: float | None = None


@dataclass(frozen=True)
class Waits:
    """Some waits entered together: gather, or FIRST_COMPLETED, which drops the others."""

    waits: tuple[AWait, ...]
    first_only: bool = False
    idle: bool = True


@dataclass(frozen=True)
class Spawn:
    """Trigger and go on."""

    program: int
    key: str | None = None
    delay_s: float = 0.0


@dataclass(frozen=True)
class Answer:
    """Complete one of the shared tokens from inside the run."""

    nth: int


@dataclass(frozen=True)
class Save:
    """A save point."""

    name: str


Step = Work | Waits | Spawn | Answer | Save
Ending = Literal["completed", "failed", "hopeless", "dies"]


@dataclass
class Program:
    """Steps, and how each attempt ends (the last one counts for all further)."""

    task: str
    steps: list[Step] = field(default_factory=list)
    endings: list[Ending] = field(default_factory=lambda: ["completed"])
    max_attempts: int | None = None
    has_hooks: bool = False

    def ending(self, attempt: int) -> Ending:
        return self.endings[min(attempt, len(self.endings)) - 1]


class Library:
    """All programs of a seed."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self.programs: list[Program] = []

    def write(self, depth: int = 0) -> int:
        """A new program; its number."""
        rng = self._rng
        steps = [self._step(depth) for _ in range(rng.choice([0, 1, 1, 1, 2, 3]))]
        endings: list[list[Ending]] = [
            ["completed"],
            ["failed", "completed"],
            ["failed"],
            ["hopeless"],
            ["dies", "completed"],
        ]
        ending = rng.choices(endings, [10, 2, 1, 1, 1])[0]
        program = Program(rng.choice(TASKS), steps, [*ending], rng.choice([None, None, 1, 2, 5]))
        self.programs.append(program)
        return len(self.programs) - 1

    def _step(self, depth: int) -> Step:
        rng = self._rng
        match rng.randrange(12):
            case 0 | 1:
                return Work(rng.choice([0.01, 0.5, 5.0, 40.0]))
            case 2 if depth < 2:
                return Spawn(self.write(depth + 1), self._key(), rng.choice([0.0, 0.0, 5.0]))
            case 3:
                return Answer(rng.randrange(3))
            case 4:
                return Save(rng.choice(["a", "b"]))
            case _:
                count = rng.choice([1, 1, 1, 2, 3])
                return Waits(
                    tuple(self._wait(depth) for _ in range(count)),
                    first_only=count > 1 and rng.random() < 0.4,
                    idle=rng.random() < 0.95,
                )

    def _wait(self, depth: int) -> AWait:
        rng = self._rng
        timeout_s = rng.choice([None, None, 0.0, 3.0, 60.0])
        match rng.randrange(8 if depth < 2 else 5):
            case 0 | 1:
                return AWait("time", seconds=rng.choice([0.0, 0.2, 3.0, 7.0, 30.0, 100.0]))
            case 2:
                return AWait("token", timeout_s=timeout_s)
            case 3:
                return AWait("shared", nth=rng.randrange(3), timeout_s=timeout_s)
            case 4:
                return AWait("other", timeout_s=timeout_s)
            case 5 if rng.random() < 0.5:
                return AWait(
                    "batch", program=self.write(depth + 1), count=rng.choice([0, 1, 2, 4]), timeout_s=timeout_s
                )
            case _:
                return AWait("child", program=self.write(depth + 1), key=self._key(), timeout_s=timeout_s)

    def _key(self) -> str | None:
        return self._rng.choice([None, None, "a", "b"])
