"""The way to Postgres: a pool, `transaction()`, and the channel on which commits are announced.

Whatever keeps us from talking to the database surfaces as `DatabaseDown`; what the database has against a statement
(a broken CHECK, a deadlock) surfaces as asyncpg's own error. Nothing is retried here: a verb is repeated by whoever
sent the message, and messages are idempotent.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from time import monotonic
from typing import Any

import asyncpg
import asyncpg.transaction
import msgspec

from torpor.errors import TorporError

log = logging.getLogger(__name__)

CHANNEL = "torpor"
ACQUIRE_TIMEOUT_S = 10  # longer than any verb takes: who waits so long for a connection will not get one
LISTEN_CHECK_S = 20.0  # a listener on a dead TCP connection hears nothing; ask it this often whether it still lives

Callback = Callable[[str, dict[str, Any]], None]


class DatabaseDown(TorporError):
    """The database can't be reached or went away in mid-transaction. Whether a commit under way took effect is unknown:
    repeat the message, which is idempotent."""


# What a connection says when it breaks. 57P01, 57P02: the server shuts down, has crashed. InternalClientError: it was
# lost in the middle of a statement, and the driver was told so out of turn.
_BROKEN: tuple[type[Exception], ...] = (
    ConnectionError,
    asyncpg.PostgresConnectionError,
    asyncpg.InternalClientError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
)
# What we hear when we want one. 57P03: the server is starting up. 53300: no connection is left for us.
_DOWN = (
    *_BROKEN,
    OSError,
    TimeoutError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
)


def note(kind: str, /, **data: Any) -> str:
    """What `Transaction.notify` announces, for a statement that calls pg_notify by itself."""
    return msgspec.json.encode([kind, data]).decode()


class Transaction:
    """A connection inside a transaction, as verbs see it."""

    __slots__ = ("_connection", "execute", "executemany", "fetch", "fetchmany", "fetchrow", "fetchval")

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self.fetch = connection.fetch
        self.fetchrow = connection.fetchrow
        self.fetchval = connection.fetchval
        self.execute = connection.execute
        self.executemany = connection.executemany
        self.fetchmany = connection.fetchmany

    async def notify(self, kind: str, /, **data: Any) -> None:
        """Tell every listener, when (and only if) this transaction commits."""
        await self._connection.execute("select pg_notify($1, $2)", CHANNEL, note(kind, **data))

    async def notify_all(self, kind: str, /, notes: list[dict[str, Any]]) -> None:
        """Many notes of one kind, in one round trip."""
        texts = [msgspec.json.encode([kind, data]).decode() for data in notes]
        await self._connection.execute("select pg_notify($1, text) from unnest($2::text[]) as text", CHANNEL, texts)

    async def rows_once(self, statement: str, *values: Any, at_once: int) -> AsyncGenerator[asyncpg.Record, None]:
        """The rows, some at a time, of a statement that won't come again: it doesn't push out those that the connection
        remembers.
        """
        prepared = await self._connection.prepare(statement)
        async for row in prepared.cursor(*values, prefetch=at_once):
            yield row

    def savepoint(self) -> asyncpg.transaction.Transaction:
        """`await .start()`, then `.commit()` or `.rollback()`: rolling back gives up the locks taken since."""
        return self._connection.transaction()


class Database:
    """A pool of connections to one Postgres, and at most one that listens."""

    def __init__(self, url: str, pool: asyncpg.Pool) -> None:
        self._url = url
        self._pool = pool
        self._listener: asyncio.Task[None] | None = None
        self._callbacks: list[Callback] = []
        self._listening = asyncio.Event()
        self.reached_since = monotonic()
        """Since when (by the monotonic clock) every attempt to talk to the database has succeeded."""

    @classmethod
    async def connect(cls, url: str, *, pool_size: int = 10) -> "Database":
        """Open the pool.

        Raises:
            DatabaseDown: nobody answers at that URL.
        """
        with told_as_down():
            pool = await asyncpg.create_pool(
                url,
                # A pool that keeps a floor complains in the log, at length, while a database restarts.
                min_size=0,
                max_size=pool_size,
                init=_prepare,
                timeout=ACQUIRE_TIMEOUT_S,
                # Our statements are few and want the same plan whatever their values; planning some of them anew each
                # time would take longer than they do.
                server_settings={"plan_cache_mode": "force_generic_plan"},
            )
            async with pool.acquire(timeout=ACQUIRE_TIMEOUT_S):
                pass  # a wrong URL is heard of here, not at the first request
        return cls(url, pool)

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """A transaction: committed when the block ends, rolled back when it raises.

        Raises:
            DatabaseDown: no connection could be had, or it broke.
        """
        try:
            with told_as_down():
                connection = await self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S)
            try:
                # In the caller's block a TimeoutError or a file's OSError is the caller's own.
                with told_as_down(_BROKEN):
                    async with connection.transaction():
                        yield Transaction(connection)  # pyright: ignore[reportArgumentType]  # the pool's proxy
            finally:
                with told_as_down():
                    await self._pool.release(connection)
        except DatabaseDown:
            self.reached_since = monotonic()
            raise

    async def listen(self, callback: Callback) -> None:
        """From now on call `callback(kind, data)` for every notify. Returns once the channel is open.

        When the connection broke, notes may have been missed: after it is back, the callback is told `"reconnected"`
        and reads again whatever it goes by. The callback must not block; what it raises is logged.
        """
        self._callbacks.append(callback)
        if self._listener is None:
            self._listener = asyncio.create_task(self._keep_listening(), name="torpor database listener")
        await self._listening.wait()

    async def close(self) -> None:
        """Close every connection; transactions under way have five seconds to end."""
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.gather(self._listener, return_exceptions=True)
            self._listener = None
        try:
            await asyncio.wait_for(self._pool.close(), 5)
        except (asyncpg.InterfaceError, *_DOWN):
            self._pool.terminate()

    async def _keep_listening(self) -> None:
        delay_s = 0.05
        while True:
            try:
                connection = await asyncpg.connect(self._url, timeout=ACQUIRE_TIMEOUT_S)
                try:
                    delay_s = 0.05
                    await self._hear(connection)
                finally:
                    connection.terminate()
            except (*_DOWN, asyncpg.InterfaceError) as error:
                log.warning("the database's announcements are cut off (%s); trying again", error)
            self.reached_since = monotonic()
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, 2.0)

    async def _hear(self, connection: asyncpg.Connection) -> None:
        """Listen until this connection breaks."""
        closed = asyncio.Event()
        connection.add_termination_listener(lambda _: closed.set())
        await connection.add_listener(CHANNEL, self._heard)
        if self._listening.is_set():
            self._tell("reconnected", {})
        self._listening.set()
        while not closed.is_set():
            try:
                await asyncio.wait_for(closed.wait(), LISTEN_CHECK_S)
            except TimeoutError:
                await connection.execute("select 1", timeout=ACQUIRE_TIMEOUT_S)

    def _heard(self, _connection: object, _pid: int, _channel: str, text: object) -> None:
        kind, data = msgspec.json.decode(str(text))
        self._tell(kind, data)

    def _tell(self, kind: str, data: dict[str, Any]) -> None:
        for callback in self._callbacks:
            try:
                callback(kind, data)
            except Exception:
                log.exception("a listener failed on %r", kind)


@contextlib.contextmanager
def told_as_down(signs: tuple[type[Exception], ...] = _DOWN) -> Iterator[None]:
    """Whatever means "the database can't be talked to" leaves this block as DatabaseDown."""
    try:
        yield
    except signs as error:
        raise DatabaseDown(f"the database does not answer: {error or type(error).__name__}") from error
    except asyncpg.InterfaceError as error:
        # asyncpg's word for a connection that was closed under us, and also for wrong calls of its functions.
        # Of a value that is wrong it is a ValueError beside, and the value may well hold the word.
        if isinstance(error, ValueError) or "clos" not in str(error):
            raise
        raise DatabaseDown(f"the database does not answer: {error}") from error


async def _prepare(connection: asyncpg.Connection) -> None:
    """jsonb columns are plain Python values on our side."""
    await connection.set_type_codec(
        "jsonb",
        schema="pg_catalog",
        # A NUL is the one character that jsonb can't hold; an exception's message may well contain one.
        encoder=lambda value: msgspec.json.encode(value).decode().replace("\\u0000", "\\ufffd"),
        decoder=msgspec.json.decode,
    )
