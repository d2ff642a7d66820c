"""What docs/limits.md says: which programs aren't frozen, or lose something, and in which words their authors are told."""

import re
from pathlib import Path

import pytest
from journey import PATIENCE_S, Journey, limits
from stack import eventually

pytestmark = [pytest.mark.criu, pytest.mark.timeout(600)]

PAGE = (Path(__file__).parents[2] / "docs" / "limits.md").read_text()

HELD = {
    "a_sleep_beside_a_wait": r"task 'nap' awaits asyncio\.sleep",
    "a_thread_that_waits_for_a_time": r"thread 'patient' is at work",
    "a_unix_socket_to_another_process": r"fd \d+ is a unix socket connected to another process \(/\S+\)",
    "a_lock_on_a_file_elsewhere": r"fd \d+ is open on /\S+, which could change .*, and this process holds a lock on it",
    "an_sqlite_transaction_elsewhere": r"fd \d+ is open on /\S+rows\.db, .*, and this process holds a lock on it",
    "a_file_elsewhere_mapped_for_writing": r"fd \d+ is open on /\S+mapped, .*, and it is mapped for writing",
    "a_database_transaction": r"a connection of asyncpg to [\d.]+:\d+ has a transaction open",
    "a_device": r"a device is open \(fd \d+, 10:229\)",
    "a_large_deleted_file": r"a deleted file that is still open is too large: \S+large",
    "a_websocket_that_pings": r"task 'Task-\d+' awaits asyncio\.sleep at websockets/",
}
LOST = {
    "a_file_elsewhere_that_is_deleted": r"fd \d+ /\S+deleted: No such file or directory",
    "a_file_elsewhere_that_is_replaced": r"fd \d+ /\S+replaced: another file has taken its place",
    "a_file_elsewhere_that_is_cut_short": r"fd \d+ /\S+short: cut short, from 13 to 3 bytes",
}
CHANGED = {"the_cpu_clock", "a_connection_to_a_server_of_the_run"}
NOT_ALLOWED = {"a_child_with_mounts_of_its_own", "a_child_with_a_network_of_its_own", "a_perf_event"}
REFUSED = {"a_mapped_file_elsewhere_that_grows": r"/\S+weights has 4097 bytes, where it had 4096"}


def test_each_limit_is_tested() -> None:
    assert limits().keys() == HELD.keys() | LOST.keys() | CHANGED | NOT_ALLOWED | REFUSED.keys()


@pytest.mark.parametrize("words", [*HELD.values(), *LOST.values(), *REFUSED.values()])
def test_the_page_has_these_words(words: str) -> None:
    """What the page quotes is what is told."""
    assert any(re.search(words, quoted) for quoted in re.findall(r"`([^`\n]+)`", PAGE))


@pytest.mark.parametrize("name", HELD)
def test_it_is_held_in_memory_and_says_why(journey: Journey, name: str) -> None:
    run_id = journey.runs[name]
    stack = journey.stack
    told = eventually(
        lambda: stack.events(run_id, "run.held") + stack.events(run_id, "run.freeze_failed"),
        what=f"{name} says why: {stack.kinds(run_id)}",
        patience_s=PATIENCE_S,
    )
    assert re.search(HELD[name], str(told))
    journey.answer(name)
    passed = journey.passed(name)
    assert passed.run["status"] == "COMPLETED", passed.run.get("error")
    assert "run.suspended" not in passed.kinds


@pytest.mark.parametrize("name", LOST)
def test_what_was_lost_is_told(journey: Journey, name: str) -> None:
    passed = journey.passed(name)
    assert passed.run["status"] == "COMPLETED", passed.run.get("error")
    [lost] = journey.stack.events(journey.runs[name], "run.descriptors_lost")
    assert re.search(LOST[name], str(lost))


@pytest.mark.parametrize("name", sorted(CHANGED))
def test_what_changes_is_what_the_page_says(journey: Journey, name: str) -> None:
    """The program checks it."""
    passed = journey.passed(name)
    assert passed.run["status"] == "COMPLETED", passed.run.get("error")
    assert "run.resumed" in passed.kinds


@pytest.mark.parametrize("name", sorted(NOT_ALLOWED))
def test_what_can_not_be_frozen_is_not_allowed_in_a_room(journey: Journey, name: str) -> None:
    """The program checks it. Where there are no rooms it keeps a run in memory: tests/lifecycle/test_damage.py."""
    passed = journey.passed(name)
    assert passed.run["status"] == "COMPLETED", passed.run.get("error")


@pytest.mark.parametrize("name", REFUSED)
def test_an_image_that_can_not_be_restored_says_why(journey: Journey, name: str) -> None:
    passed = journey.passed(name)
    assert passed.run["status"] == "CRASHED"
    assert re.search(REFUSED[name], str(passed.why_not))
