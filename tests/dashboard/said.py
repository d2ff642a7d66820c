"""What the runs of the past have said, and why some of them failed: errors with frames of the author's, and log lines."""

import json
from datetime import datetime, timedelta
from random import Random
from typing import Any

import asyncpg

MARKUP = "<img src=x onerror=alert(1)><b>bold</b>"


def trace(*frames: tuple[str, int, str, str]) -> str:
    told = [
        f'  File "{file}", line {line}, in {function}\n    {source}\n    {"^" * len(source)}\n'
        for file, line, function, source in frames
    ]
    return "Traceback (most recent call last):\n" + "".join(told)


PRICE = ("app/prices.py", 9, "price", 'return sum(line["amount"] * rates[line["currency"]] for line in lines)')
SEND = ("app/mail.py", 31, "send", "raise Refused(answer.status, answer.text)")

ERRORS: list[dict[str, Any]] = [
    {
        "name": "KeyError",
        "message": "'{code}'",
        "stack_trace": trace(("app/orders.py", 22, "process", 'total = price(order["lines"])'), PRICE),
        "causes": [{"name": "ConnectionError", "message": "rates.example did not answer", "causes": []}],
    },
    {
        "name": "Refused",
        "message": "550: order {number} for ada@example.com was refused",
        "stack_trace": trace(SEND),
        "causes": [],
    },
    {"name": MARKUP, "message": MARKUP, "stack_trace": trace((MARKUP, 1, MARKUP, MARKUP)), "causes": []},
]
CRASHED = {"name": "Crashed", "message": "the process was killed by signal 9", "stack_trace": "", "causes": []}

LINES = (
    ("info", "pricing order {number}"),
    ("debug", "rates from the cache, {number} s old"),
    ("info", "sent to ada@example.com"),
    ("warning", "rates.example answers slowly: {number} ms"),
    ("error", "no rate for {code}"),
    ("info", MARKUP),
)


async def say(database: asyncpg.Connection) -> None:
    """Give each failed run an error, and each that has run some lines."""
    random = Random(11)
    rows = await database.fetch(
        "select id, state, started_at, finished_at from runs where finished_at is not null order by created_at, id"
    )
    failed = [row for row in rows if row["state"] in ("failed", "crashed", "timed_out")]
    for nth, row in enumerate(failed):
        error = json.dumps(CRASHED if row["state"] == "crashed" else ERRORS[min(2, nth % 5 // 2)])
        error = error.replace("{code}", random.choice(("CHF", "SEK"))).replace("{number}", str(4000 + nth))
        await database.execute("update runs set error = $2::text::jsonb where id = $1", row["id"], error)
    lines: list[tuple[Any, ...]] = []
    for row in rows:
        if row["started_at"] is not None:
            lines += _lines(random, row["id"], row["started_at"])
    lines.sort(key=lambda line: line[4])
    await database.executemany(
        """insert into logs (run_id, lease, first_byte, nth, at, level, message, attributes, stream)
           values ($1, $2, $3, $4, $5, $6, $7, $8::text::jsonb, 'log')""",
        lines,
    )


def _lines(random: Random, run_id: str, at: datetime) -> list[tuple[Any, ...]]:
    said = random.sample(LINES, 3)
    return [
        (
            run_id,
            1,
            0,
            nth,
            at + timedelta(seconds=nth),
            level,
            text.format(number=random.randrange(3000), code="CHF"),
            json.dumps({"order": 4711}) if level == "error" else "{}",
        )
        for nth, (level, text) in enumerate(said)
    ]
