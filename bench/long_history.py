"""A long history to measure in: a million runs, and, for whoever looks at all of it, what belongs to such runs.

It is skewed as real ones are: one task and one version make most of it, what failed failed in one bad week, a tag that half
of the runs have is on the older half.
"""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from dequeue import World

FILL = """
insert into runs (id, environment_id, task_id, queue, version, state, preset, tags, is_test, schedule_id, batch_id,
                  batch_index, payload, output, attempt, max_attempts, lease, available_at, created_at, updated_at,
                  started_at, finished_at)
select 'run_' || substr(md5(n::text), 1, 24), $1, task, 'task/' || task, version, state,
       case when n % 1000 = 0 then 'large-2x' else 'small-1x' end, tags, n % 5000 = 0,
       case when n % 10000 = 0 then 'sched_rare' when n % 2 = 0 then 'sched_common' end,
       case when n > $2 - 100000 and n <= $2 - 50000 then 'batch_large' end,
       case when n > $2 - 100000 and n <= $2 - 50000 then n end,
       '{"n": 1}', case when state = 'completed' then '"done"' end, 1, 3, 2, at, at, at, at,
       case when state <> 'queued' then at end
from (
    select n, $3::timestamptz - ($2 - n) * $4::interval as at,
           case when n % 100000 = 7 then 'task-rare' when n % 10 = 0 then 'task-some' else 'task-main' end as task,
           case when n <= $2 / 4 then 'v-old' else 'v-new' end as version,
           case when n > $2 - 1000 then 'queued' when n between $2 / 10 and $2 / 10 + 5000 then 'failed'
                else 'completed' end as state,
           case when n = 77 then array['tag-rare', 'tag-old'] when n <= $2 / 2 then array['tag-old', 'c' || n % 100]
                else array['c' || n % 100] end as tags
    from generate_series(1, $2::int) n) as made
"""


async def fill(world: World, count: int, apart: timedelta = timedelta(seconds=2)) -> datetime:
    """So many runs, one after the other, the last one now."""
    now = datetime.now(UTC)
    async with world.database.transaction() as tx:
        await tx.execute(FILL, world.environment_id, count, now, apart)
        await tx.execute(
            """insert into tasks (environment_id, version, id, file, line, is_async, parameters, payload_schema, retry,
                                  reported_at)
               select environment_id, version, task, file, line, is_async, parameters, payload_schema, retry, reported_at
               from tasks, unnest(array['task-main', 'task-some', 'task-rare']) as task"""
        )
        await tx.execute(
            """insert into bulk_actions (id, environment_id, kind, total, succeeded, created_at, completed_at)
               select 'bulk_large', $1, 'cancel', $2, $2, $3, $3""",
            world.environment_id,
            count // 10,
            now,
        )
        await tx.execute(
            """insert into bulk_runs (bulk_id, place, run_id, shown_id, shown_at)
               select 'bulk_large', row_number() over (), id, id, created_at from runs limit $1""",
            count // 10,
        )
    async with world.database.transaction() as tx:
        await tx.execute("analyze")
    return now


# -- what belongs to them ---------------------------------------------------------------------------------------------

LONG = "select id, created_at from runs where state = 'executing' order by created_at desc limit 1"
TASKS = 40
TRACE = "".join(
    f'  File "app/part{nth}.py", line {nth * 7}, in step{nth}\n    value = step{nth + 1}(order, rates, lines={nth})\n'
    for nth in range(8)
)
ERRORS = [
    json.dumps(
        {
            "name": name,
            "message": message,
            "stack_trace": TRACE + f'  File "app/own.py", line 9, in {name}\n',
            "causes": [],
        }
    )
    for name in ("KeyError", "ValueError", "Refused", "TimeoutError", "ConnectionError")
    for message in ("order N of 'ada' is gone", "no rate for 'CHF'", "the answer was N", "took N s")
]

STEPS = [
    # The one that a server has.
    "update environments set slug = 'dev'",
    # Forty tasks more, which share a tenth of the runs, and a task of its own for each declared queue.
    """insert into tasks (environment_id, version, id, file, line, is_async, parameters, payload_schema, retry, reported_at, doc)
       select environment_id, version, 'team-' || n % 5 || '/job-' || n, file, line, is_async, parameters, payload_schema, retry,
              reported_at, 'Does the job number ' || n || '.'
       from tasks, generate_series(1, @tasks) n where id = 'hello'""",
    """insert into queues (id, environment_id, name, kind, concurrency_limit, created_at)
       select 'queue_' || substr(md5(id), 1, 24), environment_id, 'task/' || id, 'task', null, reported_at
       from tasks on conflict do nothing""",
    """update runs set task_id = 'team-' || n % 5 || '/job-' || n, queue = 'task/team-' || n % 5 || '/job-' || n
       from (select id, 1 + ('x' || substr(md5(id), 1, 4))::bit(16)::int % @tasks as n from runs where task_id = 'task-some') made
       where runs.id = made.id""",
    # Ends of other kinds: one of a hundred failed, with twenty different errors.
    """update runs set state = case when n % 5000 = 11 then 'crashed' when n % 5000 = 111 then 'timed_out' else 'failed' end,
                       output = null, error = (@errors)[1 + (n / 100)::int % array_length(@errors, 1)],
                       finished_at = created_at + interval '90 s'
       from (select id, row_number() over (order by created_at) as n from runs where state = 'completed') made
       where runs.id = made.id and n % 100 = 11""",
    "update runs set error = (@errors)[1] where state = 'failed' and error is null",
    """update runs set state = 'canceled', output = null
       from (select id, row_number() over (order by created_at) as n from runs where state = 'completed') made
       where runs.id = made.id and n % 500 = 13""",
    # Ten workers, which are up, and two hundred that are gone.
    """insert into workers (id, environment_id, instance_id, host, slots, can_freeze, facts, version, hello_at, seen_at,
                            expires_at, store_id, fitness)
       select 'worker_' || n, @environment, 'instance', 'host-' || n, 20, true, '{}', 'v-new', @now, @now,
              @now + interval '1 year' * case when n > 10 then -1 else 1 end, 'shared', 'x86'
       from generate_series(1, 210) n""",
    # Some thousands wait: frozen for up to a month, and in memory.
    """insert into checkpoints (id, run_id, worker_id, attempt, state, open_waits, size_bytes, files_bytes, dump_ms, durable_ms,
                                rss_bytes, facts, waiting_at, created_at, number, image_id, kind, store_id, new_bytes,
                                shared_bytes, environment_id)
       select 'checkpoint_' || substr(id, 5), id, 'worker_' || 1 + n % 10, 1, 'usable', array['wait_' || substr(id, 5)],
              20000000 + n % 1000 * 1000, 0, 30, 50, 1, '{}',
              '[{"task": "main", "file": "app/own.py", "line": 41, "source": "await wait.for_(days=3)"}]',
              created_at + interval '1 s', 1, 'checkpoint_' || substr(id, 5), 'wait', 'shared', 3000000 + n % 1000 * 100,
              15000000, @environment
       from (select id, created_at, row_number() over (order by created_at) as n from runs where state = 'completed'
             and id < 'run_' || @frozen) made""",
    """insert into waitpoints (id, environment_id, kind, status, due_at, title, context, created_at)
       select 'waitpoint_' || substr(run_id, 5), @environment, case when n % 4 = 0 then 'token' else 'time' end, 'pending',
              @now + interval '1 min' * (1000 + n % 5000), case when n % 8 = 0 then 'Refund order ' || n || '?' end,
              case when n % 8 = 0 then '{"order": 4711}'::jsonb end, created_at
       from (select run_id, created_at, row_number() over (order by created_at) as n from checkpoints) made""",
    """insert into waits (run_id, wait_id, waitpoint_id, created_at)
       select run_id, open_waits[1], 'waitpoint_' || substr(run_id, 5), created_at from checkpoints""",
    """update runs set state = 'suspended', checkpoint_id = checkpoints.id, output = null, finished_at = null,
                       frozen_since = checkpoints.created_at, image_store_id = 'shared'
       from checkpoints where checkpoints.run_id = runs.id""",
    """update runs set state = 'waiting', checkpoint_id = null, frozen_since = null, worker_id = 'worker_' || 1 + n % 10,
                       instance_id = 'instance', lease_expires_at = @now + interval '1 year'
       from (select id, row_number() over (order by created_at desc) as n from runs where state = 'suspended') made
       where made.id = runs.id and n <= 300""",
    "delete from checkpoints using runs where runs.id = checkpoints.run_id and runs.state = 'waiting'",
    """update runs set state = 'executing', finished_at = null, output = null, worker_id = 'worker_' || 1 + n % 10,
                       active_since = created_at,
                       instance_id = 'instance', lease_expires_at = @now + interval '1 year'
       from (select id, row_number() over (order by created_at desc) as n from runs where state = 'completed' limit 150) made
       where made.id = runs.id""",
    """update runs set state = 'delayed', started_at = null, finished_at = null, output = null, attempt = 0,
                       available_at = @now + interval '1 year', delay_until = @now + interval '1 year'
       from (select id, row_number() over (order by created_at desc) as n from runs where state = 'completed' limit 30000) made
       where made.id = runs.id and n % 15 = 0""",
    # Older images of runs that are over: dropped by now, but for those of the last day.
    """insert into checkpoints (id, run_id, worker_id, attempt, state, open_waits, size_bytes, files_bytes, dump_ms, durable_ms,
                                rss_bytes, facts, waiting_at, created_at, number, image_id, kind, store_id, new_bytes,
                                shared_bytes, kept_until, environment_id)
       select 'checkpoint_' || substr(id, 5), id, 'worker_1', 1, case when is_kept then 'kept' else 'dropped' end, '{}', 20000000,
              0, 30, 50, 1, '{}', '[]', created_at, 1, 'checkpoint_' || substr(id, 5), 'wait', 'shared', 3000000, 17000000,
              case when is_kept then @now + interval '1 year' end, @environment
       from (select id, created_at, created_at > @now - interval '1 day' and id < 'run_2' as is_kept
             from runs where state = 'completed' and id < 'run_4') made""",
    """insert into waitpoints (id, environment_id, kind, status, title, created_at, completed_at)
       select 'waitpoint_done' || n, @environment, 'token', 'completed', 'Was it ' || n || '?', at, at
       from (select n, @now - interval '1 min' * n as at from generate_series(1, 20000) n) made""",
    # Batches: one of fifty thousand, and thousands of some runs each.
    """insert into waitpoints (id, environment_id, kind, status, batch_id, created_at, completed_at)
       select 'waitpoint_' || id, @environment, 'batch', case when n = 0 then 'pending' else 'completed' end, id, at,
              case when n > 0 then at end
       from (select n, case when n = 0 then 'batch_large' else 'batch_' || n end as id, @now - interval '10 min' * n as at
             from generate_series(0, 4000) n) made""",
    """insert into batches (id, environment_id, waitpoint_id, run_count, item_count, pending, is_sealed, created_at, updated_at,
                            sealed_at, completed_at, settled_at)
       select batch_id, @environment, id, case when completed_at is null then 50000 else 10 end,
              case when completed_at is null then 50000 else 10 end, case when completed_at is null then 1000 else 0 end, true,
              created_at, created_at, created_at, completed_at, completed_at
       from waitpoints where kind = 'batch'""",
    """insert into batch_items (batch_id, index, task_id, run_id)
       select 'batch_large', row_number() over () - 1, task_id, id from runs where batch_id = 'batch_large'""",
    # Schedules: next year's.
    """insert into schedules (id, environment_id, task_id, kind, deduplication_key, cron, timezone, next_tick_at, next_fire_at,
                              created_at, updated_at)
       select 'sched_' || n, @environment, 'task-main', 'imperative', 'key-' || n, '0 0 1 1 *', 'UTC', @now + interval '1 year',
              @now + interval '1 year', @now, @now from generate_series(1, 500) n""",
    # What they said: three lines each, in the order in which they ran.
    """insert into logs (run_id, lease, first_byte, nth, at, level, message, attributes, stream)
       select id, 1, nth, 0, created_at,
              case when nth = 1 and n % 50 = 0 then 'error' when n % 20 = 0 then 'warning' else 'info' end,
              case nth when 0 then 'pricing order ' || n || ' of customer ' || substr(id, 5, 8)
                       when 1 then 'rates from the cache, ' || n % 997 || ' s old, fetched from rates.example'
                       else case when n = 5 then 'the needle' else 'sent to ada@example.com, all is well with ' || n end end,
              '{}', 'log'
       from (select id, created_at, row_number() over (order by created_at, id) as n from runs) made, generate_series(0, 2) nth
       order by n, nth""",
    "insert into events (run_id, at, kind, data) select id, created_at, 'run.triggered', '{}' from runs order by created_at",
    # One with a long story.
    """insert into events (run_id, at, kind, attempt, data)
       select id, created_at + n * interval '100 ms', case when n % 2 = 0 then 'run.started' else 'run.dequeued' end, 1, '{}'
       from (@long) run, generate_series(1, 10000) n""",
    """insert into logs (run_id, lease, first_byte, nth, at, level, message, attributes, stream)
       select id, 1, 100 + n, 0, created_at + n * interval '100 ms', 'info', 'line ' || n || ' of the work', '{}', 'log'
       from (@long) run, generate_series(1, 10000) n""",
]


async def live_in(world: World, frozen: int) -> str:
    """What the dashboard shows of such a history, with so many runs frozen. Returns the id of the run with a long story."""
    count = await one(world, "select count(*) from runs")
    values = {
        "@environment": f"'{world.environment_id}'",
        "@now": f"'{datetime.now(UTC).isoformat()}'::timestamptz",
        "@tasks": str(TASKS),
        "@errors": "array[" + ", ".join("'" + error.replace("'", "''") + "'" for error in ERRORS) + "]::jsonb[]",
        "@frozen": f"'{65536 * frozen // count:04x}'",
        "@long": LONG,
    }
    for step in STEPS:
        for name, value in values.items():
            step = step.replace(name, value)
        async with world.database.transaction() as tx:
            await tx.execute(step)
    return await one(world, LONG)


async def one(world: World, query: str) -> Any:
    async with world.database.transaction() as tx:
        return await tx.fetchval(query)
