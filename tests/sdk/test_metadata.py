"""What a run says of itself: said at once from anywhere, seen at once, and through freezes neither lost nor said twice."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from fake_supervisor import Supervisor
from pydantic import BaseModel

from torpor import ApiError, NotInRun, current, metadata, tags, task, wait
from torpor.sdk import running
from torpor.sdk.outbox import MOST_OPEN, MOST_OPEN_BYTES, Outbox
from torpor.sync import metadata as blocking_metadata
from torpor.sync import wait as blocking_wait
from torpor.wire.runner import Answer, Change, Known, Op, RunContext, Suspend, WordLimits


class Page(BaseModel):
    url: str
    seen: datetime


@dataclass
class Step:
    name: str
    done: bool = False


def told(supervisor: Supervisor, count: int) -> list[Any]:
    """So many changes, in short."""
    changes = [supervisor.expect(Change) for _ in range(count)]
    return [
        (change.target, change.op.type, change.op.key, change.op.value) if change.op else change.tags
        for change in changes
    ]


def test_every_call_is_said_at_once_and_in_order(supervisor: Supervisor) -> None:
    @task
    async def working() -> dict[str, Any]:
        metadata.set("page", Page(url="x", seen=datetime(2026, 1, 2, tzinfo=UTC)))
        metadata.set("$.steps.first", Step("a"))
        metadata.append("log", ("a", 1))
        metadata.remove("log", "b")
        metadata.increment("n")
        metadata.decrement("n", 0.5)
        metadata.update({"p": 1, "q": None})
        metadata.delete("q")
        metadata.parent.increment("done", 2)
        metadata.root.set("by", "me")
        metadata.root.replace({"by": "you"})
        tags.add("x", "a")
        return {**metadata.current(), "tags": tags.current(), "more": metadata.get("$.steps.first.name")}

    supervisor.start(working, metadata={"log": ["b"]}, parent_run_id="run_p", root_run_id="run_r")
    assert told(supervisor, 13) == [
        ("self", "set", "page", {"url": "x", "seen": "2026-01-02T00:00:00Z"}),
        ("self", "set", "$.steps.first", {"name": "a", "done": False}),
        ("self", "append", "log", ["a", 1]),
        ("self", "remove", "log", "b"),
        ("self", "increment", "n", 1),
        ("self", "increment", "n", -0.5),
        ("self", "set", "p", 1),
        ("self", "set", "q", None),
        ("self", "delete", "q", None),
        ("parent", "increment", "done", 2),
        ("root", "set", "by", "me"),
        ("root", "update", "", {"by": "you"}),
        ["x"],
    ]
    assert supervisor.output_of_run() == {
        "page": {"url": "x", "seen": "2026-01-02T00:00:00Z"},
        "steps": {"first": {"name": "a", "done": False}},
        "log": [["a", 1]],
        "n": 0.5,
        "p": 1,
        "tags": ["a", "x"],
        "more": "a",
    }


def test_what_a_run_without_a_parent_does_to_it_it_does_to_itself(supervisor: Supervisor) -> None:
    @task
    def alone() -> dict[str, Any]:
        metadata.parent.increment("n")
        metadata.root.increment("n")
        return metadata.current()

    supervisor.start(alone)
    assert [change[0] for change in told(supervisor, 2)] == ["self", "self"]
    assert supervisor.output_of_run() == {"n": 2}


def test_code_that_never_waits_keeps_nothing_to_itself(supervisor: Supervisor) -> None:
    """In the event loop's own thread, in a blocking task, and in threads of both: nobody has to turn a loop."""
    go, done = supervisor.directory / "go", "done"

    def compute() -> str:
        metadata.set("first", 1)
        metadata.set("second", 2)
        while not go.exists():
            time.sleep(0.001)
        return done

    @task
    async def in_loop() -> str:
        return compute()

    @task
    def blocking() -> str:
        return compute()

    for each in (in_loop, blocking):
        supervisor.start(each)
        assert [op[2] for op in told(supervisor, 2)] == ["first", "second"]
        go.touch()
        assert supervisor.output_of_run() == done
        go.unlink()


@pytest.mark.parametrize("kind", ["async", "blocking"])
def test_threads_say_all_they_have_to_say_and_each_in_its_order(supervisor: Supervisor, kind: str) -> None:
    def both() -> None:
        def count(name: str) -> None:
            for number in range(200):
                metadata.set(name, number)

        threads = [threading.Thread(target=count, args=(name,)) for name in ("a", "b")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    @task
    async def in_loop() -> dict[str, Any]:
        both()  # the loop's thread is blocked meanwhile
        await wait.for_(hours=1)
        return metadata.current()

    @task
    def blocking() -> dict[str, Any]:
        both()
        blocking_wait.for_(hours=1)
        return metadata.current()

    supervisor.start(in_loop if kind == "async" else blocking)
    ops = told(supervisor, 400)
    for name in ("a", "b"):
        assert [value for _, _, key, value in ops if key == name] == list(range(200))
    supervisor.answer(supervisor.expect_idle().waits[0].wait_id)
    assert supervisor.output_of_run() == {"a": 199, "b": 199}


def test_what_others_change_arrives_and_own_changes_stay_on_top(supervisor: Supervisor) -> None:
    @task
    async def working() -> list[Any]:
        metadata.increment("n", 1)
        metadata.increment("n", 10)
        seen = [metadata.get("n")]
        await wait.for_(hours=1)
        seen.append(metadata.current())
        metadata.set("own", 1)
        return [*seen, tags.current(), current.tags]

    supervisor.start(working, metadata={"n": 100})
    first, _ = supervisor.expect(Change), supervisor.expect(Change)
    (new,) = supervisor.expect_idle().waits
    # A child has counted as well, and the answer was made before our second change.
    supervisor.send(Known(1, first.number, {"n": 501, "child": True}, ["a", "b"]))
    supervisor.answer(new.wait_id)
    assert supervisor.expect(Change).seen == 1
    seen = [111, {"n": 511, "child": True}, ["a", "b"], ["a", "b"]]
    assert supervisor.output_of_run() == seen


def test_a_blocking_task_takes_in_what_has_come_while_it_computes(supervisor: Supervisor) -> None:
    @task
    def working() -> Any:
        metadata.set("a", 1)
        while metadata.get("theirs") is None:
            metadata.increment("looks")
            time.sleep(0.001)
        return metadata.get("theirs")

    supervisor.start(working)
    supervisor.send(Known(1, supervisor.expect(Change).number, {"theirs": 7}, []))
    while isinstance(message := supervisor.receive(), Change):
        pass
    supervisor._inbox.insert(0, message)
    assert supervisor.output_of_run() == 7


@pytest.mark.parametrize("kind", ["async", "blocking"])
def test_flush_says_when_all_is_stored_and_what_there_is_now(supervisor: Supervisor, kind: str) -> None:
    @task
    async def in_loop() -> list[Any]:
        metadata.set("a", 1)
        kept: list[Any] = [await metadata.flush()]
        try:
            await metadata.flush()
        except ApiError as refused:
            kept.append([refused.status, refused.message])
        return kept

    @task
    def blocking() -> list[Any]:
        metadata.set("a", 1)
        kept: list[Any] = [blocking_metadata.flush()]
        try:
            blocking_metadata.flush()
        except ApiError as refused:
            kept.append([refused.status, refused.message])
        return kept

    supervisor.start(in_loop if kind == "async" else blocking)
    told(supervisor, 1)
    supervisor.reply("flush", {"metadata": {"a": 1, "b": 2}, "tags": []})
    supervisor.reply("flush", None, ok=False, status=413, error="metadata.set('a', …) can't be stored: too large")
    assert supervisor.output_of_run() == [
        {"a": 1, "b": 2},
        [413, "metadata.set('a', …) can't be stored: too large"],
    ]


def test_what_is_refused_is_in_the_runs_log(supervisor: Supervisor) -> None:
    @task
    async def working() -> Any:
        metadata.set("big", 1)
        await wait.for_(hours=1)
        return metadata.get("big", "gone")

    supervisor.start(working)
    number = supervisor.expect(Change).number
    (new,) = supervisor.expect_idle().waits
    supervisor.send(Known(1, number, {}, [], ["metadata.set('big', …) can't be stored: too large"]))
    supervisor.answer(new.wait_id)
    assert supervisor.output_of_run() == "gone"
    assert "can't be stored: too large" in supervisor.output()


# -- freezes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["async", "blocking"])
def test_a_wait_is_told_after_all_that_was_said_and_a_restore_says_nothing_again(
    supervisor: Supervisor, kind: str
) -> None:
    @task
    async def in_loop() -> Any:
        metadata.increment("n")
        await wait.for_(hours=1)
        metadata.increment("n")
        return metadata.get("n")

    @task
    def blocking() -> Any:
        metadata.increment("n")
        blocking_wait.for_(hours=1)
        metadata.increment("n")
        return metadata.get("n")

    supervisor.start(in_loop if kind == "async" else blocking)
    told(supervisor, 1)
    (new,) = supervisor.expect_idle().waits
    supervisor.suspend()
    context = RunContext("run_test", "t", 1, 3, "v1", "dev", ["a"], False, "2026-01-02T03:04:05Z", metadata={"n": 5})
    supervisor.wake(Answer(new.wait_id, "completed"), context=context)
    assert told(supervisor, 1) == [("self", "increment", "n", 1)]
    assert supervisor.output_of_run() == 6


def test_what_had_not_left_when_the_run_was_frozen_at_work_leaves_once_under_the_new_lease(
    supervisor: Supervisor,
) -> None:
    """The supervisor had not read to the end of a message: it was stopped in the middle of saying it."""
    large = "x" * 200_000

    @task
    def working() -> Any:
        for number in range(10):
            metadata.append("pages", f"{number} {large}")
        metadata.increment("n")
        return [page.split()[0] for page in metadata.get("pages")] + [metadata.get("n")]

    supervisor.start(working)
    first = [supervisor.expect(Change) for _ in range(3)]
    supervisor.freeze()
    heard = [*first, *(message for message in supervisor._inbox if isinstance(message, Change))]
    supervisor._inbox.clear()
    assert len(heard) < 10
    said = [change.op.value for change in heard if change.op is not None]
    context = RunContext(
        "run_test", "t", 1, 3, "v1", "dev", [], False, "2026-01-02T03:04:05Z", metadata={"pages": said, "n": 100}
    )
    supervisor.met_again(nudge=True, context=context)
    numbers = [change.number for change in heard]
    while len(numbers) < 11:
        numbers.append(supervisor.expect(Change).number)
    assert numbers == list(range(1, 12))
    assert supervisor.output_of_run() == [*map(str, range(10)), 101]


@pytest.mark.parametrize("kind", ["async", "blocking"])
def test_a_change_in_a_hook_around_a_freeze_is_said(supervisor: Supervisor, kind: str) -> None:
    @task
    async def in_loop() -> None:
        await wait.for_(hours=1)

    @task
    def blocking() -> None:
        blocking_wait.for_(hours=1)

    def going() -> None:
        metadata.set("state", "frozen")

    def coming() -> None:
        metadata.set("state", "back")

    napping = in_loop if kind == "async" else blocking
    napping.on_suspend(going)
    napping.on_resume(coming)
    supervisor.start(napping)
    (new,) = supervisor.expect_idle().waits
    supervisor.send(Suspend())
    assert told(supervisor, 1) == [("self", "set", "state", "frozen")]
    supervisor.stood_still()
    supervisor.wake(Answer(new.wait_id, "completed"))
    assert told(supervisor, 1) == [("self", "set", "state", "back")]
    supervisor.finished()


def test_a_signal_handler_may_change_metadata_wherever_it_comes(supervisor: Supervisor) -> None:
    @task
    def working() -> list[int]:
        came: list[int] = []

        def handler(*_: object) -> None:
            came.append(len(came))
            metadata.increment("signals")

        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        while len(came) < 100:
            metadata.increment("calls")
        signal.setitimer(signal.ITIMER_REAL, 0)
        return [len(came), metadata.get("signals"), metadata.get("calls")]

    supervisor.start(working)
    counts = {"signals": 0, "calls": 0}
    while isinstance(message := supervisor.receive(), Change):
        assert message.op is not None
        counts[message.op.key] += 1
    supervisor._inbox.insert(0, message)
    assert supervisor.output_of_run() == [counts["signals"], counts["signals"], counts["calls"]]


# -- arguments, and outside of a run ----------------------------------------------------------------------------------

WRONG: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "no JSON": (lambda: metadata.set("user", object()), TypeError, r"metadata.set\('user', …\): .* type object"),
    "deep inside": (lambda: metadata.set("user", {"a": [object()]}), TypeError, r"a\[0\] is of type object"),
    "bytes": (lambda: metadata.append("raw", b"x"), TypeError, "decode them"),
    "NaN": (lambda: metadata.set("x", float("nan")), ValueError, "nan"),
    "too long a number": (lambda: metadata.set("x", 2**70), ValueError, "64 bits"),
    "a key that is no text": (lambda: metadata.set(3, 1), TypeError, "must be text"),  # pyright: ignore[reportArgumentType]
    "no key": (lambda: metadata.set("", 1), ValueError, "a key is needed"),
    "a key of prototypes": (lambda: metadata.set("__proto__", 1), ValueError, "__proto__"),
    "a dict with numbers": (lambda: metadata.set("x", {1: 2}), TypeError, "keys must be text"),
    "NUL": (lambda: metadata.set("x", "a\0b"), ValueError, "NUL"),
    "half a character": (lambda: metadata.set("x", "\ud800"), ValueError, "surrogate"),
    "too large": (lambda: metadata.set("x", "y" * 300_000), ValueError, "300002 bytes"),
    "no object": (lambda: metadata.replace([1]), TypeError, "takes a mapping"),  # pyright: ignore[reportArgumentType]
    "by a text": (lambda: metadata.increment("n", "1"), TypeError, "a number"),  # pyright: ignore[reportArgumentType]
    "by a truth": (lambda: metadata.decrement("n", True), TypeError, "a number"),
    "without end": (lambda: metadata.increment("n", float("inf")), ValueError, "finite"),
    "a path that ends nowhere": (lambda: metadata.parent.set("$.", 1), ValueError, "metadata.parent.set"),
    "an empty tag": (lambda: tags.add(""), ValueError, "empty"),
    "a long tag": (lambda: tags.add("t" * 129), ValueError, "129"),
    "a tag that is no text": (lambda: tags.add(7), TypeError, "text"),  # pyright: ignore[reportArgumentType]
}


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG)
def test_what_cannot_be_stored_is_refused_at_the_call(
    case: tuple[Callable[[], object], type[Exception], str],
) -> None:
    call, kind, message = case
    with pytest.raises(kind, match=message):
        call()


def test_a_cycle_is_refused() -> None:
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(ValueError, match="nested"):
        metadata.set("x", circle)


def test_outside_of_a_run_nothing_happens_and_that_is_logged_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So an author's unit test calls the task as a plain function, and its arguments are checked all the same."""
    monkeypatch.setattr(running, "_unheard", set[str]())

    @task
    async def working() -> str:
        metadata.set("a", 1)
        metadata.set("b", 1)
        metadata.parent.increment("n")
        tags.add("x")
        await metadata.flush()
        return "done"

    assert asyncio.run(working()) == "done"
    assert (metadata.current(), metadata.get("a", 5), tags.current()) == ({}, 5, [])
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == len(set(lines)) == 4
    assert all("outside of a run" in line for line in lines)


def test_a_child_process_is_refused_since_it_would_be_lost(supervisor: Supervisor) -> None:
    @task
    def forking() -> int:
        pid = os.fork()
        if pid == 0:
            try:
                metadata.set("a", 1)
            except NotInRun:
                os._exit(3)
            os._exit(4)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    supervisor.start(forking)
    assert supervisor.output_of_run() == 3


def test_more_than_ten_tags_are_refused_and_the_run_keeps_those_it_has(supervisor: Supervisor) -> None:
    @task
    def tagging() -> list[str]:
        tags.add(*(f"t{number}" for number in range(9)))
        tags.add("t1", "a")
        with pytest.raises(ValueError, match="at most 10"):
            tags.add("one too many")
        return tags.current()

    supervisor.start(tagging)  # it has the tag "a"
    assert told(supervisor, 1) == [[f"t{number}" for number in range(9)]]
    assert len(supervisor.output_of_run()) == 10


def test_a_server_may_allow_more_or_less(supervisor: Supervisor) -> None:
    @task
    def saying() -> list[str]:
        refused: list[str] = []
        for each in (lambda: metadata.set("a", "x" * 300_000), lambda: tags.add("b"), lambda: tags.add("c")):
            try:
                each()
            except ValueError as error:
                refused.append(str(error))
        return refused

    supervisor.start(saying, limits=WordLimits(metadata_bytes=400_000, tags=2))  # it has the tag "a"
    assert [change[:3] for change in told(supervisor, 2)] == [("self", "set", "a"), ["b"]]
    [refused] = supervisor.output_of_run()
    assert "at most 2 tags" in refused


# -- the view ---------------------------------------------------------------------------------------------------------


def outbox(**metadata: Any) -> Outbox:
    return Outbox(RunContext("r", "t", 1, 1, "v", "dev", [], False, "2026-01-02T03:04:05Z", metadata=metadata))


def test_what_code_gets_is_its_own() -> None:
    box = outbox()
    value = {"list": [1]}
    box.change("self", Op("set", "a", value))
    before = box.metadata
    box.change("self", Op("append", "$.a.list", 2))
    assert before == {"a": {"list": [1]}}
    assert box.metadata == {"a": {"list": [1, 2]}}
    assert value == {"list": [1]}


@pytest.mark.parametrize("size", [1, MOST_OPEN_BYTES // 10])
def test_of_very_many_changes_none_is_kept_and_only_an_answer_to_all_of_them_counts(size: int) -> None:
    box = outbox(n=0)
    many = min(MOST_OPEN, MOST_OPEN_BYTES // size) + 1
    for _ in range(many):
        box.change("self", Op("increment", "n", 1), size=size)
    box.learn(Known(1, 7, {"n": 7}, []))
    assert box.metadata == {"n": many}
    box.change("self", Op("increment", "n", 1))
    box.learn(Known(2, many, {"n": many + 1000}, []))
    assert box.metadata == {"n": many + 1001}
