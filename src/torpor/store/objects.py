"""Where payloads and outputs go that are too large for a row: a directory, or a bucket of S3, GCS or Azure.

An object is written once, under a name that nobody has had before, and is durable when `put` returns; so the row that
names it is written after. A crash in between leaves an object that no row names: retention finds it (`old`).
"""

import asyncio
import contextlib
import os
import re
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from torpor import ids
from torpor.errors import ConfigError, TorporError

_NAME = re.compile(r"[\w-]+/[\w-]+")
_DRAFT = ".draft"


class ObjectsDown(TorporError):
    """The object store does not answer, or not as it should. Try again."""


class ObjectMissing(TorporError):
    """There is no such object: it was deleted, or another server has put it into a store of its own."""


class Objects(Protocol):
    """An object store."""

    async def put(self, name: str, data: bytes) -> None:
        """Keep this, durably.

        Raises:
            ObjectsDown: it can't be kept now.
        """
        ...

    async def get(self, name: str) -> bytes:
        """What was put.

        Raises:
            ObjectMissing: nothing was, or it was deleted.
            ObjectsDown: it can't be read now.
        """
        ...

    async def delete(self, names: Sequence[str]) -> None:
        """Forget these; one that isn't there is fine."""
        ...

    def old(self, owner: str, before: datetime) -> AsyncIterator[list[str]]:
        """The names of what was put for this owner before that instant, some at a time."""
        ...


def new_name(owner: str, of: str, what: str, size: int) -> str:
    """A name that nobody has had before: `<environment>/<run>-output-<something new>-<bytes>`. Pages of results go by the size
    in it.
    """
    return f"{owner}/{of}-{what}-{ids.new('object').partition('_')[2]}-{size}"


def open_objects(url: str | None, directory: Path) -> Objects:
    """The store that this URL names: `s3://bucket/prefix`, `gs://…`, `az://…`; without one, this directory.

    Raises:
        ConfigError: that is no URL of an object store.
    """
    if url is None:
        return Directory(directory)
    if url.startswith("file://"):
        return Directory(Path(url.removeprefix("file://")))
    return Bucket(url)


class Directory:
    """Objects as files. For one server, or several on one shared disk."""

    def __init__(self, root: Path) -> None:
        self._root = root

    async def put(self, name: str, data: bytes) -> None:
        await self._do(self._put, name, data)

    async def get(self, name: str) -> bytes:
        return await self._do(self._get, name)

    async def delete(self, names: Sequence[str]) -> None:
        await self._do(self._delete, names)

    async def old(self, owner: str, before: datetime) -> AsyncIterator[list[str]]:
        found = await self._do(self._old, owner, before)
        for first in range(0, len(found), 500):
            yield found[first : first + 500]

    async def _do(self, function: Any, *args: Any) -> Any:
        try:
            return await asyncio.to_thread(function, *args)
        except OSError as error:
            raise ObjectsDown(f"the object store in {self._root} fails: {error}") from error

    def _path(self, name: str) -> Path:
        assert _NAME.fullmatch(name), name
        return self._root / name

    def _put(self, name: str, data: bytes) -> None:
        path = self._path(name)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = path.with_name(path.name + _DRAFT)
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)
        for directory in (path.parent, self._root):
            fd = os.open(directory, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def _get(self, name: str) -> bytes:
        try:
            return self._path(name).read_bytes()
        except FileNotFoundError:
            raise ObjectMissing(f"object {name} is not in {self._root}") from None

    def _delete(self, names: Sequence[str]) -> None:
        for name in names:
            path = self._path(name)
            path.unlink(missing_ok=True)
            path.with_name(path.name + _DRAFT).unlink(missing_ok=True)

    def _old(self, owner: str, before: datetime) -> list[str]:
        found: set[str] = set()
        for file in (self._root / owner).glob("*"):
            with contextlib.suppress(FileNotFoundError):
                if datetime.fromtimestamp(file.stat().st_mtime, UTC) < before:
                    found.add(f"{owner}/{file.name.removesuffix(_DRAFT)}")  # a crash has left a draft
        return sorted(found)


class Bucket:
    """Objects in S3, GCS or Azure. Credentials come from the usual variables of those (AWS_ACCESS_KEY_ID, …)."""

    def __init__(self, url: str) -> None:
        from obstore.store import from_url

        self._url = url
        try:
            self._store: Any = from_url(url)
        except Exception as error:  # noqa: BLE001  # obstore has many, and none in common
            raise ConfigError(
                f"TORPOR_OBJECT_STORE={url!r} can't be used: {_first_line(error)}. It should look like s3://bucket/prefix, "
                "gs://bucket/prefix, az://container/prefix or file:///a/directory"
            ) from None

    async def put(self, name: str, data: bytes) -> None:
        with self._told():
            await self._store.put_async(name, data)

    async def get(self, name: str) -> bytes:
        try:
            with self._told():
                result = await self._store.get_async(name)
                return bytes(await result.bytes_async())
        except FileNotFoundError:
            raise ObjectMissing(f"object {name} is not in {self._url}") from None

    async def delete(self, names: Sequence[str]) -> None:
        for name in names:
            with contextlib.suppress(FileNotFoundError), self._told():
                await self._store.delete_async(name)

    async def old(self, owner: str, before: datetime) -> AsyncIterator[list[str]]:
        with self._told():
            pages = self._store.list(owner, chunk_size=500)
            async for page in pages:
                names = [str(found["path"]) for found in page if found["last_modified"] < before]
                if names:
                    yield names

    @contextlib.contextmanager
    def _told(self) -> Any:
        try:
            yield
        except FileNotFoundError:
            raise
        except Exception as error:
            raise ObjectsDown(f"the object store {self._url} does not answer: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
