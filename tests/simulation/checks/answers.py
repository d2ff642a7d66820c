"""An answer that was told to a process is its waitpoint's. What was told is written down by the processes, in a table."""

TRIGGERS = """
create unlogged table if not exists checks.told (
    run_id text not null, lease int not null, wait_id text not null, status text not null, output text not null
);
"""

QUERIES = (
    """select told.run_id || ' was told ' || told.status || ' ' || told.output || ' for ' || told.wait_id || ', which '
              || coalesce('is ' || waitpoints.status || ' ' || coalesce(waitpoints.output, 'null'), 'is not there')
       from checks.told left join waits on waits.run_id = told.run_id and waits.wait_id = told.wait_id
       left join waitpoints on waitpoints.id = waits.waitpoint_id
       where waits.wait_id is null
          or not case when waits.timed_out_at is null
                  then told.status = waitpoints.status and told.output = coalesce(waitpoints.output, 'null')
                  else told.status = 'timed_out' and told.output = 'null' end""",
)
