"""The two doors to the API, a blocking and an awaited one, and how one method serves both.

A method of the API is written once, as what it asks: it returns a `Call` or a `Listing`. `asked` and `listed` make of it the
method that a caller sees. In a `Door` it sends, and returns the answer; in an `AsyncDoor` it is a coroutine function, or
returns an async iterator. The doors differ in how they send and sleep, and in nothing else.

httpx2 is imported when the first client is made: `import torpor` and a run never load it.
"""

import asyncio
import functools
import inspect
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, get_args, overload

from torpor.sdk.calls.call import Call, Json
from torpor.sdk.calls.listings import Listing
from torpor.sdk.calls.sending import Attempts, Target

P = ParamSpec("P")
T = TypeVar("T")


class Door:
    """Calls that block."""

    def __init__(self, api_url: str | None = None, secret_key: str | None = None, *, transport: Any = None) -> None:
        import httpx2

        self._target = Target.choose(api_url, secret_key)
        self._no_reply = httpx2.TransportError
        self._http = httpx2.Client(transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _do(self, call: Call[T], kind: type[Attempts] = Attempts) -> T:
        request, attempts = self._target.request(self._http, call), kind(self._target)
        while True:
            try:
                pause = attempts.answered(self._http.send(request))
            except self._no_reply as error:
                pause = attempts.failed(error)
            if pause is None:
                return call.read(attempts.value)
            time.sleep(pause)

    def _each(self, listing: Listing) -> Iterator[Json]:
        while call := listing.call:
            yield from listing.read(self._do(call, listing.attempts))


class AsyncDoor:
    """Calls that are awaited."""

    def __init__(self, api_url: str | None = None, secret_key: str | None = None, *, transport: Any = None) -> None:
        import httpx2

        self._target = Target.choose(api_url, secret_key)
        self._no_reply = httpx2.TransportError
        self._http = httpx2.AsyncClient(transport=transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _do(self, call: Call[T], kind: type[Attempts] = Attempts) -> T:
        request, attempts = self._target.request(self._http, call), kind(self._target)
        while True:
            try:
                pause = attempts.answered(await self._http.send(request))
            except self._no_reply as error:
                pause = attempts.failed(error)
            if pause is None:
                return call.read(attempts.value)
            await asyncio.sleep(pause)

    async def _each(self, listing: Listing) -> AsyncIterator[Json]:
        while call := listing.call:
            for item in listing.read(await self._do(call, listing.attempts)):
                yield item


class _Method:
    """A method of the API: one function in blocking clients, another one in awaited ones."""

    _blocking: Callable[..., Any]
    _awaited: Callable[..., Any]

    def __get__(self, client: Any, owner: type[Any]) -> Any:
        function: Any = self._awaited if issubclass(owner, AsyncDoor) else self._blocking
        return function.__get__(client, owner)


class asked(_Method, Generic[P, T]):
    """A method with one answer."""

    def __init__(self, write: Callable[Concatenate[Any, P], Call[T]]) -> None:
        def blocking(client: Door, *args: P.args, **kwargs: P.kwargs) -> T:
            return client._do(write(client, *args, **kwargs))

        async def awaited(client: AsyncDoor, *args: P.args, **kwargs: P.kwargs) -> T:
            return await client._do(write(client, *args, **kwargs))

        (answer,) = get_args(inspect.signature(write).return_annotation)
        self._blocking = _shown_as(write, blocking, answer)
        self._awaited = _shown_as(write, awaited, answer)

    @overload
    def __get__(self, client: Door, owner: type[Any]) -> Callable[P, T]: ...
    @overload
    def __get__(self, client: AsyncDoor, owner: type[Any]) -> Callable[P, Coroutine[Any, Any, T]]: ...
    @overload
    def __get__(self, client: None, owner: type[Any]) -> Callable[..., Any]: ...
    def __get__(self, client: Any, owner: type[Any]) -> Any:
        return super().__get__(client, owner)


class listed(_Method, Generic[P]):
    """A method with as many answers as there are."""

    def __init__(self, write: Callable[Concatenate[Any, P], Listing]) -> None:
        def blocking(client: Door, *args: P.args, **kwargs: P.kwargs) -> Iterator[Json]:
            return client._each(write(client, *args, **kwargs))

        def awaited(client: AsyncDoor, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[Json]:
            return client._each(write(client, *args, **kwargs))

        self._blocking = _shown_as(write, blocking, Iterator[Json])
        self._awaited = _shown_as(write, awaited, AsyncIterator[Json])

    @overload
    def __get__(self, client: Door, owner: type[Any]) -> Callable[P, Iterator[Json]]: ...
    @overload
    def __get__(self, client: AsyncDoor, owner: type[Any]) -> Callable[P, AsyncIterator[Json]]: ...
    @overload
    def __get__(self, client: None, owner: type[Any]) -> Callable[..., Any]: ...
    def __get__(self, client: Any, owner: type[Any]) -> Any:
        return super().__get__(client, owner)


def _shown_as(write: Callable[..., Any], function: Any, answer: Any) -> Any:
    """The function by the name, with the docstring and the parameters of what was written, for `help` and editors."""
    functools.update_wrapper(function, write)
    function.__signature__ = inspect.signature(write).replace(return_annotation=answer)
    return function
