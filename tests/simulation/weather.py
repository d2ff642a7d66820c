"""How bad a seed's world is. Some seeds are calm: in those even a note that was never sent is found out."""

from dataclasses import dataclass, replace
from random import Random


@dataclass(frozen=True)
class Weather:
    """Chances are per message or per occasion, times in seconds."""

    lost: float = 0.0  # a request never arrives
    reply_lost: float = 0.0  # it arrives, its answer doesn't
    doubled: float = 0.0  # it arrives again, later
    late: float = 0.0  # the sender has given up on it, and then it arrives
    latest_s: float = 60.0
    note_lost: float = 0.0
    skew_s: float = 0.0  # how far the servers' clocks are apart
    deaths: int = 0  # of whole workers
    cuts: int = 0  # times in which a worker can't reach the servers
    process_dies: float = 0.0  # at each step
    dump_fails: float = 0.0
    image_damaged: float = 0.0
    refuses: float = 0.0
    unfit: float = 0.0  # a worker can't use an image, nor can those like it
    drains: int = 0  # workers whose processes all move away
    jumps: int = 0  # of every clock, forward

    @property
    def is_calm(self) -> bool:
        """Whatever is announced is heard, and all clocks agree."""
        return self == CALM


CALM = Weather()


def draw(rng: Random) -> Weather:
    """One seed's weather."""
    match rng.randrange(8):
        case 0 | 1:
            return CALM
        case 2:  # one thing at a time, but often
            one = rng.choice(
                ["lost", "reply_lost", "doubled", "late", "process_dies", "image_damaged", "refuses", "unfit"]
            )
            return replace(CALM, **{one: rng.choice([0.1, 0.3])})
        case 3:
            return Weather(
                drains=rng.randint(0, 3), deaths=rng.randint(1, 3), cuts=rng.randint(0, 2), reply_lost=0.1, late=0.1
            )
        case 4:
            return Weather(skew_s=rng.choice([0.5, 3.0, 40.0]), jumps=rng.randint(0, 2), doubled=0.1)
        case _:

            def some(most: float) -> float:
                return rng.choice([0.0, most / 4, most])

            return Weather(
                lost=some(0.1),
                reply_lost=some(0.2),
                doubled=some(0.2),
                late=some(0.2),
                latest_s=rng.choice([2.0, 60.0, 300.0]),
                note_lost=some(0.5),
                skew_s=some(4.0),
                deaths=rng.choice([0, 0, 1, 2]),
                cuts=rng.choice([0, 0, 1, 2]),
                process_dies=some(0.1),
                dump_fails=some(0.4),
                image_damaged=some(0.3),
                refuses=some(0.2),
                unfit=some(0.2),
                drains=rng.choice([0, 0, 1, 3]),
                jumps=rng.choice([0, 0, 1]),
            )
