"""Torpor: background jobs in Python whose waits leave the machine and come back on the next line."""
