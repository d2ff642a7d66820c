"""The server process: database up to date, its environment there, duties running, requests answered, a graceful end."""

import asyncio
import contextlib
import gc
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace

import uvicorn
from fastapi import FastAPI

from torpor import engine
from torpor.clock import Clock, SystemClock
from torpor.config import Settings
from torpor.errors import ConfigError
from torpor.server import accounts, keys, loops, machines, master_keys
from torpor.server.app import create_app
from torpor.server.connections import Connection
from torpor.server.event_streams import CUT
from torpor.server.hub import Hub
from torpor.server.master_keys import MasterKeys
from torpor.store import migrate
from torpor.store.database import Database

log = logging.getLogger("torpor.server")

DRAIN_S = 10
"""How long requests under way may take to end after a stop; held ones end at once."""


async def serve(
    settings: Settings,
    database_url: str,
    *,
    stop: asyncio.Event | None = None,
    ready: Callable[[str], object] = lambda url: None,
    newcomer: Callable[[str], object] | None = None,
    clock: Clock | None = None,
) -> None:
    """Serve until told to stop, by SIGTERM or SIGINT, or, when `stop` is given, by that alone.

    Args:
        settings: with a secret key, and a worker token if there are to be workers. Port 0 takes any free one.
        database_url: a Postgres; it is migrated first.
        stop: instead of signals, for a server inside another program.
        ready: called once with the server's URL, when it takes requests.
        newcomer: called before that, if the dashboard has no account yet, with a link behind which the first one is made.
        clock: where `now` comes from.

    Raises:
        ConfigError: there is no secret key, or it is none, the port is taken, or a master key is missing.
    """
    if not settings.secret_key:
        raise ConfigError("TORPOR_SECRET_KEY is not set: the server needs the secret key of its environment")
    clock = clock or SystemClock()
    listener = _listen(settings)
    settings = replace(settings, port=listener.getsockname()[1])
    with contextlib.closing(listener):
        await migrate.upgrade(database_url)
        database = await Database.connect(database_url)
        try:
            await _ensure_environment(database, settings, clock)
            app = create_app(settings, database, clock)
            _ = app.state.hub.openid  # what is wrong with its settings is told now
            if newcomer is not None and (link := await accounts.first_link(app.state.hub)):
                newcomer(link)
            async with _stop_on_signals(stop) as stopping:
                await _run(app, app.state.hub, listener, stopping, ready)
        finally:
            await database.close()


def run_server(
    settings: Settings,
    database_url: str,
    *,
    ready: Callable[[str], object] = lambda url: None,
    newcomer: Callable[[str], object] | None = None,
) -> None:
    """`serve` in an event loop of its own: uvloop's, which takes about twice as many requests per second."""
    import uvloop

    # A full collection looks at every object of every open connection: with a thousand subscriptions it held up everybody for
    # 170 ms of CPU, some times a minute, and found nothing. What was imported is never garbage; cycles are found while young.
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)
    uvloop.run(serve(settings, database_url, ready=ready, newcomer=newcomer))


async def _ensure_environment(database: Database, settings: Settings, clock: Clock) -> None:
    masters, now = MasterKeys.of(settings), clock.now()
    presets, default_preset = machines.presets(settings)
    async with database.transaction() as tx:
        environment = await engine.ensure_environment(
            tx,
            engine.ENVIRONMENT,
            key_hash=None,
            checkpoint_retention_s=settings.checkpoint_retention_s,
            presets=presets,
            default_preset=default_preset,
            now=now,
        )
        key = await engine.configure_key(
            tx, environment.id, keys.configured(masters, settings.secret_key or ""), now=now
        )
        for each in await engine.read.environments(tx):
            if each.id != environment.id:  # what a setting says, it says of all
                await engine.ensure_environment(
                    tx,
                    each.slug,
                    key_hash=None,
                    project=each.project,
                    checkpoint_retention_s=settings.checkpoint_retention_s,
                    presets=presets,
                    default_preset=default_preset,
                    now=now,
                )
    if not engine.is_valid(key, now):
        log.warning(
            "TORPOR_SECRET_KEY is a key that was revoked or has run out: it is refused. Start with another one."
        )
    await master_keys.ready(database, masters, environment.id, now=now)


async def _run(
    app: FastAPI,
    here: Hub,
    listener: socket.socket,
    stopping: asyncio.Event,
    ready: Callable[[str], object],
) -> None:
    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        access_log=False,
        log_config=None,
        log_level="warning",
        lifespan="off",
        timeout_graceful_shutdown=DRAIN_S,
        server_header=False,
        forwarded_allow_ips=here.settings.proxies,
    )
    server = _Uvicorn(config, lambda: ready(f"http://{here.settings.host}:{here.settings.port}"))
    await here.database.listen(here.wakeups.hear)
    await here.database.listen(here.feeds.hear)
    await here.database.listen(here.hear)
    duties = asyncio.create_task(loops.run_all(here), name="duties")
    serving = asyncio.create_task(server.serve([listener]), name="uvicorn")
    stopped = asyncio.create_task(stopping.wait(), name="stop")
    try:
        await asyncio.wait({duties, serving, stopped}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (duties, stopped):
            task.cancel()
        here.wakeups.close()
        server.cut_event_streams()
        here.feeds.close()
        server.should_exit = True
        await asyncio.wait({serving, duties, stopped})
    for task in (duties, serving):
        if not task.cancelled():
            task.result()  # a bug that ended it goes to the caller


class _Uvicorn(uvicorn.Server):
    """uvicorn that tells when it takes requests, and without signal handlers: who stops us is `serve`'s business."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], object]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    def cut_event_streams(self) -> None:
        """Their clients come again, to another server; one that were told of an end would not (event_streams.py)."""
        for connection in tuple(self.server_state.connections):
            cycle = getattr(connection, "cycle", None)
            if cycle is None or cycle.response_complete or not cycle.scope.get(CUT):
                continue
            if cycle.transport.get_write_buffer_size():
                cycle.transport.abort()  # a slow reader: it would be waited for
            else:
                cycle.transport.close()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def _stop_on_signals(stop: asyncio.Event | None) -> AsyncIterator[asyncio.Event]:
    """The event that stops the server: the caller's, or one that SIGTERM and SIGINT set."""
    if stop is not None:
        yield stop
        return
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def _listen(settings: Settings) -> socket.socket:
    """Bound before anything else, so that a port already taken is told at once, and port 0 is known."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise ConfigError(
            f"the server can't listen on {settings.host}:{settings.port} ({error.strerror or error}): "
            "choose another TORPOR_HOST or TORPOR_PORT"
        ) from None
    listener.listen(1024)
    listener.setblocking(False)
    return listener
