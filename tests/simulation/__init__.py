"""The engine on a real Postgres, with everything around it played under one seed. Read in this order:

    1. stage.py      simulated time: actors that sleep and wait, one at a time, in an order that only the seed decides
    2. postgres.py   the database: verbs in transactions of their own; what they announce is caught, not sent
    3. weather.py    how bad a seed's world is: what is lost, doubled, late, killed
    4. programs.py   what the runs do: work, wait, trigger, fail, end
    5. net.py        messages between workers and engine
       objects.py    an object store: images and packs, published, fetched, found, deleted
    6. process.py    one run's process under its supervisor, with the protocol of worker/live_run.py
    7. worker.py     a worker: takes work, renews leases, hears news, dies, comes back
    8. servers.py    the servers' duties, by every server's own clock
    9. users.py      those who trigger, cancel, answer and meddle
   10. seed.py       one seed from its first trigger until everything has ended
   11. checks/       what must be true, looked up in the database

README.md says how to run it and what it has found.
"""
