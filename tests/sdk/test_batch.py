"""Batches as a task's author sees them: items in, results out, one wait in between."""

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec
import pytest
from fake_supervisor import Supervisor

import torpor
from torpor import BatchItem, NotInRun, RunFailed, task
from torpor import sync as blocking
from torpor.sdk.batch import CHUNK_BYTES, Upload, item_of
from torpor.wire import http as wire
from torpor.wire.runner import Call, Result, TaskError


@task
async def twice(number: int) -> int:
    return 2 * number


@task
def rectangle(width: float, height: float = 1.0) -> float:
    return width * height


class Server:
    """Answers a run's calls about batches as the server would; `add` says what becomes of an item."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor
        self.items: list[dict[str, Any]] = []
        self.chunks = 0
        self.opened: dict[str, Any] = {}

    def _result(self, call: Call, reply: msgspec.Struct) -> None:
        self.supervisor.send(Result(call.call_id, True, msgspec.Raw(msgspec.json.encode(reply))))

    def open(self, **reply: Any) -> None:
        call = self.supervisor.expect(Call)
        assert call.kind == "create_batch"
        self.opened = msgspec.json.decode(call.body)
        self._result(call, wire.BatchReply(self.opened["batch_id"], **reply))

    def take(self) -> None:
        """All items, until they are sealed. Those with an error fail."""
        while True:
            call = self.supervisor.expect(Call)
            assert call.kind == "batch_items"
            asked = msgspec.json.decode(call.body)
            self.chunks += 1
            self.items += asked["items"]
            replies = [
                wire.BatchItemReply(one["index"], error=one["error"])
                if "error" in one
                else wire.BatchItemReply(one["index"], f"run_{one['index']}")
                for one in asked["items"]
            ]
            self._result(call, wire.BatchItemsReply(replies, asked["seal"], len(self.items)))
            if asked["seal"]:
                return

    def answer(self) -> None:
        """The batch has ended."""
        (new,) = self.supervisor.expect_idle().waits
        assert (new.kind, new.batch_id) == ("batch", self.opened["batch_id"])
        self.supervisor.answer(new.wait_id, [])

    def tell(self, *pages: list[wire.BatchResult]) -> None:
        for number, page in enumerate(pages, 1):
            call = self.supervisor.expect(Call)
            assert call.kind == "batch_results"
            following = page[-1].index if number < len(pages) else None
            self._result(call, wire.BatchResultsReply(page, following))


@pytest.fixture
def server(supervisor: Supervisor) -> Server:
    return Server(supervisor)


def completed(index: int, output: Any, task_id: str = "twice") -> wire.BatchResult:
    raw = msgspec.Raw(msgspec.json.encode(output))
    return wire.BatchResult(index, task_id, f"run_{index}", "COMPLETED", raw)


def failed(index: int, status: str = "FAILED", run_id: str | None = "run") -> wire.BatchResult:
    error = TaskError("ValueError", "no")
    return wire.BatchResult(index, "twice", run_id and f"run_{index}", status if run_id else None, error=error)


def test_one_failure_does_not_hide_the_others(supervisor: Supervisor, server: Server) -> None:
    """G3: results are in the order of the items, with outputs of the task's own type."""

    @task
    async def parent() -> list[Any]:
        results = await twice.batch_trigger_and_wait([1, 2, "three", 4])
        caught = []
        for result in results:
            try:
                caught.append(result.unwrap())
            except RunFailed as error:
                caught.append([error.run_id, error.status, (error.error or {}).get("message")])
        return [[result.ok for result in results], [result.status for result in results], caught]

    supervisor.start(parent)
    server.open()
    server.take()
    assert server.opened["run_count"] == 4
    assert [one.get("payload") for one in server.items] == [1, 2, None, 4]
    assert "number: Input should be a valid integer" in server.items[2]["error"]
    server.answer()
    server.tell([completed(0, 2), failed(1)], [failed(2, run_id=None), completed(3, 8)])
    assert supervisor.output_of_run() == [
        [True, False, False, True],
        ["COMPLETED", "FAILED", "NOT_TRIGGERED", "COMPLETED"],
        [2, ["run_1", "FAILED", "no"], ["of item 2", "NOT_TRIGGERED", "no"], 8],
    ]


def test_an_output_that_does_not_fit_fails_by_itself(supervisor: Supervisor, server: Server) -> None:
    @task
    async def parent() -> list[Any]:
        results = await twice.batch_trigger_and_wait([1, 2])
        return [[result.ok, result.error and result.error["name"]] for result in results]

    supervisor.start(parent)
    server.open()
    server.take()
    server.answer()
    server.tell([completed(0, "two"), completed(1, 4)])
    assert supervisor.output_of_run() == [[False, "OutputError"], [True, None]]


@pytest.mark.parametrize(
    ("given", "payload"),
    [
        ((3, 4), {"width": 3.0, "height": 4.0}),
        ((3,), {"width": 3.0}),
        ({"width": 3}, {"width": 3.0}),
        (rectangle.item(3, height=2), {"width": 3.0, "height": 2.0}),
    ],
)
def test_items_of_a_task_with_several_parameters(given: Any, payload: Any) -> None:
    """B1: a tuple of arguments, a dict by name, or a call of task.item."""
    item = item_of(rectangle, {}, given)
    assert msgspec.json.decode(item.payload or b"") == payload
    assert item.error is None


@pytest.mark.parametrize(
    ("given", "says"),
    [(3, "its items are tuples"), ((1, 2, 3), "too many positional"), ({"wide": 1}, "'width'"), ("ab", "tuples")],
)
def test_an_item_that_is_no_call_of_the_task_fails_by_itself(given: Any, says: str) -> None:
    item = item_of(rectangle, {}, given)
    assert says in (item.error or "")


def test_one_parameter_takes_any_value_as_it_is() -> None:
    @task
    def whole(value: Any) -> None: ...

    @task
    def nothing() -> None: ...

    assert item_of(whole, {}, (1, 2)).payload == b"[1,2]"
    assert item_of(whole, {}, {"a": 1}).payload == b'{"a":1}'
    assert item_of(nothing, {}, None).payload is None
    assert "takes no arguments" in (item_of(nothing, {}, 1).error or "")


def test_options_are_each_items_own(supervisor: Supervisor, server: Server) -> None:
    """B1: those given before the batch are for items without their own."""

    @task
    async def parent() -> Any:
        batch = await twice.options(tags=["all"]).batch_trigger([1, twice.options(delay="1h").item(2)])
        return [batch.run_ids, batch.errors, batch.is_cached]

    supervisor.start(parent)
    server.open()
    server.take()
    assert [one["options"] for one in server.items] == [{"tags": ["all"]}, {"delay": "3600s"}]
    assert supervisor.output_of_run() == [["run_0", "run_1"], {}, False]


def test_a_batch_of_several_tasks(supervisor: Supervisor, server: Server) -> None:
    """G2, G3: each result has its own task's type."""

    @task
    async def parent() -> list[Any]:
        with pytest.raises(TypeError, match=r"task\.item"):
            await torpor.batch_trigger([1])  # pyright: ignore[reportArgumentType]
        results = await torpor.batch_trigger_and_wait([twice.item(1), rectangle.item(2, 3)])
        return [result.unwrap() for result in results]

    supervisor.start(parent)
    server.open()
    server.take()
    assert server.items == []
    server.open()
    server.take()
    assert [one["task"] for one in server.items] == ["twice", "rectangle"]
    server.answer()
    server.tell([completed(0, 2), completed(1, 6.0, "rectangle")])
    assert supervisor.output_of_run() == [2, 6.0]


def test_blocking_code_has_the_same(supervisor: Supervisor, server: Server) -> None:
    """G2, G3: `task.sync` and `torpor.sync`."""

    @task
    def parent() -> list[Any]:
        results = twice.sync.batch_trigger_and_wait(number for number in (1, 2))
        batch = blocking.batch_trigger([twice.item(5)])
        return [*(result.unwrap() for result in results), *batch.run_ids]

    supervisor.start(parent)
    server.open()
    server.take()
    assert server.opened["run_count"] is None, "a generator has no length"
    server.answer()
    server.tell([completed(0, 2), completed(1, 4)])
    server.items.clear()
    server.open()
    server.take()
    assert supervisor.output_of_run() == [2, 4, "run_0"]


def test_ten_thousand_items_are_streamed_from_an_async_iterator(supervisor: Supervisor, server: Server) -> None:
    """G15, BB24: in chunks, with one wait at the end."""

    async def numbers() -> AsyncIterator[int]:
        for number in range(10_000):
            yield number

    @task
    async def parent() -> int:
        return len((await twice.batch_trigger(numbers())).run_ids)

    supervisor.start(parent)
    server.open()
    server.take()
    assert (server.chunks, len(server.items)) == (21, 10_000)
    assert [one["index"] for one in server.items] == list(range(10_000))
    assert supervisor.output_of_run() == 10_000


def test_memory_is_bounded_by_a_chunk() -> None:
    """G15: also when items are large."""
    upload = Upload(None)
    tracemalloc.start()
    sizes = []
    for _ in range(200):
        chunk = upload.put(BatchItem("twice", b'"' + b"x" * 100_000 + b'"'))
        if chunk is not None:
            sizes.append(sum(len(one.payload) for one in chunk.items))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * CHUNK_BYTES
    assert max(sizes) <= CHUNK_BYTES
    assert len(sizes) == 19


def test_a_source_that_fails_leaves_a_sealed_batch(supervisor: Supervisor, server: Server) -> None:
    """G15: what came before goes on, and the author sees the error."""

    def numbers() -> Iterator[int]:
        yield 1
        raise LookupError("the table is gone")

    @task
    async def parent() -> str:
        try:
            await twice.batch_trigger(numbers())
        except LookupError as error:
            return str(error)
        return ""

    supervisor.start(parent)
    server.open()
    server.take()
    assert [one["payload"] for one in server.items] == [1]
    assert supervisor.output_of_run() == "the table is gone"


def test_a_key_that_is_known_sends_nothing(supervisor: Supervisor, server: Server) -> None:
    """G2: the same key is the same batch; in a run it is the run's own."""

    @task
    async def parent() -> Any:
        batch = await twice.batch_trigger([1, 2], idempotency_key="k", idempotency_key_ttl="1h")
        return [batch.run_ids, batch.is_cached]

    supervisor.start(parent)
    server.open(is_cached=True, is_sealed=True)
    assert server.opened["idempotency_key"] != "k"
    assert server.opened["idempotency_key_ttl_s"] == 3600.0
    server.tell([completed(0, 2), completed(1, 4)])
    assert supervisor.output_of_run() == [["run_0", "run_1"], True]


def test_one_key_for_all_items_is_refused() -> None:
    with pytest.raises(TypeError, match="would make all items of the batch one run"):
        asyncio.run(twice.options(idempotency_key="k").batch_trigger([1, 2]))


def test_outside_of_runs_nobody_waits() -> None:
    with pytest.raises(NotInRun):
        asyncio.run(twice.batch_trigger_and_wait([1]))
    with pytest.raises(NotInRun):
        twice.sync.batch_trigger_and_wait([1])
