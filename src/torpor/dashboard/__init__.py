"""The dashboard: pages for people, rendered here, kept fresh by htmx, told of changes by one stream of events.

    app       the table of all pages: path, handler, name in the menu
    page      how a page is rendered: layout, headers, fragments, forms, errors; figures (figures.py), static files (static.py)
    sign_in   who may come in: passwords, one-time links, sign-out; account.py: one's own account
    live      tells open pages that something has changed
    runs      the runs: filters, pages, counts, bulk actions
    run       one run: run_model.py reads what timeline.py makes bars of, run_story.py tells the same in words, failure.py its
              error, and run_verbs.py is what people do to it
    waiting   all that waits, and for what; people's answers
    tasks     the tasks, and the page of one; trial.py tests one, by the form that payload_form.py makes of its schema
    schedules when the clock triggers what: rest, wake, make, change, remove
    queues    the queues: how much stands in them and what holds it up; pause, limit
    batches   the batches: how far each has come, and which of its items could not become runs
    workers   the workers: what each has to give, what it does, and how far it keeps runs apart
    checkpoints what is frozen: where each stands, what it waits for, and what all take on disk
    states    what each state of a run is called, and the colour that it has
    errors    failed runs in groups, by fingerprints.py
    logs      what all runs have said
    env_vars  environment variables; limits.py: what requests are held to

Pages read through engine/read*.py, as the API does, and change state by the engine's verbs alone. What users have written
(payloads, names, tags, logs) is escaped by Jinja; no template may call it safe.
"""
