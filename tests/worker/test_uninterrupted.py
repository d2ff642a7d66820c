"""What a thread makes is there when it is cleaned up, though nobody waits for it any more."""

import asyncio
import threading
from pathlib import Path

import pytest

from torpor.worker.uninterrupted import uninterrupted

pytestmark = pytest.mark.anyio


async def test_who_is_canceled_waits_for_the_end_of_it_and_has_it_undone(tmp_path: Path):
    begun, may_end = threading.Event(), threading.Event()

    def make() -> Path:
        begun.set()
        may_end.wait()
        (tmp_path / "made").mkdir()
        return tmp_path / "made"

    making = asyncio.create_task(uninterrupted(make, undo=Path.rmdir))
    await asyncio.to_thread(begun.wait)
    making.cancel()
    done, _ = await asyncio.wait({making}, timeout=0.05)
    assert not done
    may_end.set()
    await asyncio.wait({making})
    assert making.cancelled()
    assert list(tmp_path.iterdir()) == []


async def test_who_is_not_canceled_gets_what_it_gives_or_raises(tmp_path: Path):
    assert await uninterrupted(tmp_path.exists) is True
    with pytest.raises(FileNotFoundError):
        await uninterrupted((tmp_path / "missing").read_text)
