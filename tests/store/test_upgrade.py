"""A database of the first release, with runs in it, is brought up to date and goes on working."""

from datetime import UTC, datetime
from urllib.parse import urlsplit

import asyncpg
import pytest

from torpor import engine
from torpor.store import migrate
from torpor.store.database import Database
from torpor.store.embedded import EmbeddedPostgres
from torpor.wire.http import Introduction

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 1, 1, tzinfo=UTC)

BEFORE = """
insert into environments (id, slug, current_version, created_at) values ('env_1', 'dev', 'v1', $now);
insert into api_keys (key_hash, environment_id, created_at) values ('\x01', 'env_1', $now);
insert into workers (id, environment_id, instance_id, host, slots, can_freeze, facts, version, hello_at, seen_at, expires_at)
    values ('w1', 'env_1', 'i1', 'here', 10, true, '{}', 'v1', $now, $now, $now);
insert into tasks (environment_id, version, id, file, line, is_async, parameters, payload_schema, retry, reported_at)
    values ('env_1', 'v1', 'hello', 'jobs.py', 1, true, 'one', '{}', '{}', $now);
insert into runs (id, environment_id, task_id, version, state, attempt, max_attempts, available_at, created_at, updated_at)
    values ('run_queued', 'env_1', 'hello', null, 'queued', 0, 3, $now, $now, $now),
           ('run_frozen', 'env_1', 'hello', 'v1', 'queued', 0, 3, $now, $now, $now);
insert into attempts (run_id, number, version, worker_id, lease, dequeued_at) values ('run_frozen', 1, 'v1', 'w1', 1, $now);
insert into waitpoints (id, environment_id, kind, status, due_at, created_at, completed_at)
    values ('waitpoint_1', 'env_1', 'time', 'completed', $now, $now, $now);
insert into waits (run_id, wait_id, waitpoint_id, created_at) values ('run_frozen', 'wait_1', 'waitpoint_1', $now);
insert into checkpoints (id, run_id, worker_id, attempt, state, open_waits, size_bytes, files_bytes, dump_ms, durable_ms,
                         rss_bytes, facts, waiting_at, created_at)
    values ('checkpoint_9', 'run_frozen', 'w1', 1, 'superseded', '{}', 1, 0, 1, 1, 1, '{}', '[]', $now - interval '2 h'),
           ('checkpoint_0', 'run_frozen', 'w1', 1, 'previous', '{}', 1, 0, 1, 1, 1, '{}', '[]', $now - interval '1 h'),
           ('checkpoint_1', 'run_frozen', 'w1', 1, 'current', '{wait_1}', 1, 0, 1, 1, 1, '{}', '[]', $now);
update runs set attempt = 1, lease = 2, checkpoint_id = 'checkpoint_1' where id = 'run_frozen';
"""


async def test_runs_of_the_first_release_are_handed_out_after_the_upgrade(cluster: EmbeddedPostgres):
    url = urlsplit(await cluster.ensure())._replace(path="/upgraded").geturl()
    connection = await asyncpg.connect(await cluster.ensure())
    await connection.execute("create database upgraded")
    await connection.close()
    first, *later = migrate.migrations()
    assert await migrate.upgrade(url, [first]) == ["0001_start"]
    connection = await asyncpg.connect(url)
    await connection.execute(BEFORE.replace("$now", f"timestamptz '{NOW.isoformat()}'"))
    await connection.close()

    assert await migrate.upgrade(url) == [f"{each.number:04}_{each.name}" for each in later]

    database = await Database.connect(url)
    async with database.transaction() as tx:
        # What its server's setting named is that still, and is sealed when the server starts.
        [key] = await engine.api_keys(tx, "env_1")
        assert (key.name, key.scopes, key.sealed, key.is_configured) == ("TORPOR_SECRET_KEY", None, None, True)
        new = engine.NewApiKey("apikey_1", b"\x01", "TORPOR_SECRET_KEY", sealed=b"sealed", master="m")
        configured = await engine.configure_key(tx, "env_1", new, now=NOW)
        assert (configured.id, configured.sealed) == (key.id, b"sealed")
    async with database.transaction() as tx:
        given = await engine.dequeue(tx, "w1", "i1", free=5, versions=["v1"], can_restore=True, lease_s=30.0, now=NOW)
    assert [(each.run_id, each.context.queue) for each in given] == [
        ("run_frozen", "task/hello"),
        ("run_queued", "task/hello"),
    ]
    assert [answer.wait_id for answer in given[0].answers] == ["wait_1"]
    assert given[0].checkpoint is not None
    assert (given[0].checkpoint.store_id, given[0].checkpoint.digest) == ("worker:w1", "")
    async with database.transaction() as tx:
        found = [(each.id, each.number, each.state) for each in await engine.read.checkpoints(tx, "run_frozen")]
    assert found == [("checkpoint_9", 1, "dropped"), ("checkpoint_0", 2, "usable"), ("checkpoint_1", 3, "usable")]
    # The worker is brought up to date as well: it keeps images in an object store, and reads those on its disk no more.
    hello = Introduction("w1", "i2", "here", 10, True, {}, store_id="store_1", fitness="fit_1")
    async with database.transaction() as tx:
        assert await engine.register_worker(tx, "env_1", hello, lease_s=30.0, now=NOW) == 2
    for _ in range(2):
        async with database.transaction() as tx:
            assert await engine.give_up(tx, now=NOW) == ["run_frozen"]
    async with database.transaction() as tx:
        given = await engine.dequeue(tx, "w1", "i2", free=5, versions=["v1"], can_restore=True, lease_s=30.0, now=NOW)
    by_id = {each.run_id: each for each in given}
    assert (by_id["run_frozen"].checkpoint, by_id["run_frozen"].context.attempt) == (None, 2)
    await database.close()
