"""Queries over runs, for the API: a table to ask, made for one environment and a span of time, and carrying them out.

The grammar decides what can be said (query_grammar.py). What is asked is put behind a wall: `offset 0` keeps Postgres from
looking at any row by a query's own conditions before it knows that the row is the environment's, so that not even an
error (a division by zero) tells of another's. The transaction can write nothing, and ends after ten seconds.
"""

import asyncio
from collections.abc import Mapping
from contextlib import aclosing
from datetime import datetime
from decimal import Decimal
from typing import Any

import asyncpg

from torpor.engine.query_grammar import Column, Statement
from torpor.engine.query_words import QueryRefused
from torpor.engine.states import ENDS, STATUS
from torpor.store.database import Transaction
from torpor.store.records import Environment

TIMEOUT_S = 10
MAX_BYTES = 32 << 20
"""Of results, about: ten thousand rows may each repeat a long text fifty times, and a server holds them all."""
ROWS_AT_ONCE = 100
TIME_COLUMN = "triggered_at"

_STATUSES = " ".join(
    f"when '{state}' then '{name.replace('_', ' ').capitalize()}'" for state, name in sorted(STATUS.items())
)
_ENDS = ", ".join(f"'{state}'" for state in sorted(ENDS))


def _ms(since: str, until: str) -> str:
    return f"extract(epoch from {until} - {since})::float8 * 1000"


RUNS: Mapping[str, Column] = {
    "run_id": Column("text", "id", "the run"),
    "environment": Column("text", "$4::text", "its environment"),
    "task_identifier": Column("text", "task_id", "its task"),
    "status": Column("text", f"case state {_STATUSES} end", "Completed, Failed, Timed out, …"),
    "is_finished": Column("bigint", f"(state in ({_ENDS}))::int", "1: it has ended"),
    "queue": Column("text", "queue", "its queue"),
    "concurrency_key": Column("text", "nullif(concurrency_key, '')", "its part of the queue"),
    "task_version": Column("text", "version", "the version that it was started with last"),
    "machine": Column("text", "preset", "its size of machine"),
    "tags": Column("text[]", "tags", "ask by has(tags, 'x')"),
    "batch_id": Column("text", "batch_id", "the batch that it was triggered in"),
    "parent_run_id": Column("text", "parent_run_id", "the run that triggered it"),
    "root_run_id": Column("text", "root_run_id", "the first of those"),
    "depth": Column("bigint", "depth", "how many runs are above it"),
    "is_root_run": Column("bigint", "(depth = 0)::int", "1: none is"),
    "is_child_run": Column("bigint", "(depth > 0)::int", "1: some are"),
    "is_test": Column("bigint", "is_test::int", "1: it is a test"),
    "idempotency_key": Column("text", "idempotency_key", "the key that it was triggered with"),
    "attempt_count": Column("bigint", "attempt", "how many attempts were made"),
    TIME_COLUMN: Column("timestamptz", "created_at", "when it was triggered"),
    "executed_at": Column("timestamptz", "started_at", "when it was started first"),
    "completed_at": Column("timestamptz", "finished_at", "when it ended"),
    "delay_until": Column("timestamptz", "delay_until", "until when it was delayed"),
    "has_delay": Column("bigint", "(delay_until is not null)::int", "1: it was"),
    "expired_at": Column("timestamptz", "case state when 'expired' then finished_at end", "when it expired"),
    "execution_duration": Column("double", _ms("started_at", "finished_at"), "milliseconds from start to end"),
    "total_duration": Column("double", _ms("created_at", "finished_at"), "milliseconds from trigger to end"),
    "usage_duration": Column("double", "cpu_ms + lease_cpu_ms", "milliseconds of CPU"),
    "frozen_duration": Column("double", "frozen_ms", "milliseconds without a process, until the last thaw"),
    "peak_memory_bytes": Column("bigint", "peak_memory_bytes", "memory at its highest"),
    "max_duration": Column("double", "max_duration_s", "the seconds of work that it may take"),
    "error_name": Column("text", "error->>'name'", "the kind of error that it ended with"),
    "error_message": Column("text", "left(error->>'message', 1000)", "what that says"),
}
TABLES: Mapping[str, Mapping[str, Column]] = {"runs": RUNS}

_SETTINGS = f"""
    set transaction read only;
    set local statement_timeout = '{TIMEOUT_S}s';
    set local max_parallel_workers_per_gather = 0;
    set local jit = off;
    set local plan_cache_mode = force_custom_plan"""


async def ask(
    tx: Transaction, statement: Statement, environment: Environment, since: datetime, until: datetime
) -> list[list[Any]]:
    """The rows, of runs that were triggered in that span. Nothing else may be done in this transaction.

    Raises:
        QueryRefused: Postgres can't carry it out, or not in time, and the message is its own; or the results are too large.
    """
    assert statement.table == "runs"
    columns = ", ".join(f"{column.sql} as {name}" for name, column in RUNS.items())
    await tx.execute(_SETTINGS)
    found = tx.rows_once(
        f"""with runs as (
                select {columns} from runs
                where environment_id = $1 and hook is null and created_at >= $2 and created_at < $3 offset 0)
            {statement.sql}""",
        environment.id,
        since,
        until,
        environment.slug,
        at_once=ROWS_AT_ONCE,
    )
    rows: list[list[Any]] = []
    size = 0
    try:
        async with asyncio.timeout(TIMEOUT_S), aclosing(found):  # Postgres's own timeout begins anew with each part
            async for row in found:
                rows.append([float(value) if isinstance(value, Decimal) else value for value in row.values()])
                size += sum(map(_size, rows[-1]))
                if size > MAX_BYTES:
                    raise QueryRefused(f"the results have more than {MAX_BYTES} bytes: ask for fewer rows or columns")
    except (TimeoutError, asyncpg.QueryCanceledError):
        raise QueryRefused(f"the query took longer than {TIMEOUT_S} seconds: ask for a shorter period") from None
    except (asyncpg.SyntaxOrAccessError, asyncpg.DataError, asyncpg.ProgramLimitExceededError) as error:
        raise QueryRefused(getattr(error, "message", None) or type(error).__name__) from None
    except (OverflowError, ValueError) as error:
        if isinstance(error, QueryRefused):
            raise
        raise QueryRefused("a result is a date that can't be told: before the year 1, or after 9999") from None
    return rows


def _size(value: Any) -> int:
    """In bytes, about, as JSON."""
    if isinstance(value, str):
        return len(value)
    return sum(map(len, value)) if isinstance(value, list) else 16
