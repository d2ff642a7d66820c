"""What workers call, as `wire/http/` lists it. Plain routes: they are hot, and their messages are typed already.

Each handler checks the worker token, decodes, lets one verb act in one transaction, and says what the verb said.

worker.py     a worker comes up, asks for work, says that it lives
images.py     what it has stored, and what of it is to be kept
run.py        what it reports of a run that it holds
user_code.py  what user code asks for, on its run's behalf (metadata.py and streams.py, beside this package, have the rest)
messages.py   reading a message, telling an outcome
"""

from torpor.server.workers import images, run, user_code, worker

routes = [*worker.routes, *images.routes, *run.routes, *user_code.routes]
