"""A process can say only so much ahead, whatever it says; others' news get through."""

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from torpor.wire import runner
from torpor.wire.framing import MAX_MESSAGE_BYTES, frame
from torpor.worker.control_socket import MAX_UNREAD_BYTES
from torpor.worker.inbox import EACH, ENOUGH, Inbox
from torpor.worker.process import Closed, RunProcess

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def call(number: int) -> runner.Call:
    return runner.Call(number, "trigger", msgspec.Raw(b"{}"))


async def test_it_is_heavy_until_half_of_it_is_dealt_with() -> None:
    lightened: list[bool] = []
    inbox = Inbox(lambda: lightened.append(True))
    inbox.hear(runner.Hello("a"), ENOUGH // 2)
    assert not inbox.is_heavy
    inbox.hear(runner.Hello("b"), ENOUGH // 2)
    assert inbox.is_heavy
    assert await inbox.get() == runner.Hello("a")
    assert inbox.is_heavy
    assert not lightened
    await inbox.get()
    assert not inbox.is_heavy
    assert lightened == [True]


async def test_small_messages_weigh_as_well() -> None:
    inbox = Inbox(lambda: None)
    heard = 0
    while not inbox.is_heavy:
        inbox.hear(runner.Block(), 30)
        heard += 1
    assert heard <= ENOUGH // EACH + 1


async def test_a_request_weighs_until_it_is_answered() -> None:
    """Else they would all be under way at once."""
    inbox = Inbox(lambda: None)
    requests = [call(number) for number in range(ENOUGH // EACH + 1)]
    for request in requests:
        inbox.hear(request, 2)
    taken = [await inbox.get() for _ in requests]
    assert inbox.is_heavy
    for request in taken:
        inbox.dealt_with(request)
    assert not inbox.is_heavy


async def test_news_of_others_weigh_nothing() -> None:
    inbox = Inbox(lambda: None)
    inbox.hear(runner.Hello("a"), 2 * ENOUGH)
    inbox.put_nowait("news")
    assert [await inbox.get(), await inbox.get()] == [runner.Hello("a"), "news"]


@contextmanager
def connected(process: RunProcess) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(process.directory / "ctl.sock"))
        peer.setblocking(False)
        yield peer


async def listening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunProcess:
    monkeypatch.chdir(tmp_path)  # a short path: unix sockets allow no other
    process = RunProcess(Path("run"))
    process.belongings.furnish()
    await process.listen()
    return process


async def test_a_flood_is_left_in_the_socket_and_read_on_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = await listening(tmp_path, monkeypatch)
    message = frame(runner.from_runner.encode(runner.NotSaved("x" * 100_000, [])))
    with connected(process) as peer:
        loop = asyncio.get_running_loop()
        sending = asyncio.ensure_future(loop.sock_sendall(peer, message * 200))
        done, _ = await asyncio.wait([sending], timeout=0.5)
        assert not done
        assert process.inbox.qsize() * len(message) < 2 * ENOUGH
        for _ in range(200):
            await asyncio.wait_for(process.inbox.get(), 60)
        await sending
        assert process.inbox.empty()
    await process.bury()


async def test_what_it_said_before_it_left_is_heard_though_we_were_speaking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run says that it is about to sleep, and closes, while it is being told something that it needs no more."""
    process = await listening(tmp_path, monkeypatch)
    with connected(process) as peer:
        while not process.is_connected:
            await asyncio.sleep(0)
        peer.sendall(frame(runner.from_runner.encode(runner.Suspending([], []))))
        peer.close()
        process.say(runner.Finishing())
        assert isinstance(await asyncio.wait_for(process.inbox.get(), 60), runner.Suspending)
        assert isinstance(await asyncio.wait_for(process.inbox.get(), 60), Closed)
    await process.bury()


async def test_one_message_may_be_as_large_as_a_message_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = await listening(tmp_path, monkeypatch)
    name = "x" * (MAX_MESSAGE_BYTES - 100)
    with connected(process) as peer:
        loop = asyncio.get_running_loop()
        message = frame(runner.from_runner.encode(runner.Hello(name)))
        sending = asyncio.ensure_future(loop.sock_sendall(peer, message * 2))
        assert [len((await process.inbox.get()).name) for _ in range(2)] == [len(name)] * 2
        await sending
    await process.bury()


async def test_who_never_reads_the_answers_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = await listening(tmp_path, monkeypatch)
    killed: list[str] = []
    monkeypatch.setattr(process, "_kill_for", killed.append)
    with connected(process):
        async with asyncio.timeout(60):
            while not process.is_connected:
                await asyncio.sleep(0.01)
        answer = runner.Result(1, True, msgspec.Raw(json.dumps("x" * (32 << 20)).encode()))
        for _ in range(MAX_UNREAD_BYTES // (32 << 20) + 1):
            process.say(answer)
    assert killed
    assert "does not listen" in killed[0]
    await process.bury()


NONSENSE: dict[str, bytes] = {
    "no JSON": b"\xff\xfe",
    "no object": b"[1]",
    "an unknown kind": b'{"type":"give me everything"}',
    "brackets": b'{"type":"call","call_id":1,"kind":"k","body":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "an object in an object": b'{"type":"finished","ok":true,"output":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001,
    "errors of errors": b'{"type":"finished","ok":false,"error":' + b'{"name":"","message":"","causes":[' * 50_000,
    "half a character": b'{"type":"hello","name":"\\ud800"}',
    "bytes that are no text": b'{"type":"hello","name":"\xff"}',
    "a number without end": b'{"type":"call","call_id":' + b"9" * 10_000 + b',"kind":"k","body":{}}',
    "a number that is none": b'{"type":"block","waits":[{"wait_id":"w","kind":"time","duration_s":NaN}]}',
    "nothing": b"",
}


@pytest.mark.parametrize("body", NONSENSE.values(), ids=NONSENSE)
async def test_nonsense_ends_the_process_and_nothing_else(
    body: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = await listening(tmp_path, monkeypatch)
    killed: list[str] = []
    failed: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failed.append(context))
    monkeypatch.setattr(process, "_kill_for", killed.append)
    with connected(process) as peer:
        await asyncio.get_running_loop().sock_sendall(peer, frame(body))
        async with asyncio.timeout(60):
            while not killed:
                await asyncio.sleep(0.01)
    assert "can't be understood" in killed[0]
    assert not failed
    await process.bury()
