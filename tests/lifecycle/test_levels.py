"""Isolation in clear steps: what a machine lacks is shown where somebody looks, and runs go on as far as it allows."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from blake3 import blake3
from stack import Stack, StackMaker

pytestmark = pytest.mark.criu

NO_GROUPS = ("unshare", "--mount", "sh", "-c", 'umount --lazy /sys/fs/cgroup && exec "$@"', "sh")
NO_ADMIN = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin")


def level_of(stack: Stack) -> dict:
    (worker,) = stack.client.workers()
    return worker["isolation"]


def place_of_runs(stack: Stack) -> Path:
    """Where a worker has the directories of its runs that can't mount anything."""
    name = blake3(str((stack.directory / "data").resolve()).encode()).hexdigest()[:8]
    return Path(tempfile.gettempdir(), f"torpor-{os.getuid()}-{name}")


def perform(stack: Stack) -> dict:
    """A run to its end, and what the event of its start says."""
    run_id = stack.trigger("adder", {"a": 1, "b": 2})
    assert stack.output(run_id) == 3
    (started,) = stack.events(run_id, "run.started")
    return started


def test_a_machine_that_has_it_all_isolates_fully_and_the_story_says_so(make_stack: StackMaker) -> None:
    stack = make_stack(TORPOR_ISOLATION="full")
    stack.start()
    assert level_of(stack) == {"level": "full", "missing": []}
    (worker,) = stack.client.workers()
    assert (worker["trust"], worker["networks"][0], worker["networks"][-1]) == ("own", "host", "none")
    started = perform(stack)
    assert started["isolation"] == "full"
    assert "missing" not in started
    assert "each run has a room of its own, with all limits" in stack.worker_log()


def test_what_is_missing_is_named_with_its_reason_and_runs_go_on_without_it(make_stack: StackMaker) -> None:
    stack = make_stack(TORPOR_ISOLATION="auto")
    stack.start_server()
    stack.within = NO_GROUPS
    stack.start_worker()
    shown = level_of(stack)
    assert shown["level"] == "partial"
    assert {each["what"] for each in shown["missing"]} >= {"a limit on its memory", "a limit on its processes"}
    assert all(each["why"] and each["fix"] for each in shown["missing"])
    started = perform(stack)
    assert started["isolation"] == "partial"
    assert "a limit on its memory" in started["missing"]
    assert "but without: a limit on its memory (" in stack.worker_log()
    token = stack.client.create_token()["id"]
    run_id = stack.trigger("waits_for_token", {"journal": str(stack.journal()), "token_id": token})
    stack.await_event(run_id, "run.suspended")  # it is frozen and thawed all the same
    stack.client.complete_token(token, "the answer")
    assert stack.output(run_id) == "the answer"


def test_a_worker_that_is_to_have_it_all_does_not_start_with_less(make_stack: StackMaker) -> None:
    stack = make_stack(TORPOR_ISOLATION="full")
    command = [*NO_GROUPS, sys.executable, "-m", "torpor", "worker", str(stack.project)]
    done = subprocess.run(command, env=stack._environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "TORPOR_ISOLATION=full can't be had on this machine" in done.stderr
    assert "no a limit on its memory: " in done.stderr
    assert "→ " in done.stderr
    assert "Traceback" not in done.stderr


def test_without_the_right_to_make_namespaces_runs_are_not_isolated_and_not_frozen(make_stack: StackMaker) -> None:
    stack = make_stack(TORPOR_ISOLATION="auto")
    stack.start_server()
    stack.within = NO_ADMIN
    stack.start_worker()
    assert level_of(stack)["level"] == "off"
    assert place_of_runs(stack).exists()
    assert perform(stack)["isolation"] == "off"
    assert "runs are not isolated: processes of its own (" in stack.worker_log()
    stack.stop_worker()
    assert not place_of_runs(stack).exists()


def test_off_is_a_choice_and_told_as_one(make_stack: StackMaker) -> None:
    stack = make_stack(TORPOR_ISOLATION="off")
    stack.start()
    assert level_of(stack)["missing"][0]["why"] == "TORPOR_ISOLATION is off"
    assert perform(stack)["isolation"] == "off"


def test_doctor_says_what_a_worker_would_have(make_stack: StackMaker) -> None:
    stack = make_stack(TORPOR_ISOLATION="auto")
    told = {}
    for within in ((), NO_GROUPS, NO_ADMIN):
        command = [*within, sys.executable, "-m", "torpor", "doctor", "--json"]
        done = subprocess.run(command, env=stack._environment, capture_output=True, text=True, timeout=120)
        told[within] = json.loads(done.stdout)["isolation"]["level"]
    assert list(told.values()) == ["full", "partial", "off"]
