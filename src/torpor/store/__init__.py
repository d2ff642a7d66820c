"""Where it is kept: knows rows, knows no rules.

`database.py`  the pool, `transaction()`, and the channel on which commits are announced
`records.py`   one frozen record per table
`migrate.py`   numbered SQL files in `migrations/`, applied once each
`embedded.py`  our own Postgres, when nobody names one
`binaries.py`  where its server binaries come from, and whether its user can reach them
"""
