"""The environment's variables at hand: what the server has for all runs. In memory only, and never logged.

Hand-outs and heartbeats name a revision. When ours is older we ask; so a change costs one request for each worker, and a run
that is handed out after a change has it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from torpor.wire import http


class Variables:
    """Those of this worker's environment.

    Args:
        ask: gets them from the server.
    """

    def __init__(self, ask: Callable[[], Awaitable[http.VariablesReply]]) -> None:
        self._ask = ask
        self._one_at_a_time = asyncio.Lock()
        self.revision = -1
        self.values: Mapping[str, str] = {}

    async def at_least(self, revision: int) -> None:
        """Have them as they were at that revision, or newer.

        Raises:
            ApiError: the server refuses to tell.
        """
        if revision <= self.revision:
            return
        async with self._one_at_a_time:
            if revision > self.revision:
                reply = await self._ask()
                self.revision, self.values = max(reply.revision, revision), reply.variables
