"""The clock triggers tasks, with every process real; and the command line that shows and changes it."""

import os
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

from stack import KEY, Stack, StackMaker, eventually

from whole_files import put

TASKS = """
from torpor import ScheduleTick, schedule, task


@schedule("* * * * * *", tz="Europe/Berlin")
@task
async def every_second(tick: ScheduleTick) -> dict[str, object]:
    return {"at": tick.timestamp.isoformat(), "zone": tick.timezone, "next": len(tick.upcoming)}


@schedule("0 7 * * MON-FRI", tz="America/New_York", window="10m")
@task
def digest(tick: ScheduleTick) -> str:
    return f"{tick.timezone} {tick.schedule_id}"


@task
def greet(name: str) -> str:
    return f"Hello, {name}"
"""


def torpor(stack: Stack, *arguments: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TORPOR_", "TRIGGER_"))}
    own = {"TORPOR_API_URL": f"http://127.0.0.1:{stack.port}", "TORPOR_SECRET_KEY": KEY, "NO_COLOR": "1"}
    command = [sys.executable, "-m", "torpor", *arguments]
    return subprocess.run(command, env=kept | own, capture_output=True, text=True, timeout=60)


def test_a_task_runs_every_second(make_stack: StackMaker, tmp_path: Path) -> None:
    """C1, C8: a pattern with seconds, from the decorator to the run's output, and a tick by hand; a new version ends it."""
    project = tmp_path / "project"
    project.mkdir()
    (project / "tasks.py").write_text(TASKS)
    stack = make_stack(project)
    stack.start()

    def completed() -> list[str]:
        return [run["id"] for run in stack.client.runs(task="every_second", status="COMPLETED")]

    eventually(lambda: len(completed()) >= 3, what="three ticks have run")
    outputs = [stack.output(run_id) for run_id in reversed(completed())]
    ticks = [datetime.fromisoformat(output["at"]).timestamp() for output in outputs]
    assert ticks == sorted(set(ticks))
    assert {(output["zone"], output["next"]) for output in outputs} == {("Europe/Berlin", 5)}
    assert stack.run(completed()[0])["schedule"]["generator"]["description"] == "Every second"

    put(project / "tasks.py", TASKS.replace('@schedule("* * * * * *", tz="Europe/Berlin")\n', ""))
    stack.reload_worker()
    eventually(lambda: len(list(stack.client.schedules())) == 1, what="the schedule is gone with its decorator")

    command_line_shows_and_changes(stack)


def command_line_shows_and_changes(stack: Stack) -> None:
    """On the same stack, since bringing one up takes longer than all of it."""
    listed = torpor(stack, "schedules", "list")
    assert "At 07:00 on Monday through Friday, America/New_York" in listed.stdout, listed
    assert "declared in code, within 10m" in listed.stdout
    assert listed.stdout.count(" 07:00") >= 5, "the next five, in the schedule's zone"
    [declared] = stack.client.schedules()

    by_hand = torpor(stack, "trigger", "digest", "--follow")
    assert f"America/New_York {declared['id']}" in by_hand.stdout, by_hand

    made = torpor(stack, "schedules", "create", "digest", "30 8 * * *", "--key", "k", "--tz", "Asia/Tokyo")
    assert "At 08:30 every day, Asia/Tokyo" in made.stdout, made
    [created] = [each for each in stack.client.schedules() if each["type"] == "IMPERATIVE"]
    changed = torpor(stack, "schedules", "update", created["id"], "--cron", "45 8 * * *", "--external-id", "ada")
    assert "At 08:45 every day, Asia/Tokyo" in changed.stdout, "the zone stays"
    assert "key k, for ada" in changed.stdout
    assert "resting" in torpor(stack, "schedules", "deactivate", created["id"]).stdout
    assert "next" in torpor(stack, "schedules", "activate", created["id"]).stdout
    assert created["id"] in torpor(stack, "schedules", "show", created["id"]).stdout
    assert torpor(stack, "schedules", "delete", created["id"]).stdout == f"{created['id']} is gone\n"

    wrong = torpor(stack, "schedules", "create", "digest", "61 * * * *", "--key", "k")
    assert (wrong.returncode, "field minute: 61 is more than 59" in wrong.stderr) == (3, True)
    assert "declared in code" in torpor(stack, "schedules", "delete", declared["id"]).stderr
    greedy = torpor(stack, "schedules", "create", "greet", "@daily", "--key", "k")
    assert "should take a ScheduleTick" in greedy.stderr


def test_ticks_are_made_up_for_when_the_server_was_away(make_stack: StackMaker, tmp_path: Path) -> None:
    """BB20: the server dies; ticks of some seconds are on time, so none is lost, and none comes twice."""
    project = tmp_path / "project"
    project.mkdir()
    (project / "tasks.py").write_text(TASKS)
    stack = make_stack(project)
    stack.start()
    eventually(lambda: list(stack.client.runs(task="every_second")), what="it ticks")
    stack.kill_server()
    killed = time.time()
    eventually(lambda: time.time() > killed + 2.1, what="two ticks are over")
    back = time.time()
    stack.start_server()

    def ticks() -> list[float]:
        """When each run that there is was due. They are made one after the other, and may end in any order."""
        runs = [run["id"] for run in stack.client.runs(task="every_second")]
        return sorted(datetime.fromisoformat(stack.output(run_id)["at"]).timestamp() for run_id in runs)

    found = eventually(lambda: each if (each := ticks())[-1] > back + 1 else None, what="it ticks again")
    assert found == [found[0] + index for index in range(len(found))]
    assert len([tick for tick in found if killed < tick < back]) >= 2
