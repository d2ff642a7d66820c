"""A weather report that goes to sleep with its hands full, and needs a person's word before it is published.

    mkdir -m 777 reports            # runs are users of their own, and see of the machine what they are shown
    TORPOR_WRITABLE="$PWD/reports" torpor dev examples/weather_report
    torpor trigger weather_report reports="$PWD/reports" sleep_s=30 --follow

Nothing in here is written for the sleep: the table, the model, the half-read generator, the open database, the
half-written file and the waiting thread are ordinary local variables. They are the same ones after each wait.
"""

import sqlite3
import threading
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from page import write_page
from weather import (
    counter_of_days_above,
    each_day,
    fingerprint,
    fit,
    highest_tenth,
    month_of,
    read_weather,
    records_so_far,
    target_of,
)

from torpor import AbortRun, logger, task, wait


@dataclass
class Month:
    """What the child task finds out."""

    month: str
    days: int
    mean: float
    highest: float


@dataclass
class Report:
    """What a run of `weather_report` returns."""

    published: bool
    path: str | None
    digest_before: str
    digest_after: str
    survived: dict[str, bool]


@task
def summarise_month(month: str, csv: str | None = None) -> Month:
    """Mean and highest value of one month. A child task, and a plain function."""
    values = month_of(read_weather(csv), month)
    return Month(month, len(values), round(float(values.mean()), 1), float(values.max()))


@task
async def weather_report(reports: str, csv: str | None = None, sleep_s: float = 6 * 3600) -> Report:
    """Model the weather, sleep, ask for approval, publish.

    Args:
        reports: the directory to write to, as an absolute path: a run has a working directory of its own.
        csv: a file to read instead of Seattle's weather.
        sleep_s: how long to wait for the morning.
    """
    try:
        weather = read_weather(csv)
    except (OSError, ValueError) as error:
        raise AbortRun(f"can't use this data: {error}") from error
    if not Path(reports).is_absolute():
        raise AbortRun(f"reports must be an absolute path, not {reports!r}")
    target = target_of(weather)
    model = fit(weather)

    records = records_so_far(weather)  # a generator, left half way
    seen = list(islice(records, 5))

    values = [value for _, value in each_day(weather)]
    above = counter_of_days_above(highest_tenth(weather))  # a closure with a count
    half = len(values) // 2
    for value in values[:half]:
        above(value)

    database = sqlite3.connect("weather.db")  # an open database in the run's own working directory
    database.execute("create table days (day text primary key, value real)")
    database.executemany("insert into days values (?, ?)", ((str(day), value) for day, value in each_day(weather)))
    database.commit()

    notes = open("notes.txt", "w+", encoding="utf-8")  # noqa: SIM115 - an open file, written half
    notes.write(f"{len(weather)} days of {target}\n")

    morning, woken = threading.Event(), []  # a thread that waits
    sleeper = threading.Thread(target=lambda: woken.append(morning.wait()), name="sleeper", daemon=True)
    sleeper.start()

    objects = [id(weather), id(model), id(records), id(database)]
    before = fingerprint(weather, model)
    logger.info("%d days read, a model fitted, %d records seen; digest %s", len(weather), len(seen), before)

    await wait.for_(seconds=sleep_s)

    after = fingerprint(weather, model)
    seen += list(records)
    for value in values[half:]:
        above(value)
    notes.write(f"{above(float('-inf'))} of them among the highest tenth\n")
    notes.seek(0)
    morning.set()
    sleeper.join()
    survived = {
        "the same objects": objects == [id(weather), id(model), id(records), id(database)],
        "table and model": after == before,
        "generator": seen == list(records_so_far(weather)),
        "closure": above(float("-inf")) == sum(value > highest_tenth(weather) for value in values),
        "sqlite connection": database.execute("select count(*) from days").fetchone() == (len(weather),),
        "open file": len(notes.readlines()) == 2,
        "thread": woken == [True],
    }
    logger.info("awake again; digest %s; survived: %s", after, ", ".join(name for name, ok in survived.items() if ok))

    hottest_day, hottest = seen[-1]
    month = await summarise_month.trigger_and_wait(month=f"{hottest_day:%Y-%m}", csv=csv)

    approval = await wait.for_approval(
        f"Publish the report on {len(weather)} days?", context={"record": hottest, "day": str(hottest_day)}
    )
    if not approval:
        logger.warning("not published: %s", approval.comment or "no reason given")
        return Report(False, None, before, after, survived)

    path = write_page(Path(reports), weather, model, seen, f"{month.month}: mean {month.mean}, highest {month.highest}")
    database.close()
    notes.close()
    logger.info("published: %s", path)
    return Report(True, str(path), before, after, survived)
