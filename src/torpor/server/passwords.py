"""Passwords: kept as Argon2id hashes, and checked by as many threads as the machine can spare memory for.

A check takes 64 MB and some hundredths of a second of CPU on purpose. So it is done beside the event loop, a few at a time, and
sign-in attempts are counted before it: whoever floods the form waits in line and holds up nobody else.
"""

import asyncio
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

MIN_CHARS, MAX_CHARS = 10, 1000
AT_ONCE = 2

_hasher: Final = PasswordHasher()
NOBODYS: Final = "$argon2id$v=19$m=65536,t=3,p=4$ueomoA4pcXIZZGL7tf5dug$Q6oTN33rErDBVLH9IYBPSCKdbEJsBD9UELw5pa5Go5Y"
"""Checked where there is no such account, so that how long an answer takes doesn't tell which names there are. Written down,
because to make it would be a tenth of each start of a server."""
_turns: Final = asyncio.Semaphore(AT_ONCE)


def problem(password: str) -> str | None:
    """Why this can't be a password; None: it can."""
    if len(password) < MIN_CHARS:
        return f"a password has at least {MIN_CHARS} characters"
    return f"a password has at most {MAX_CHARS} characters" if len(password) > MAX_CHARS else None


async def hashed(password: str) -> str:
    async with _turns:
        return await asyncio.to_thread(_hasher.hash, password)


async def matches(password_hash: str | None, password: str) -> bool:
    """Whether the password is the one that was hashed; without a hash it isn't, and that takes as long."""
    async with _turns:
        return await asyncio.to_thread(_check, password_hash, password[: MAX_CHARS + 1])


def _check(password_hash: str | None, password: str) -> bool:
    try:
        return _hasher.verify(password_hash or NOBODYS, password) and password_hash is not None
    except (Argon2Error, InvalidHashError):
        return False
