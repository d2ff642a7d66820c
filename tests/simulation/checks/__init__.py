"""What must be true, looked up in the database and nowhere else.

Each module here holds one rule. A rule has triggers, which look at each row as it changes or at the whole as it is
committed, and raise; or a query over the database at the end of a seed, which finds what should not be there; or both.
The triggers know the tables and the table of legal edges, nothing of the simulator.
"""

from dataclasses import dataclass

import asyncpg

from . import (
    answers,
    attempts,
    batches,
    checkpoints,
    ends,
    garbage,
    idempotency,
    lease,
    order,
    room,
    slots,
    waitpoints,
)

RULES = (lease, ends, slots, room, waitpoints, answers, order, attempts, checkpoints, garbage, batches, idempotency)

CODE = "TP001"
"""The SQLSTATE of a trigger that found a rule broken."""

_SAY = """
create schema if not exists checks;
create or replace function checks.broken(rule text, what text) returns void language plpgsql as $$
begin
    raise exception using errcode = 'TP001', message = rule || ': ' || what;
end $$;
"""


@dataclass(frozen=True)
class Finding:
    """A rule that was found broken at the end of a seed."""

    rule: str
    what: str


async def install(connection: asyncpg.Connection) -> None:
    """Let the triggers watch this database."""
    await connection.execute(_SAY)
    for rule in RULES:
        if triggers := getattr(rule, "TRIGGERS", None):
            await connection.execute(triggers)


async def findings(connection: asyncpg.Connection) -> list[Finding]:
    """All that the queries find, in one go."""
    parts: list[str] = []
    for rule in RULES:
        name = rule.__name__.rpartition(".")[2]
        parts += [f"select '{name}' as rule, found.what from ({query}) as found(what)" for query in rule.QUERIES]
    rows = await connection.fetch(" union all ".join(parts))
    return sorted((Finding(row["rule"], row["what"]) for row in rows), key=lambda each: (each.rule, each.what))
