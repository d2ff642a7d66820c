"""Where requests come in and answers go out: HTTP over the engine's verbs. It decides nothing about a run.

serve.py       the process: start, duties, graceful end
app.py         routes and what they share (hub.py)
auth.py        who may ask           errors.py   how a refusal looks       bodies.py  reading and writing JSON
runs.py        public: trigger (options.py, packets.py, repeats.py), look, list (paging.py), follow, cancel
waitpoints.py  public: wait tokens   inventory.py  public: tasks, workers, health
render.py      a row -> the API's JSON, one function each (render_runs.py: of runs and batches)
workers/       what workers call
loops.py       duties: timers (timers.py), rescue (reach.py), why a run is not taken
wakeups.py     the database's notifications -> requests that are held open
"""
