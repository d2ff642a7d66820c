"""An environment with a history of everything is deleted, in small steps, and nothing of another one goes with it."""

from datetime import UTC, datetime

import asyncpg
import pytest
from history import History

from torpor import engine
from torpor.engine import remove
from torpor.store.database import Database

pytestmark = pytest.mark.anyio

OF_NO_ENVIRONMENT = {
    "accounts",
    "environments",
    "let_go",
    "schema_migrations",
    "sessions",
    "sign_in_links",
    "used_tokens",
}


async def test_a_whole_history_goes_in_steps_and_leaves_no_row(history: History) -> None:
    url = await history.copied()
    connection, database, now = await asyncpg.connect(url), await Database.connect(url), datetime.now(UTC)
    tables = [row[0] for row in await connection.fetch("select tablename from pg_tables where schemaname = 'public'")]

    async def counted() -> dict[str, int]:
        counts = {
            each: await connection.fetchval(f"select count(*) from {each}") for each in {*tables} - OF_NO_ENVIRONMENT
        }
        return {table: count for table, count in counts.items() if count}

    before = await counted()
    await connection.execute("update environments set project = 'old', deleted_at = now()")
    async with database.transaction() as tx:
        stays = await engine.ensure_environment(tx, "dev", key_hash=b"k", now=now)
        made = await engine.create_token(tx, stays.id, engine.TokenRequest("waitpoint_1", title="Stay?"), now=now)
    assert isinstance(made, engine.TokenCreated)
    its = {"waitpoints": 1, "turns": 1, "api_keys": 1, "presets": before["presets"]}
    largest = 0
    while True:
        async with database.transaction() as tx:
            done = await engine.remove_deleted(tx, rows=100, now=now)
        assert done
        largest = max(largest, done.rows)
        if not done.rows:
            break
    assert not done.is_due, "what was on its way may still come"
    assert await counted() == its
    assert 100 <= largest < 100 + 2 * remove.RUNS, "no step takes more than a little"
    async with database.transaction() as tx:
        await engine.forget_environment(tx, done.environment_id)
        await engine.forget_environment(tx, stays.id)
        assert [each.id for each in await engine.read.environments(tx)] == [stays.id]
    await database.close()
    await connection.close()
