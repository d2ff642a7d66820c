"""What task authors use, from the outside in.

`task.py`     @task, and what it knows of its function          `runs.py`       the handle of a run
`triggering.py`  trigger, trigger_and_wait, batch_trigger, `sync`
`retry.py`    Retry                                             `options.py`    what a trigger may say besides
`idempotency.py`, `debounce.py`  Idempotency, Debounce
`wait.py`     wait.for_ and its kin, awaited                    `sync_wait.py`  the same, blocking
`save_point.py`  checkpoint                                     `hooks.py`, `app.py`  functions called at moments of a run
`context.py`  current                                           `logger.py`     log lines with fields
`metadata.py`, `tags.py`  what a run says of itself             `streams.py`, `inputs.py`  what it gives out, what it is sent
`payload.py`  from a call to JSON and back                      `schedule.py`   @schedule, ScheduleTick
`client.py`, `async_client.py`  the HTTP API, for everything outside of runs
`calls/`      what both can be asked, each call once            `kept_client.py`  the one that triggers share

Beneath, only inside a run:

`session.py`  one run in this process                           `outcome.py`    what user code returned or raised
`loop.py`     the door of async tasks                           `blocking.py`   the door of sync tasks
`waits.py`    requests and answers, written once for both       `ledger.py`     which waits and calls are open
`outbox.py`   what user code says of its run, leaving           `plain.py`      its values as JSON has them
`idle.py`     may this run be frozen, and if not: why not       `freeze.py`     standing still for a checkpoint
`standstill.py`  what the doors ask for to do so                `refresh.py`    what must not repeat or be stale after it
`descriptors.py`  files let go before it and opened after       `channel.py`    the control socket
`datagrams.py`  UDP sockets, likewise                           `running.py`    which run this process performs
"""
