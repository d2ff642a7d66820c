"""What a run says of itself is with the server once: through freezes and moves, before a crash, and from what comes back."""

import json
import os
import signal
import urllib.request
from typing import Any

import pytest
from stack import KEY, Stack, eventually

pytestmark = pytest.mark.criu


def read_stream(stack: Stack, run_id: str, name: str) -> list[Any]:
    """All that there is in a stream of a run that is over."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{stack.port}/realtime/v1/streams/{run_id}/{name}",
        headers={"Authorization": f"Bearer {KEY}", "Timeout-Seconds": "5"},
    )
    records: list[Any] = []
    with urllib.request.urlopen(request, timeout=60) as answer:
        for line in answer:
            if line.startswith(b"data:"):
                records += json.loads(line[5:]).get("records", [])
    return [json.loads(record["body"])["data"] for record in records]


def metadata(stack: Stack, run_id: str) -> dict[str, Any]:
    return stack.run(run_id).get("metadata") or {}


def test_a_frozen_run_and_its_parent_have_told_everything_once(stack: Stack) -> None:
    tokens = [stack.client.create_token()["id"] for _ in range(2)]
    parent = stack.trigger("parent_of", tokens)
    children = eventually(
        lambda: found if len(found := _children(stack, parent)) == 2 else None, what="the children are there"
    )
    for child in children:
        stack.await_event(child, "run.suspended")
        assert metadata(stack, child) == {"step": "before", "n": 1}
        assert stack.run(child)["tags"] == ["told"]
    for token in tokens:
        stack.client.complete_token(token, "go on")
    told = {"step": "after", "n": 10_011}
    for child in children:
        assert stack.output(child) == told
        assert metadata(stack, child) == told
        assert read_stream(stack, child, "words") == ["before", "after"]
        assert read_stream(stack, child, "one") == read_stream(stack, child, "other") == list(range(50))
    assert stack.output(parent) == {"children": 2}
    stack.assert_nothing_left()


def _children(stack: Stack, parent: str) -> list[str]:
    related = stack.run(parent).get("relatedRuns") or {}
    return [child["id"] for child in related.get("children", [])]


def test_a_killed_run_comes_back_from_where_it_has_told_all(stack: Stack) -> None:
    run_id = stack.trigger("dies_telling", str(stack.journal()))
    eventually(lambda: metadata(stack, run_id).get("lives") == [False], what="it works behind its save point")
    pid = stack.process_of(run_id)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: metadata(stack, run_id).get("lives") == [False, True], what="it came back")
    stack.journal("journal.go").touch()
    assert stack.output(run_id) == [False, True]
    assert read_stream(stack, run_id, "words") == [*range(200), "saved", "restored"]
    assert metadata(stack, run_id)["n"] == 200
    stack.assert_nothing_left()


def test_last_words_are_stored(stack: Stack) -> None:
    """What a process has said in the moment before it died is still in its socket."""
    run_id = stack.trigger("dies_at_once")
    assert stack.await_end(run_id)["status"] == "CRASHED"
    assert read_stream(stack, run_id, "words") == list(range(300))
    assert metadata(stack, run_id) == {"n": 300}


def test_a_server_that_dies_in_the_middle_of_being_told_has_everything_once(stack: Stack) -> None:
    """It may have taken a report and died before it said so: the report is repeated."""
    run_id = stack.trigger("streams_on", str(stack.journal()))
    for _ in range(2):
        seen = len(stack.lines())
        eventually(lambda seen=seen: len(stack.lines()) > seen + 5, what="it gives out numbers")
        stack.kill_server()
        stack.start_server()
    stack.journal("journal.go").touch()
    count = stack.output(run_id)
    assert read_stream(stack, run_id, "numbers") == list(range(count))
    assert metadata(stack, run_id) == {"n": count}


def test_a_run_that_is_frozen_in_the_middle_of_telling_leaves_out_nothing(stack: Stack) -> None:
    """Its worker is to leave: it is stopped wherever it is, in the middle of a message as well, and goes on with the next."""
    run_id = stack.trigger("streams_on", str(stack.journal()))
    eventually(lambda: len(stack.lines()) > 5, what="it gives out numbers")
    assert f"{run_id}  moved" in stack.drain()
    stack.start_worker()
    before = len(stack.lines())
    eventually(lambda: len(stack.lines()) > before + 5, what="it gives out more")
    stack.journal("journal.go").touch()
    count = stack.output(run_id)
    assert read_stream(stack, run_id, "numbers") == list(range(count))
    assert metadata(stack, run_id) == {"n": count}


def test_a_run_reads_what_it_is_sent(stack: Stack) -> None:
    run_id = stack.trigger("chats")
    for part in ("hello", {"n": 1}, "bye"):
        request = urllib.request.Request(
            f"http://127.0.0.1:{stack.port}/realtime/v1/streams/{run_id}/input/chat",
            data=json.dumps({"data": part}).encode(),
            headers={"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"},
        )
        assert urllib.request.urlopen(request, timeout=60).status == 200
    assert stack.output(run_id) == ["hello", {"n": 1}]
    assert read_stream(stack, run_id, "answers") == ["you said hello", "you said {'n': 1}"]


def test_metadata_that_gets_too_large_costs_the_run_nothing_else(stack: Stack) -> None:
    run_id = stack.trigger("tells_too_much")
    assert stack.output(run_id) == {"small": 1, "first": 200_000, "n": 1}
    [refused] = stack.events(run_id, "run.not_stored")
    assert "metadata.set('second', …) can't be stored" in refused["reason"]
    assert sorted(metadata(stack, run_id)) == ["first", "n", "small"]
