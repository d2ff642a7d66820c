"""Where goes what is too large for a row, and what frozen processes are made of: a directory, or a bucket of S3, GCS or Azure.

An object is written once, under a name that nobody has had before, and is durable when `put` returns; so the row that
names it is written after. A crash in between leaves an object that no row names: retention finds it (`old`).

Credentials are looked for in `TORPOR_STORE_AWS_ACCESS_KEY_ID` and the like first, then in `AWS_ACCESS_KEY_ID` and the like:
variables that begin with TORPOR_ never reach user code, so a worker's keys to the store need not be those of its tasks.
"""

import asyncio
import contextlib
import os
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from torpor import ids
from torpor.errors import ConfigError, TorporError

_NAME = re.compile(r"[\w-]+/[\w-]+")
_DRAFT = ".draft"

IDENTITY = "store/id"
"""The object that tells one store from another."""

_CREDENTIALS = "TORPOR_STORE_"
_PATIENCE = {"max_retries": 4, "retry_timeout": timedelta(seconds=30)}
"""A frozen process stands still until its image is stored, or is known not to be; it should not stand for minutes."""
_AT_ONCE = 16


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

    async def put_new(self, name: str, data: bytes) -> bool:
        """Keep this, durably, unless there is an object of that name; False: there is.

        Raises:
            ObjectsDown: it can't be kept now.
        """
        ...

    async def put_all(self, objects: Sequence[tuple[str, bytes]]) -> None:
        """Keep these, durably: the last one becomes visible only when all before it are there. Quicker than one by one.

        Raises:
            ObjectsDown: they can't be kept now; some may have been.
        """
        ...

    async def get_range(self, name: str, start: int, size: int) -> bytes:
        """A part of what was put; shorter when the object ends before.

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


async def identity(objects: Objects) -> str:
    """The id of this store, made at first use. Who reads the same id reads the same objects."""
    try:
        return (await objects.get(IDENTITY)).decode()
    except ObjectMissing:
        # There are S3 servers that don't know conditional writes; so nothing is written where something could be read.
        await objects.put_new(IDENTITY, ids.new("store").encode())
        return (await objects.get(IDENTITY)).decode()


class Directory:
    """Objects as files. For one machine, or several on one shared disk."""

    def __init__(self, root: Path) -> None:
        self._root = root
        # One fsync after the other would cost more than all of them together: they share the disk's journal.
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="objects")

    async def put(self, name: str, data: bytes) -> None:
        await self._do(self._put, name, data)

    async def put_new(self, name: str, data: bytes) -> bool:
        return await self._do(self._put_new, name, data)

    async def put_all(self, objects: Sequence[tuple[str, bytes]]) -> None:
        writing = (self._do(self._draft, name, data) for name, data in objects)
        done = await asyncio.gather(*writing, return_exceptions=True)
        drafts = [draft for draft in done if isinstance(draft, Path)]
        for failure in done:
            if isinstance(failure, BaseException):
                await self._do(lambda: [draft.unlink() for draft in drafts])
                raise failure
        await self._do(self._publish, drafts)

    async def get_range(self, name: str, start: int, size: int) -> bytes:
        return await self._do(self._get_range, name, start, size)

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
            return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)
        except OSError as error:
            raise ObjectsDown(f"the object store in {self._root} fails: {error}") from error

    def _path(self, name: str) -> Path:
        assert _NAME.fullmatch(name), name
        return self._root / name

    def _put(self, name: str, data: bytes) -> None:
        self._publish([self._draft(name, data)])

    def _put_new(self, name: str, data: bytes) -> bool:
        if self._path(name).exists():
            return False
        draft = self._draft(name, data, f".{ids.new('new')}{_DRAFT}")
        try:
            os.link(draft, self._path(name))
        except FileExistsError:
            return False  # Another process was quicker.
        finally:
            draft.unlink()
        _sync(draft.parent)
        return True

    def _draft(self, name: str, data: bytes, ending: str = _DRAFT) -> Path:
        """All of it on the disk, not yet under its name."""
        path = self._path(name)
        try:
            path.parent.mkdir(mode=0o700, parents=True)
        except FileExistsError:
            pass
        else:
            _sync(self._root)
        draft = path.with_name(path.name + ending)
        try:
            with draft.open("wb", buffering=0) as file:
                rest = memoryview(data)
                while rest:
                    rest = rest[file.write(rest) :]
                os.fsync(file.fileno())
        except OSError:
            draft.unlink(missing_ok=True)  # On a full disk half a draft would keep others from being written.
            raise
        return draft

    def _publish(self, drafts: Sequence[Path]) -> None:
        """Give them their names, in this order. The disk keeps the order too, where renames go through one journal."""
        for draft in drafts:
            draft.rename(draft.with_name(draft.name.removesuffix(_DRAFT)))
        for directory in {draft.parent: None for draft in drafts}:
            _sync(directory)

    def _get(self, name: str) -> bytes:
        try:
            return self._path(name).read_bytes()
        except FileNotFoundError:
            raise ObjectMissing(f"object {name} is not in {self._root}") from None

    def _get_range(self, name: str, start: int, size: int) -> bytes:
        try:
            with self._path(name).open("rb", buffering=0) as file:
                return os.pread(file.fileno(), size, start)
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
    """Objects in S3, GCS or Azure."""

    def __init__(self, url: str) -> None:
        from obstore.store import from_url

        self._url = url
        try:
            self._store: Any = from_url(url, **_options(url, os.environ))
        except Exception as error:  # noqa: BLE001  # obstore has many, and none in common
            raise ConfigError(
                f"TORPOR_OBJECT_STORE={url!r} can't be used: {_first_line(error)}. It should look like s3://bucket/prefix, "
                "gs://bucket/prefix, az://container/prefix or file:///a/directory"
            ) from None

    async def put(self, name: str, data: bytes) -> None:
        with self._told():
            await self._store.put_async(name, data)

    async def put_new(self, name: str, data: bytes) -> bool:
        from obstore.exceptions import AlreadyExistsError

        try:
            with self._told():
                await self._store.put_async(name, data, mode="create")
        except AlreadyExistsError:
            return False
        return True

    async def put_all(self, objects: Sequence[tuple[str, bytes]]) -> None:
        await asyncio.gather(*(self.put(name, data) for name, data in objects[:-1]))
        for name, data in objects[-1:]:
            await self.put(name, data)

    async def get_range(self, name: str, start: int, size: int) -> bytes:
        try:
            with self._told():
                return bytes(await self._store.get_range_async(name, start=start, length=size))
        except FileNotFoundError:
            raise ObjectMissing(f"object {name} is not in {self._url}") from None
        except _NoRanges:
            return (await self.get(name))[start : start + size]  # There are S3 servers that always send all of it.

    async def get(self, name: str) -> bytes:
        try:
            with self._told():
                result = await self._store.get_async(name)
                return bytes(await result.bytes_async())
        except FileNotFoundError:
            raise ObjectMissing(f"object {name} is not in {self._url}") from None

    async def delete(self, names: Sequence[str]) -> None:
        room = asyncio.Semaphore(_AT_ONCE)

        async def delete(name: str) -> None:
            async with room:
                with contextlib.suppress(FileNotFoundError), self._told():
                    await self._store.delete_async(name)

        await asyncio.gather(*(delete(name) for name in names))

    async def old(self, owner: str, before: datetime) -> AsyncIterator[list[str]]:
        with self._told():
            pages = self._store.list(owner, chunk_size=500)
            async for page in pages:
                names = [str(found["path"]) for found in page if found["last_modified"] < before]
                if names:
                    yield names

    @contextlib.contextmanager
    def _told(self) -> Any:
        from obstore.exceptions import AlreadyExistsError

        try:
            yield
        except (FileNotFoundError, AlreadyExistsError, _NoRanges):
            raise
        except Exception as error:
            if "non-partial response" in str(error):
                raise _NoRanges from error
            raise ObjectsDown(f"the object store {self._url} does not answer: {_first_line(error)}") from error


class _NoRanges(Exception):
    """The server doesn't know ranges."""


def _options(url: str, environ: Mapping[str, str]) -> dict[str, Any]:
    """What the library is told beside the URL. It looks at AWS_… and the like by itself."""
    if url.startswith("memory:"):
        return {}
    named = {
        name.removeprefix(_CREDENTIALS).lower(): text for name, text in environ.items() if name.startswith(_CREDENTIALS)
    }
    client: dict[str, Any] = {"connect_timeout": "5s", "timeout": "60s"}
    for name in [name for name in named if name.endswith(("allow_http", "allow_invalid_certificates"))]:
        option = name[name.index("allow_") :]
        client[option] = named.pop(name).lower() in (
            "1",
            "true",
            "yes",
        )  # The library panics at these among the others.
    return {"config": named, "retry_config": _PATIENCE, "client_options": client}


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
