"""The clients that triggers and their kin use outside of runs: made when first needed, kept for the next call.

There is one for each server and key. The awaited ones belong to an event loop besides, since their connections do. A
forked child leaves its parent's alone and makes its own: two processes on one connection would read each other's replies.
"""

import asyncio
import atexit
import os
from collections.abc import AsyncGenerator
from typing import Any

from torpor.sdk.async_client import AsyncClient
from torpor.sdk.calls.sending import Target
from torpor.sdk.client import Client

_clients: dict[Target, Client] = {}
_async_clients: dict[asyncio.AbstractEventLoop, dict[Target, tuple[AsyncClient, Any]]] = {}
_of_parents: list[Any] = []
"""What a fork has copied. Kept, since even closing it would be heard: by the parent's event loop, or a TLS peer."""


def kept() -> Client:
    """The client for the server and key that the environment names now. Not to be closed.

    Raises:
        ConfigError: there is no key.
    """
    target = Target.choose(None, None)
    if (client := _clients.get(target)) is None:
        made = Client(target.url, target.key)
        client = _clients.setdefault(target, made)  # no lock: a fork could copy it locked
        if client is not made:
            made.close()  # another thread was faster
    return client


async def kept_async() -> AsyncClient:
    """The same for the running event loop.

    Raises:
        ConfigError: there is no key.
    """
    target = Target.choose(None, None)
    for loop in list(_async_clients):
        if loop.is_closed():
            _async_clients.pop(loop, None)
    clients = _async_clients.setdefault(asyncio.get_running_loop(), {})
    if target not in clients:
        client = AsyncClient(target.url, target.key)
        closing = _close_with_loop(client, clients, target)
        clients[target] = client, closing  # before anything is awaited
        await anext(closing)
    return clients[target][0]


async def _close_with_loop(
    client: AsyncClient, clients: dict[Target, tuple[AsyncClient, Any]], target: Target
) -> AsyncGenerator[None]:
    """asyncio.run ends its loop by closing all async generators: the only moment to close connections that it offers."""
    try:
        yield
    finally:
        clients.pop(target, None)
        await client.close()


def _close_all() -> None:
    while _clients:
        _clients.popitem()[1].close()


def _in_forked_child() -> None:
    _of_parents.append((dict(_clients), list(_async_clients.items())))
    _clients.clear()
    _async_clients.clear()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_in_forked_child)
