"""Kinds of networks that a run can have, by how much it reaches."""

HOST, PRIVATE, NONE = "host", "private", "none"
KINDS = (HOST, PRIVATE, NONE)
"""Each stricter than the one before."""


def strictest(*kinds: str | None) -> str:
    """What holds when several have a say: the worker, the project, the task. Who doesn't care says None.

    >>> strictest("host", None, "none", "private")
    'none'
    """
    return KINDS[max(KINDS.index(kind) for kind in kinds if kind is not None)]
