"""M10, M11: streams over HTTP. A reader sees each part once and in order, however often he is cut off."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import jwt
import msgspec
import pytest
from facts import PATIENCE_S, until
from fake_worker import KEY, TOKEN, FakeWorker, Start, awake
from sse import Events, reading

from torpor import ids
from torpor.config import Settings
from torpor.engine.read_streams import PAGE_BYTES
from torpor.errors import NotFound
from torpor.sdk.async_client import AsyncClient
from torpor.sdk.calls import sending
from torpor.sdk.client import Client
from torpor.server import serve as serving
from torpor.server import streams, tails
from torpor.store.database import Database
from torpor.wire import http as wire
from torpor.wire.http import InputRead, InputReply, StreamReply, StreamReport
from torpor.wire.runner import Part

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")]

STREAMS = "/realtime/v1/streams"


@pytest.fixture(scope="module")
async def url(lasting_url: str) -> str:
    """One server for all: each test has a run of its own."""
    return lasting_url


@pytest.fixture(scope="module")
async def http(url: str) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=url, headers={"authorization": f"Bearer {KEY}"}) as http:
        yield http


@pytest.fixture(scope="module")
async def client(url: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(url, KEY) as client:
        yield client


@pytest.fixture(scope="module")
async def worker(url: str) -> AsyncIterator[FakeWorker]:
    async with awake(url) as worker:
        yield worker


@pytest.fixture
async def given(client: AsyncClient, worker: FakeWorker) -> wire.Assignment:
    """A run at work."""
    await client.trigger("echo", 1)
    return await worker.take_and_start()


async def say(worker: FakeWorker, given: wire.Assignment, key: str, *data: Any, target: Any = "self") -> int:
    parts = [Part(ids.new("part"), msgspec.Raw(msgspec.json.encode(each))) for each in data]
    report = StreamReport(given.lease, key, parts, target)
    return (await worker.say(f"runs/{given.run_id}/streams", report, StreamReply)).added


async def test_a_reader_sees_parts_as_they_come_and_the_end_when_the_run_is_over(
    http: httpx2.AsyncClient, worker: FakeWorker, given: wire.Assignment
) -> None:
    await say(worker, given, "log", "before")
    async with reading(http, f"{STREAMS}/{given.run_id}/log") as events:
        assert events.response.headers["content-type"].startswith("text/event-stream")
        assert events.response.headers["x-stream-version"] == "v2"
        assert await events.part() == "before"
        for part in ({"n": 1}, None, "ä\n\n\0", [1.5]):
            await say(worker, given, "log", part)
            assert await events.part() == part
        await say(worker, given, "log", "last", "words")
        await worker.finish(given)
        assert await events.rest() == ["last", "words"]


async def test_the_framing_is_what_the_official_client_reads(
    http: httpx2.AsyncClient, worker: FakeWorker, given: wire.Assignment
) -> None:
    part = Part("part_1", msgspec.Raw(b'{"a": "\\n"}'))
    await worker.say(f"runs/{given.run_id}/streams", StreamReport(given.lease, "log", [part]), StreamReply)
    await worker.finish(given)
    text = (await http.get(f"{STREAMS}/{given.run_id}/log")).text
    event, data, _, end, *_ = text.split("\n")
    [record] = msgspec.json.decode(data.removeprefix("data: "))["records"]
    assert (event, end) == ("event: batch", "event: end")
    assert record.pop("timestamp") > 1_700_000_000_000
    assert record == {"seq_num": 0, "body": '{"data":{"a": "\\n"},"id":"part_1"}', "headers": []}


async def test_who_comes_before_the_stream_and_before_the_run_begins_is_held(
    http: httpx2.AsyncClient, client: AsyncClient, worker: FakeWorker
) -> None:
    run_id = (await client.trigger("echo", 1))["id"]
    async with reading(http, f"{STREAMS}/{run_id}/log") as events:
        given = await worker.take_and_start()
        await say(worker, given, "log", 1)
        assert await events.part() == 1


async def test_a_reader_that_is_cut_off_again_and_again_loses_nothing_and_sees_nothing_twice(
    http: httpx2.AsyncClient, worker: FakeWorker, given: wire.Assignment
) -> None:
    async def write() -> None:
        for n in range(0, 300, 3):
            await say(worker, given, "log", n, n + 1, n + 2)
        await worker.finish(given)

    writing = asyncio.create_task(write())
    seen: list[int] = []
    last = -1
    async with asyncio.timeout(PATIENCE_S):
        while len(seen) < 300:
            async with reading(http, f"{STREAMS}/{given.run_id}/log", last_event_id=str(last)) as events:
                for _ in range(min(17, 300 - len(seen))):
                    seen.append(await events.part())
                last = events.last
    assert seen == list(range(300))
    await writing


async def test_a_reader_may_begin_anywhere(
    http: httpx2.AsyncClient, worker: FakeWorker, given: wire.Assignment
) -> None:
    path = f"{STREAMS}/{given.run_id}/log"
    await say(worker, given, "log", 0, 1, 2)
    async with reading(http, path, last_event_id="1") as behind, reading(http, path, last_event_id="-1") as whole:
        assert (await behind.part(), await whole.part()) == (2, 0)
    async with reading(http, path, x_trigger_stream_start="latest") as latest:
        assert await latest.event() == ("start", '{"after":2}')
        await say(worker, given, "log", 3)
        assert await latest.part() == 3
    for header, value in (
        ("last_event_id", "1-0"),
        ("timeout_seconds", "0"),
        ("timeout_seconds", "601"),
        ("timeout_seconds", "0000000601"),
    ):
        async with reading(http, path, **{header: value}) as refused:
            assert refused.status == 400
    async with reading(http, f"{STREAMS}/run_x/log") as unknown:
        assert unknown.status == 404


async def test_when_nothing_comes_for_as_long_as_asked_the_answer_ends_without_the_end(
    http: httpx2.AsyncClient, given: wire.Assignment
) -> None:
    async with reading(http, f"{STREAMS}/{given.run_id}/log", timeout_seconds="1") as events:
        assert await events.event() is None


async def test_a_comment_comes_when_nothing_else_does(
    http: httpx2.AsyncClient, given: wire.Assignment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "KEEP_ALIVE_S", 0.05)
    async with reading(http, f"{STREAMS}/{given.run_id}/log") as events:
        assert await events.event() == ("comment", "still here")


async def test_many_readers_share_one_look_for_each_append(
    http: httpx2.AsyncClient, worker: FakeWorker, given: wire.Assignment, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    page = tails.read_streams.page

    async def counted(*args: Any, **options: Any) -> Any:
        looks.append(options["after"])
        return await page(*args, **options)

    monkeypatch.setattr(tails, "SWEEP_S", 60.0)
    path = f"{STREAMS}/{given.run_id}/log"
    await say(worker, given, "log", "first")
    async with (
        asyncio.TaskGroup() as group,
        httpx2.AsyncClient(
            base_url=http.base_url, headers=http.headers, limits=httpx2.Limits(max_connections=40)
        ) as many,
    ):
        arrived: asyncio.Queue[None] = asyncio.Queue()

        async def read() -> None:
            async with reading(many, path) as events:
                assert await events.part() == "first"
                arrived.put_nowait(None)
                assert [await events.part() for _ in range(5)] == [0, 1, 2, 3, 4]
                arrived.put_nowait(None)

        for _ in range(30):
            group.create_task(read())
        for _ in range(30):
            await arrived.get()
        monkeypatch.setattr(tails.read_streams, "page", counted)
        for n in range(5):
            await say(worker, given, "log", n)
        for _ in range(30):
            await arrived.get()
    # One for each append; a wake-up while it looks makes it look once more.
    assert len(looks) <= 10


async def test_readers_that_begin_at_any_time_and_anywhere_see_each_number_once(
    url: str, worker: FakeWorker, given: wire.Assignment
) -> None:
    """Some keep up, some are behind, some come to the middle of what others were just given."""
    chance, count = random.Random(11), 200
    path = f"{STREAMS}/{given.run_id}/log"
    written = 0

    async def write() -> None:
        nonlocal written
        while written < count:
            lot = range(written, min(count, written + chance.randrange(1, 4)))
            await say(worker, given, "log", *lot)
            written = lot.stop
        await worker.finish(given)

    async def read(http: httpx2.AsyncClient) -> None:
        await asyncio.sleep(chance.random())
        first = chance.randrange(max(1, written))
        async with reading(http, path, last_event_id=str(first - 1)) as events:
            seen = [await events.part() for _ in range(min(chance.randrange(3), count - first))]
            await asyncio.sleep(chance.random() / 10)
            assert seen + await events.rest() == [*range(first, count)]

    limits = httpx2.Limits(max_connections=50)
    async with httpx2.AsyncClient(base_url=url, headers={"authorization": f"Bearer {KEY}"}, limits=limits) as http:
        await asyncio.gather(write(), *(read(http) for _ in range(25)))


async def test_a_reader_that_does_not_read_holds_up_nobody_and_is_sent_no_more_than_it_takes(
    http: httpx2.AsyncClient, worker: FakeWorker, given: wire.Assignment
) -> None:
    path = f"{STREAMS}/{given.run_id}/log"
    long = "x" * (PAGE_BYTES - 100)
    async with reading(http, path) as slow, reading(http, path) as quick:
        for n in range(120):
            await say(worker, given, "log", [n, long])
            assert (await quick.part())[0] == n
        await worker.finish(given)
        assert [part[0] for part in await slow.rest()] == list(range(120))


async def test_readers_of_a_server_that_stops_are_cut_off_at_once_and_go_on_at_another(
    start: Start, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clean end would tell them that there is no more."""
    monkeypatch.setattr(serving, "DRAIN_S", 3600)
    second = await start(database_url)
    stop, ready = asyncio.Event(), asyncio.get_running_loop().create_future()
    settings = Settings(port=0, secret_key=KEY, worker_token=TOKEN, data_dir=tmp_path / "data")
    server = asyncio.create_task(serving.serve(settings, database_url, stop=stop, ready=ready.set_result))
    first = await ready
    async with AsyncClient(first, KEY) as client, awake(first) as worker:
        await client.trigger("echo", 1)
        given = await worker.take_and_start()
        await say(worker, given, "log", 1)
    async with httpx2.AsyncClient(headers={"authorization": f"Bearer {KEY}"}) as http:
        async with reading(http, f"{first}{STREAMS}/{given.run_id}/log") as events:
            assert await events.part() == 1
            stop.set()
            with pytest.raises(httpx2.TransportError):
                await events.event()
            await server
        other = FakeWorker(second)
        await say(other, given, "log", 2)
        async with reading(http, f"{second}{STREAMS}/{given.run_id}/log", last_event_id="0") as events:
            assert await events.part() == 2
        await other.close()


async def test_a_reader_who_leaves_leaves_nothing(
    http: httpx2.AsyncClient, worker: FakeWorker, given: wire.Assignment
) -> None:
    async with reading(http, f"{STREAMS}/{given.run_id}/log"):
        await until(lambda: tail_tasks() == 1)
    await until(lambda: tail_tasks() == 0)


def tail_tasks() -> int:
    return sum(task.get_name().startswith("tail of") for task in asyncio.all_tasks())


# -- appending --------------------------------------------------------------------------------------------------------


async def test_a_part_from_outside_is_text_and_comes_once(
    http: httpx2.AsyncClient, client: AsyncClient, worker: FakeWorker, given: wire.Assignment
) -> None:
    path = f"{STREAMS}/{given.run_id}/self/log"
    headers = {"content-type": "application/json", "x-part-id": "a"}
    for _ in range(2):
        answer = await http.post(f"{path}/append", content="part one", headers=headers)
        assert answer.json() == {"ok": True}
    for key in ("k1", "k1", "k2"):  # the official client's own word for a call that it repeats
        await http.post(f"{path}/append", content='{"n":1}', headers={"x-trigger-request-idempotency-key": key})
    await worker.finish(given)
    async with reading(http, f"{STREAMS}/{given.run_id}/log") as events:
        assert await events.rest() == ["part one", '{"n":1}', '{"n":1}']
    refused = await http.post(f"{path}/append", content="too late")
    assert (refused.status_code, "is over" in refused.json()["error"]) == (400, True)


async def test_a_writer_of_lines_that_was_cut_off_goes_on_where_it_was(
    http: httpx2.AsyncClient, worker: FakeWorker, given: wire.Assignment
) -> None:
    path = f"{STREAMS}/{given.run_id}/self/ai/tokens"
    created = await http.put(path)
    assert (created.status_code, created.json()) == (202, {"version": "v1"})

    async def lines(first: int, count: int) -> AsyncIterator[bytes]:
        for n in range(first, first + count):
            line = msgspec.json.encode({"n": n}) + b"\n"
            yield line[:3]
            yield line[3:]

    async def last(**headers: str) -> str:
        return (await http.head(path, headers=headers)).headers["x-last-chunk-index"]

    assert await last() == await last(**{"x-client-id": "c1"}) == "-1"
    assert (await http.post(path, content=lines(0, 3), headers={"x-client-id": "c1"})).json() == {"ok": True}
    assert (await last(), await last(**{"x-client-id": "c1"}), await last(**{"x-client-id": "c2"})) == ("2", "2", "-1")
    headers = {"x-client-id": "c1", "x-resume-from-chunk": "1"}
    assert (await http.post(path, content=lines(1, 4), headers=headers)).json() == {"ok": True}
    await worker.finish(given)
    async with reading(http, f"{STREAMS}/{given.run_id}/ai/tokens") as events:
        assert await events.rest() == [{"n": n} for n in range(5)]


REFUSED = [
    ("self/log/append", b"x" * (512 * 1024 + 1), 413),
    ("self/log", b"x" * (512 * 1024 + 1), 413),
    ("self/log", b"{nonsense}\n", 400),
    ("self/log/append", b"\xff", 400),
    ("somebody/log/append", b"x", 404),
    ("self/" + "k" * 257 + "/append", b"x", 422),
    ("self/input/log/append", b"x", 422),
    ("input/chat", b'{"data":"' + b"x" * (1 << 20) + b'"}', 413),
    ("input/chat", b"{}", 400),
]


async def test_what_can_not_be_appended_is_refused(http: httpx2.AsyncClient, given: wire.Assignment) -> None:
    for path, content, status in REFUSED:
        answer = await http.post(f"{STREAMS}/{given.run_id}/{path}", content=content)
        assert answer.status_code == status, (path, answer.text)
        if status == 413:
            assert answer.json()["limit"] in (512 * 1024, (1 << 20) + len('{"data":}'))
    async with reading(http, f"{STREAMS}/{given.run_id}/log", timeout_seconds="1") as events:
        assert await events.event() is None


async def test_a_full_stream_says_so(start: Start, database_url: str) -> None:
    url = await start(database_url, stream_bytes=10)
    async with AsyncClient(url, KEY) as client, awake(url) as worker:
        await client.trigger("echo", 1)
        given = await worker.take_and_start()
        assert await say(worker, given, "log", "123456") == 1
        part = Part("p", msgspec.Raw(b'"123"'))
        refused = await worker.post(f"runs/{given.run_id}/streams", StreamReport(given.lease, "log", [part]))
    assert (refused.status_code, refused.json()["limit"], refused.json()["value"]) == (413, 10, 13)


async def test_parts_go_to_the_parents_stream(
    http: httpx2.AsyncClient, client: AsyncClient, worker: FakeWorker, given: wire.Assignment
) -> None:
    call = wire.TriggerCall(ids.new("run"), "echo", msgspec.Raw(b"1"), given.lease)
    await worker.say(f"runs/{given.run_id}/trigger", call, wire.TriggerReply)
    child = await worker.take_and_start()
    await say(worker, child, "log", "from the child", target="parent")
    await http.post(f"{STREAMS}/{child.run_id}/root/log/append", content="from outside")
    async with reading(http, f"{STREAMS}/{given.run_id}/log") as events:
        assert [await events.part(), await events.part()] == ["from the child", "from outside"]
    # A token for the child alone doesn't reach its parent.
    token = await client.create_public_token([f"write:runs:{child.run_id}"])
    async with httpx2.AsyncClient(headers={"authorization": f"Bearer {token}"}) as page:
        own = await page.post(f"{http.base_url}{STREAMS}/{child.run_id}/self/log/append", content="x")
        other = await page.post(f"{http.base_url}{STREAMS}/{child.run_id}/root/log/append", content="x")
    assert (own.status_code, other.status_code) == (200, 403)
    token = await client.create_public_token([f"read:runs:{child.run_id}"])
    async with httpx2.AsyncClient(headers={"authorization": f"Bearer {token}"}) as page:
        for target, status in (("self", 200), ("parent", 403), ("root", 403)):
            last = await page.head(f"{http.base_url}{STREAMS}/{child.run_id}/{target}/log")
            assert last.status_code == status, target


async def test_a_line_may_come_letter_by_letter(http: httpx2.AsyncClient, given: wire.Assignment) -> None:
    async def letters() -> AsyncIterator[bytes]:
        for letter in b'"one"\n\n"two"\n"three"':
            yield bytes([letter])
            await asyncio.sleep(0.002)

    assert (await http.post(f"{STREAMS}/{given.run_id}/self/log", content=letters())).json() == {"ok": True}
    async with reading(http, f"{STREAMS}/{given.run_id}/log") as events:
        assert [await events.part() for _ in range(3)] == ["one", "two", "three"]


async def test_readers_of_streams_count_as_subscriptions(start: Start, database_url: str) -> None:
    """Each of a stream of its own has the database asked every two seconds, also when nothing is ever written to it."""
    url = await start(database_url, realtime_subscriptions=1)
    headers = {"authorization": f"Bearer {KEY}"}
    async with AsyncClient(url, KEY) as client, awake(url), httpx2.AsyncClient(base_url=url, headers=headers) as http:
        path = f"{STREAMS}/{(await client.trigger('echo', 1))['id']}"
        async with reading(http, f"{path}/one", x_trigger_stream_start="latest") as first:
            assert await first.event() == ("start", '{"after":-1}')
            async with reading(http, f"{path}/two") as second:
                assert second.status == 429
        # The place is free again as soon as the server knows that the first one has gone.
        async with asyncio.timeout(PATIENCE_S):
            while True:
                async with reading(http, f"{path}/two", x_trigger_stream_start="latest") as second:
                    if second.status == 200:
                        break
                await asyncio.sleep(0.01)


async def test_a_run_reads_what_was_sent_to_it_and_waits_for_what_is_not(
    http: httpx2.AsyncClient, client: AsyncClient, worker: FakeWorker, given: wire.Assignment
) -> None:
    async def read(after: int, wait_s: float = 0.0) -> list[Any]:
        asked = InputRead(given.lease, "chat", after, wait_s)
        reply = await worker.say(f"runs/{given.run_id}/inputs", asked, InputReply)
        return [(part.seq, msgspec.json.decode(part.data)) for part in reply.parts]

    async def send(data: Any, **headers: str) -> None:
        path = f"{STREAMS}/{given.run_id}/input/chat"
        answer = await http.post(path, json={"data": data}, headers=headers)
        assert answer.json() == {"ok": True}

    assert await read(-1) == []
    waiting = asyncio.create_task(read(-1, 20))
    for _ in range(2):
        await send({"text": "hello"}, **{"x-trigger-request-idempotency-key": "the same"})
    assert await waiting == [(0, {"text": "hello"})]
    await send(None)
    assert await read(-1) == [(0, {"text": "hello"}), (1, None)]
    async with reading(http, f"{STREAMS}/{given.run_id}/input/chat", last_event_id="0") as events:
        assert await events.part() is None
    assert (await client.run(given.run_id))["status"] == "EXECUTING"
    await worker.finish(given)
    gone = await worker.post(f"runs/{given.run_id}/inputs", InputRead(given.lease, "chat"))
    assert gone.status_code == 410
    late = await http.post(f"{STREAMS}/{given.run_id}/input/chat", json={"data": 1})
    assert (late.status_code, "is over" in late.json()["error"]) == (400, True)


async def test_pages_may_read_and_send_with_the_token_of_the_trigger(url: str, worker: FakeWorker) -> None:
    headers = {"authorization": f"Bearer {KEY}"}
    async with httpx2.AsyncClient(base_url=url) as http:
        triggered = await http.post("/api/v1/tasks/echo/trigger", json={"payload": 1}, headers=headers)
        given = await worker.take_and_start()
        token = triggered.headers["x-trigger-jwt"]
        assert f"write:inputStreams:{given.run_id}" in jwt.decode(token, options={"verify_signature": False})["scopes"]
        page = {"authorization": f"Bearer {token}", "origin": "https://a.page"}
        path = f"{STREAMS}/{given.run_id}/input/ai/chat"
        asked = {"origin": "https://a.page", "access-control-request-method": "POST"}
        assert (await http.options(path, headers=asked)).status_code == 204
        sent = await http.post(path, json={"data": 1}, headers=page)
        assert (sent.status_code, sent.headers["access-control-allow-origin"]) == (200, "*")
        await say(worker, given, "ai/log", "x")
        async with http.stream("GET", f"{STREAMS}/{given.run_id}/ai/log", headers=page) as response:
            assert "x-stream-version" in response.headers["access-control-expose-headers"]
            assert await Events(response).part() == "x"
        assert (await http.post(f"{STREAMS}/{given.run_id}/self/log/append", headers=page)).status_code == 403


async def test_old_parts_are_pruned_by_the_servers_duty(start: Start, database_url: str) -> None:
    url = await start(database_url)
    async with AsyncClient(url, KEY) as client, awake(url) as worker:
        await client.trigger("echo", 1)
        await say(worker, await worker.take_and_start(), "log", "old")
    database = await Database.connect(database_url)
    async with database.transaction() as tx:
        await tx.execute("update stream_chunks set at = at - interval '29 d'")
        await tx.execute("update streams set oldest_at = oldest_at - interval '29 d'")
    await start(database_url)  # prunes as it begins
    async with asyncio.timeout(PATIENCE_S):
        while True:
            async with database.transaction() as tx:
                if not await tx.fetchval("select count(*) from stream_chunks"):
                    break
            await asyncio.sleep(0.02)
    await database.close()


# -- our own client ---------------------------------------------------------------------------------------------------


class Cutting(httpx2.AsyncHTTPTransport):
    """A network that breaks each answer of a stream off after its second piece, in the middle of an event."""

    cuts = 0
    pieces = 0

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await super().handle_async_request(request)
        if request.url.path.startswith(STREAMS) and request.method == "GET":
            response.stream = self._cut(response.stream)
        return response

    def _cut(self, whole: Any) -> Any:
        cutting = self

        class Broken(httpx2.AsyncByteStream):
            async def __aiter__(self) -> AsyncIterator[bytes]:
                pieces = 0
                async for piece in whole:
                    pieces += 1
                    cutting.pieces += 1
                    if pieces == 2 and cutting.cuts < 5:
                        cutting.cuts += 1
                        yield piece[: len(piece) // 2]
                        raise httpx2.ReadError("the network is down")
                    yield piece

            async def aclose(self) -> None:
                await whole.aclose()

        return Broken()


async def test_our_clients_read_it_whole_and_send_and_change(
    url: str, worker: FakeWorker, given: wire.Assignment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "FIRST_PAUSE_S", 0.01)
    parts = [0, {"line": "a\u2028b\x85c\n\n"}, None, *range(30)]

    async def work() -> None:
        assert msgspec.json.decode((await worker.hear(given, "chat")).data) == "go"
        for part in parts:
            come = network.pieces
            await say(worker, given, "default", part)
            while network.pieces == come:  # a part that came along with others could not be cut off from them
                await asyncio.sleep(0.005)
        await worker.finish(given)

    network = Cutting()
    async with AsyncClient(url, KEY, transport=network) as client:
        working = asyncio.create_task(work())
        await client.send_input(given.run_id, "chat", "go")
        more = {"type": "increment", "key": "n", "value": 2}
        assert await client.update_metadata(given.run_id, {"n": 1}, operations=[more]) == {"n": 3}
        await client.add_tags(given.run_id, "a", "b")
        assert [part async for part in client.read_stream(given.run_id)] == parts
        assert network.cuts == 5
        await working
        assert [part async for part in client.read_stream(given.run_id, "default", 32)] == parts[32:]
        assert [part async for part in client.read_stream(given.run_id, "default", "latest")] == []
        with pytest.raises(NotFound):
            await anext(client.read_stream("run_x"))
    with Client(url, KEY) as blocking:
        assert await asyncio.to_thread(lambda: [*blocking.read_stream(given.run_id)]) == parts
        run = await asyncio.to_thread(blocking.run, given.run_id)
    assert (run["metadata"], run["tags"]) == ({"n": 3}, ["a", "b"])
