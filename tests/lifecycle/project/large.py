"""A task that holds much memory, of which code that comes back from a wait touches little at first."""

import zlib

from tasks import note

from torpor import Retry, task, wait

PIECE = 1 << 20


@task(retry=Retry(max_attempts=2))
async def holds_much(journal: str, megabytes: int, first: str, second: str) -> str:
    held = [number.to_bytes(8, "little") * (PIECE // 16) + bytes(PIECE // 2) for number in range(megabytes)]
    sums = [zlib.crc32(each) for each in held]
    note(journal, "before")
    await wait.for_token(first)
    note(journal, "between")
    await wait.for_token(second)
    note(journal, "after")
    return "right" if [zlib.crc32(each) for each in held] == sums else "wrong"
