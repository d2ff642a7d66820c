"""Parts leave at once and in order, and who is not listened to waits; what is sent to a run is read once."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import msgspec
import pytest
from fake_supervisor import Supervisor

from torpor import ApiError, NotInRun, WaitTimeout, inputs, stream, task, wait
from torpor.sync import inputs as blocking_inputs
from torpor.sync import wait as blocking_wait
from torpor.wire.runner import Answer, Append, Call, Result
from torpor.wire.streams import MAX_PART_BYTES


def given_out(supervisor: Supervisor, count: int) -> list[Any]:
    """So many parts that the run gives out: whose, which stream, what."""
    appended = [supervisor.expect(Append) for _ in range(count)]
    assert len({each.part.id for each in appended}) == count
    return [(each.target, each.key, msgspec.json.decode(each.part.data)) for each in appended]


def of_the_stream(supervisor: Supervisor, count: int) -> list[Any]:
    return [part for _, _, part in given_out(supervisor, count)]


async def words(count: int) -> AsyncIterator[str]:
    for number in range(count):
        yield f"word {number}"


@pytest.mark.parametrize("kind", ["async", "blocking"])
def test_parts_are_said_at_once_in_order_and_before_a_wait(supervisor: Supervisor, kind: str) -> None:
    def give() -> None:
        stream("a").append("text")
        stream("b", to="parent").append({"n": 1})
        stream("a").append(["x"])
        stream().append(None)

    @task
    async def in_loop() -> None:
        give()
        await wait.for_(hours=1)

    @task
    def blocking() -> None:
        give()
        blocking_wait.for_(hours=1)

    supervisor.start(in_loop if kind == "async" else blocking, parent_run_id="run_p")
    assert given_out(supervisor, 4) == [
        ("self", "a", "text"),
        ("parent", "b", {"n": 1}),
        ("self", "a", ["x"]),
        ("self", "default", None),
    ]
    supervisor.answer(supervisor.expect_idle().waits[0].wait_id)
    supervisor.finished()


def test_an_async_pipe_ends_when_all_is_stored(supervisor: Supervisor) -> None:
    @task
    async def telling() -> list[Any]:
        heard: list[str] = []
        return [await stream("words").pipe(words(3), each=heard.append), heard]

    supervisor.start(telling)
    assert of_the_stream(supervisor, 3) == ["word 0", "word 1", "word 2"]
    supervisor.reply("flush", {"metadata": {}, "tags": []})
    assert supervisor.output_of_run() == [3, ["word 0", "word 1", "word 2"]]


def test_a_blocking_pipe_and_a_writer_do_so_too(supervisor: Supervisor) -> None:
    @task
    def telling() -> int:
        with stream("words").writer() as write:
            write("first")
        return stream("words").pipe(str(number) for number in range(3))

    supervisor.start(telling)
    assert of_the_stream(supervisor, 1) == ["first"]
    supervisor.reply("flush", {"metadata": {}, "tags": []})
    assert of_the_stream(supervisor, 3) == ["0", "1", "2"]
    supervisor.reply("flush", {"metadata": {}, "tags": []})
    assert supervisor.output_of_run() == 3


def test_what_the_server_does_not_take_is_raised_at_the_end_of_a_pipe(supervisor: Supervisor) -> None:
    @task
    async def telling() -> str:
        try:
            await stream("words").pipe(words(1))
        except ApiError as refused:
            return refused.message
        return "stored"

    supervisor.start(telling)
    given_out(supervisor, 1)
    supervisor.reply("flush", None, ok=False, status=413, error="the stream is full")
    assert supervisor.output_of_run() == "the stream is full"


def test_an_error_of_the_iterator_is_the_authors_and_what_came_before_is_given_out(supervisor: Supervisor) -> None:
    def breaking() -> Iterator[str]:
        yield "before"
        raise LookupError("no more words")

    @task
    def telling() -> None:
        stream("words").pipe(breaking())

    supervisor.start(telling)
    assert of_the_stream(supervisor, 1) == ["before"]
    outcome = supervisor.finished()
    assert outcome.error is not None
    assert outcome.error.name == "LookupError"


def test_who_is_not_listened_to_waits_and_in_async_code_others_go_on(supervisor: Supervisor) -> None:
    """The supervisor reads nothing: a pipe waits for room, and the loop turns."""
    large = "x" * 100_000
    go = supervisor.directory / "go"

    async def many() -> AsyncIterator[str]:
        for _ in range(50):
            yield large

    @task
    async def telling() -> int:
        piping = asyncio.create_task(stream("words").pipe(many(), each=lambda _: given.append(1)))
        while not go.exists():
            await asyncio.sleep(0.001)
        assert len(given) < 50
        return await piping

    given: list[int] = []
    supervisor.start(telling)
    first = supervisor.expect(Append)
    assert len(first.part.data) == 100_002
    go.touch()
    time.sleep(0.05)
    given_out(supervisor, 49)
    supervisor.reply("flush", {"metadata": {}, "tags": []})
    assert supervisor.output_of_run() == 50


def test_a_blocking_append_goes_on_when_it_is_listened_to_again(supervisor: Supervisor) -> None:
    @task
    def telling() -> int:
        for number in range(100):
            stream("words").append(f"{number} {'x' * 50_000}")
        return 100

    supervisor.start(telling)
    supervisor.expect(Append)
    supervisor.until_says("append() waits for it")  # it has filled the socket
    said = of_the_stream(supervisor, 99)
    assert [text.split()[0] for text in said] == [str(number) for number in range(1, 100)]
    assert supervisor.output_of_run() == 100
    assert supervisor.output().count("append() waits for it") == 1


def test_threads_of_an_async_task_give_out_all_that_they_have(supervisor: Supervisor) -> None:
    @task
    async def telling() -> None:
        def give(name: str) -> None:
            for number in range(300):
                stream(name).append(number)

        await asyncio.gather(*(asyncio.to_thread(give, name) for name in ("a", "b")))

    supervisor.start(telling)
    given = given_out(supervisor, 600)
    for name in ("a", "b"):
        assert [part for _, key, part in given if key == name] == list(range(300))
    supervisor.finished()


def test_parts_that_had_not_left_are_given_out_once_after_a_freeze_at_work(supervisor: Supervisor) -> None:
    @task
    def telling() -> None:
        for number in range(20):
            stream("words").append(f"{number} {'x' * 100_000}")

    supervisor.start(telling)
    heard = [supervisor.expect(Append)]
    supervisor.freeze()
    heard += [message for message in supervisor._inbox if isinstance(message, Append)]
    supervisor._inbox.clear()
    supervisor.met_again(nudge=True)
    heard += [supervisor.expect(Append) for _ in range(20 - len(heard))]
    texts = [msgspec.json.decode(each.part.data).split()[0] for each in heard]
    assert texts == [str(number) for number in range(20)]
    assert len({each.part.id for each in heard}) == 20
    supervisor.finished()


WRONG: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "no JSON": (lambda: stream("s").append(object()), TypeError, r"stream\('s'\).append\(…\): .* type object"),
    "bytes": (lambda: stream("s").append(b"x"), TypeError, "decode them"),
    "too large": (lambda: stream("s").append("x" * MAX_PART_BYTES), ValueError, "524290 bytes"),
    "no name": (lambda: stream(""), ValueError, "1 to 256"),
    "a long name": (lambda: stream("x" * 257), ValueError, "1 to 256"),
    "a name that is no text": (lambda: stream(3), TypeError, "name is text"),  # pyright: ignore[reportArgumentType]
    "to nobody": (lambda: stream("s", to="me"), ValueError, "self, parent, root"),  # pyright: ignore[reportArgumentType]
    "an input without a name": (lambda: inputs(""), ValueError, "1 to 256"),
}


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG)
def test_what_cannot_be_given_out_is_refused_at_the_call(
    case: tuple[Callable[[], object], type[Exception], str],
) -> None:
    call, kind, message = case
    with pytest.raises(kind, match=message):
        call()


def test_outside_of_a_run_a_pipe_runs_through_and_an_input_is_refused() -> None:
    assert asyncio.run(_pipe(3)) == 3
    assert stream("s").pipe(["a", "b"]) == 2
    with pytest.raises(NotInRun, match="next"):
        blocking_inputs("chat").next()


async def _pipe(count: int) -> int:
    return await stream("s").pipe(words(count))


# -- inputs -----------------------------------------------------------------------------------------------------------


def parts(*some: tuple[int, Any]) -> dict[str, Any]:
    return {"parts": [{"seq": seq, "data": data} for seq, data in some]}


def test_an_input_is_read_on_where_it_was_read_to_also_after_a_freeze(supervisor: Supervisor) -> None:
    @task
    async def chatting() -> list[Any]:
        first = [await inputs("chat").next(), await inputs("chat").next()]
        await wait.for_(hours=1)
        rest: list[Any] = []
        async for part in inputs("chat"):
            rest.append(part)
            if part == "bye":
                break
        return [first, rest]

    supervisor.start(chatting)
    assert supervisor.reply("inputs", parts())["after"] == -1  # nothing yet: it asks again
    assert supervisor.reply("inputs", parts((0, "a"), (1, {"b": 1}), (2, "c")))["key"] == "chat"
    (new,) = supervisor.expect_idle().waits
    supervisor.suspend()
    supervisor.wake(Answer(new.wait_id, "completed"))
    assert supervisor.reply("inputs", parts((3, "bye")))["after"] == 2
    assert supervisor.output_of_run() == [["a", {"b": 1}], ["c", "bye"]]


@pytest.mark.parametrize("kind", ["async", "blocking"])
def test_who_waits_long_enough_for_an_input_is_told(supervisor: Supervisor, kind: str) -> None:
    @task
    async def in_loop() -> str:
        try:
            return await inputs("chat").next(timeout=0.01)
        except WaitTimeout as nothing:
            return nothing.what

    @task
    def blocking() -> str:
        try:
            return blocking_inputs("chat").next(timeout=0.01)
        except WaitTimeout as nothing:
            return nothing.what

    supervisor.start(in_loop if kind == "async" else blocking)
    while isinstance(call := supervisor.receive(), Call):
        assert msgspec.json.decode(call.body)["wait_s"] <= 0.01
        time.sleep(0.01)
        supervisor.send(Result(call.call_id, True, msgspec.Raw(b'{"parts":[]}')))
    supervisor._inbox.insert(0, call)
    assert supervisor.output_of_run() == "input 'chat'"


def test_two_threads_that_read_the_same_input_share_it(supervisor: Supervisor) -> None:
    @task
    def reading() -> list[int]:
        got: list[int] = []

        def read() -> None:
            for part in blocking_inputs("numbers"):
                if part < 0:
                    return
                got.append(part)

        threads = [threading.Thread(target=read) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sorted(got)

    supervisor.start(reading)
    kept = [*range(100), -1, -1]
    while isinstance(call := supervisor.receive(), Call):
        after = msgspec.json.decode(call.body)["after"]
        some = [(seq, kept[seq]) for seq in range(after + 1, min(after + 8, len(kept)))]
        supervisor.send(Result(call.call_id, True, msgspec.Raw(msgspec.json.encode(parts(*some)))))
    supervisor._inbox.insert(0, call)
    assert supervisor.output_of_run() == list(range(100))
