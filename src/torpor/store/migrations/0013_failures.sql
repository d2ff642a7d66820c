-- read_failures: runs that failed, by when they did. runs_ended has all that are over, of which few failed; runs_of_state
-- goes by when they were made, and a run can be frozen for a month before it fails.
create index runs_failed on runs (environment_id, finished_at desc, id desc)
    where hook is null and state in ('failed', 'crashed', 'timed_out', 'system_failure');
