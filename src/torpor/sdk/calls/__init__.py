"""The calls of the API, each written once for the blocking and the awaited client. Nothing here but the doors sends.

`call.py`      one call: what is sent, what of the reply is wanted   `sending.py`   where it goes, when it is tried again
`listings.py`  what comes page after page                        `doors.py`     how one method blocks or is awaited

By what they are about:

`triggers.py`     asking for runs                 `batches.py`       many runs at once
`runs.py`         looking at them, ending them    `bulk.py`          one action on many
`stories.py`      what has happened to them       `subscriptions.py` runs as they change
`streams.py`      what they give out              `waitpoints.py`    tokens and approvals
`checkpoints.py`  their images, and forks         `schedules.py`     clocks that trigger
`queues.py`       where they line up              `queries.py`       questions in words like SQL's
`inventory.py`    tasks, versions, workers, the environment
`variables.py`    what runs have in `os.environ`  `keys.py`          who may ask
`environments.py` which there are, of which projects

`every_call.py`  all of these, which `Client` and `AsyncClient` have.
"""
