"""Ids carry their kind: `run_…`, `waitpoint_…`, `wait_…`. One id per thing, opaque to everyone who reads it.

The random part comes from the kernel, never from `random` or OpenSSL: two restores of one checkpoint share the state
of every generator that lives in the process, and would make the same ids.
"""

import os
import re

_SHAPE = re.compile(r"[A-Za-z0-9_-]{1,100}")
_ALPHABET = "0123456789abcdefghijklmnopqrstuv"


def new(kind: str) -> str:
    """A fresh id of this kind: the kind, an underscore and 24 characters (120 random bits).

    >>> new("run").startswith("run_")
    True
    """
    return made_of(kind, os.urandom(15))


def made_of(kind: str, digest: bytes) -> str:
    """The id that these bytes (at least 15, as random as a hash) stand for: whoever has them makes the same one.

    >>> made_of("run", bytes(15))
    'run_000000000000000000000000'
    """
    number = int.from_bytes(digest[:15], "big")
    return kind + "_" + "".join(_ALPHABET[(number >> shift) & 31] for shift in range(0, 120, 5))


def is_one(text: str) -> bool:
    """Whether this could be an id. What user code's process has made is asked: ids become parts of paths and of objects' names.

    >>> is_one("run_1"), is_one("../run_1")
    (True, False)
    """
    return _SHAPE.fullmatch(text) is not None
