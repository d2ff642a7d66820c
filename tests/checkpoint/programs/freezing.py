"""What all programs have in common: a program is a task that sets something up, is frozen, and checks that it still has it.

It fails if what it held is not as it was. `freeze` waits for a token that the tests complete once the run is out of memory.
A program whose parameter is `outside` is given the addresses of servers, and under "directory" one that is not its own.
Libraries are imported inside of programs: each is frozen with what it needs, and nothing else.
"""

from torpor import Retry, create_token, task, wait
from torpor import sync as blocking

Outside = dict[str, str]

program = task(retry=Retry(max_attempts=1))


async def freeze() -> None:
    await wait.for_token(await create_token())


def freeze_blocking() -> None:
    blocking.wait.for_token(blocking.create_token())
