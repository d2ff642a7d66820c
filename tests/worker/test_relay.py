"""What a run says is led on: soon, in order, once; before the server hears of anything else; and a flood is bounded."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import msgspec
import pytest

from torpor.errors import ApiError
from torpor.wire import http, runner
from torpor.wire.operations import apply
from torpor.wire.runner import Append, Call, Change, Known, Op, Part
from torpor.worker.inbox import Inbox
from torpor.worker.relay import MOST_PARTS, MOST_TOLD, SMALL_BYTES, Relay

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Process:
    """Who speaks, and what it is told."""

    def __init__(self) -> None:
        self.inbox = Inbox(lambda: None)
        self.is_connected = True
        self.heard: list[Any] = []

    def say(self, message: Any) -> None:
        self.heard.append(message)


class Server:
    """Carries out what is reported, once; a test may have it refuse."""

    def __init__(self) -> None:
        self.metadata: dict[str, Any] = {}
        self.tags: list[str] = []
        self.streams: dict[tuple[str, str], list[str]] = {}
        self.reports: list[Any] = []
        self.story: list[dict[str, Any]] = []
        self.number = 0
        self.refuses: Callable[[Any], ApiError | None] = lambda report: None
        self.is_away = asyncio.Event()
        self.is_away.set()

    async def send(self, path: str, report: Any, reply: type[Any]) -> Any:
        await self.is_away.wait()
        if (refusal := self.refuses(report)) is not None:
            raise refusal
        self.reports.append(report)
        if isinstance(report, http.StreamReport):
            stream = self.streams.setdefault((report.target, report.key), [])
            stream += [msgspec.json.decode(part.data) for part in report.parts]
            return http.StreamReply(len(report.parts))
        assert report.number == self.number + 1
        self.number = report.number
        self.metadata = apply(self.metadata, report.operations)
        self.tags += report.tags
        return http.MetadataReply(self.metadata, self.tags)

    async def tell(self, kind: str, data: dict[str, Any]) -> None:
        self.story.append({"kind": kind, **data})


class Scene:
    """A relay between the two."""

    def __init__(self) -> None:
        self.server, self.process = Server(), Process()
        self.tasks: set[asyncio.Task[None]] = set()
        self.relay = Relay(http.HeldLease("run_1", 3), self.server.send, self.server.tell, self.begin)
        self.said = 0

    def begin(self, coroutine: Any) -> None:
        task = asyncio.ensure_future(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def hear(self, message: Any) -> None:
        """As the run's attendant does: out of the inbox."""
        self.process.inbox.hear(message, len(runner.from_runner.encode(message)))
        taken = await self.process.inbox.get()
        act: Any = self.relay.change if isinstance(taken, Change) else self.relay.append
        act(self.process, taken)

    async def change(self, op: Op | None = None, *, seen: int = 0, **more: Any) -> None:
        self.said += 1
        await self.hear(Change(self.said, seen, op=op, **more))

    async def append(self, text: str, key: str = "out") -> None:
        await self.hear(Append("self", key, Part(f"c{text}", msgspec.Raw(msgspec.json.encode(text)))))

    async def until(self, look: Callable[[], Any]) -> None:
        async with asyncio.timeout(60):
            while not look():
                await asyncio.sleep(0.005)


@pytest.fixture
async def scene() -> Scene:
    return Scene()


async def test_changes_are_reported_by_themselves_in_one_report(scene: Scene) -> None:
    for number in range(3):
        await scene.change(Op("set", "n", number))
    await scene.change(Op("append", "log", "a"))
    await scene.change(tags=["t"])
    await scene.change(Op("increment", "done", 1), target="parent")
    await scene.until(lambda: scene.server.reports)
    (report,) = scene.server.reports
    assert (report.lease, report.number) == (3, 1)
    assert report.operations == [Op("set", "n", 2), Op("append", "log", "a")]
    assert (report.parent_operations, report.root_operations) == ([Op("increment", "done", 1)], [])
    assert report.tags == ["t"]
    await scene.until(lambda: scene.process.heard)
    assert scene.process.heard == [Known(1, 6, {"n": 2, "log": ["a"]}, ["t"])]


async def test_after_a_flush_the_server_has_all_that_was_heard(scene: Scene) -> None:
    scene.server.is_away.clear()
    await scene.append("a")
    await scene.change(Op("set", "n", 1))
    await asyncio.sleep(0.06)  # the part is on its way
    flushed = asyncio.ensure_future(scene.relay.flush())
    await asyncio.sleep(0.01)
    assert not flushed.done()
    scene.server.is_away.set()
    await flushed
    assert scene.server.metadata == {"n": 1}
    assert scene.server.streams == {("self", "out"): ["a"]}


async def test_parts_keep_their_order_and_go_in_batches(scene: Scene) -> None:
    texts = [str(number) for number in range(MOST_PARTS + 50)]
    scene.server.is_away.clear()
    for text in texts:
        await scene.append(text)
        await asyncio.sleep(0)
    scene.server.is_away.set()
    await scene.relay.flush()
    assert scene.server.streams == {("self", "out"): texts}
    assert len(scene.server.reports) <= 5
    assert max(len(report.parts) for report in scene.server.reports) <= MOST_PARTS


async def test_a_single_part_does_not_wait_for_others(scene: Scene) -> None:
    await scene.append("a")
    await scene.until(lambda: scene.server.streams)
    await scene.append("b")
    await scene.until(lambda: len(scene.server.reports) == 2)
    assert scene.server.streams == {("self", "out"): ["a", "b"]}


async def test_each_stream_has_reports_of_its_own(scene: Scene) -> None:
    for text in ("a", "b"):
        await scene.append(text, "one")
        await scene.append(text, "two")
    await scene.relay.flush()
    assert scene.server.streams == {("self", "one"): ["a", "b"], ("self", "two"): ["a", "b"]}


async def test_what_is_not_stored_weighs_and_what_is_weighs_no_more(scene: Scene) -> None:
    """So the process is not heard for as long as the server is away and it has said too much."""
    scene.server.is_away.clear()
    said = 0
    while not scene.process.inbox.is_heavy:
        await scene.append(str(said))
        await scene.change(Op("append", "log", said))
        said += 1
        assert said < 10_000
    scene.server.is_away.set()
    await scene.relay.flush()
    assert not scene.process.inbox.is_heavy
    assert len(scene.server.metadata["log"]) == said


async def test_a_run_that_counts_for_ever_never_weighs_more(scene: Scene) -> None:
    scene.server.is_away.clear()
    for _ in range(5000):
        await scene.change(Op("increment", "n", 1))
    assert not scene.process.inbox.is_heavy
    scene.server.is_away.set()
    await scene.relay.flush()
    assert scene.server.metadata == {"n": 5000}


def too_large(limit: int) -> Callable[[Any], ApiError | None]:
    def refuses(report: Any) -> ApiError | None:
        size = len(msgspec.json.encode(report.operations))
        return ApiError(413, f"{size} bytes are too many") if size > limit else None

    return refuses


async def test_one_change_that_is_refused_takes_no_other_with_it(scene: Scene) -> None:
    scene.server.refuses = too_large(1000)
    for number in range(5):
        await scene.change(Op("set", f"k{number}", number))
    await scene.change(Op("set", "big", "x" * 2000))
    await scene.change(tags=["t"])
    await scene.relay.flush()
    assert scene.server.metadata == {f"k{number}": number for number in range(5)}
    assert scene.server.tags == ["t"]
    [line] = scene.server.story
    assert line["kind"] == "run.not_stored"
    assert "metadata.set('big', …)" in line["reason"]
    await scene.until(lambda: scene.process.heard)
    assert scene.process.heard == [Known(1, 7, scene.server.metadata, ["t"], [line["reason"]])]


async def test_a_flood_of_changes_that_are_refused_costs_few_requests(scene: Scene) -> None:
    asked: list[Any] = []

    def refuses(report: Any) -> ApiError | None:
        asked.append(report)
        return ApiError(413, "too many") if report.operations else None

    scene.server.refuses = refuses
    for number in range(1000):
        await scene.change(Op("set", f"k{number}", 1))
    await scene.relay.flush()
    assert len(asked) < 100
    assert not scene.process.inbox.is_heavy
    assert len(scene.server.story) == MOST_TOLD


async def test_whoever_asks_is_told_of_a_refusal_once(scene: Scene) -> None:
    scene.server.refuses = too_large(1000)
    await scene.change(Op("set", "big", "x" * 2000))
    await scene.relay.flush()
    first = await scene.relay.answer(Call(1, "flush", msgspec.Raw(b"{}")))
    assert (first.ok, first.status) == (False, 413)
    assert "2" in (first.error or "")
    second = await scene.relay.answer(Call(2, "flush", msgspec.Raw(b"{}")))
    assert (second.ok, msgspec.json.decode(second.body)) == (True, {"metadata": {}, "tags": []})


async def test_whoever_asks_learns_what_others_have_made_of_it(scene: Scene) -> None:
    scene.server.metadata = {"theirs": 1}
    result = await scene.relay.answer(Call(1, "flush", msgspec.Raw(b"{}")))
    assert msgspec.json.decode(result.body) == {"metadata": {"theirs": 1}, "tags": []}


async def test_a_stream_that_is_full_costs_neither_the_run_nor_its_story(scene: Scene) -> None:
    scene.server.refuses = lambda report: ApiError(413, "the stream is full")
    for _ in range(MOST_TOLD + 10):
        await scene.append("a")
        await scene.relay.flush()
    assert len(scene.server.story) == MOST_TOLD
    result = await scene.relay.answer(Call(1, "flush", msgspec.Raw(b"{}")))
    assert "a part of the stream 'out' can't be stored: the stream is full" in (result.error or "")


async def test_when_the_lease_is_over_the_attendant_is_told_and_nothing_more_is_said(scene: Scene) -> None:
    said: list[Any] = []

    def refuses(report: Any) -> ApiError:
        said.append(report)
        return ApiError(410, "the lease is over")

    scene.server.refuses = refuses
    await scene.change(Op("set", "a", 1))
    await scene.append("a")
    await scene.relay.flush()
    assert await scene.process.inbox.get() == http.News("stale", "run_1", 3)
    await scene.change(Op("set", "a", 2))
    await scene.relay.flush()
    assert len(said) == 1
    assert not scene.process.inbox.is_heavy


async def test_a_process_that_may_not_read_is_told_little_and_once(scene: Scene) -> None:
    """It could not be frozen while something waits for it in our buffers."""
    await scene.change(Op("set", "a", 1))
    await scene.relay.flush()
    await scene.change(Op("set", "a", 2))  # it has not seen the answer to the first
    await scene.relay.flush()
    assert [known.number for known in scene.process.heard] == [1]
    await scene.change(Op("set", "a", 3), seen=1)
    await scene.relay.flush()
    assert scene.process.heard[1:] == [Known(2, 3, {"a": 3}, [])]
    await scene.change(Op("set", "large", "x" * SMALL_BYTES), seen=2)
    await scene.relay.flush()
    assert len(scene.process.heard) == 2
    scene.relay.inform(cast("Any", scene.process))  # it has an answer coming, and reads
    assert scene.process.heard[2].through == 4
    scene.relay.inform(cast("Any", scene.process))
    assert len(scene.process.heard) == 3
    scene.relay.come_back()  # it was let go meanwhile, and has never seen that
    await scene.change(Op("delete", "large"), seen=2)
    await scene.relay.flush()
    assert scene.process.heard[3] == Known(1, 5, {"a": 3}, [])
