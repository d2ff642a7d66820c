"""Warm images: what is thawed from one image is fresh and alike, and what can't be used is no obstacle."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.criu

PROGRAMS = Path(__file__).with_name("warm_programs.py")

PLAIN = """
import os, random, socket, ssl, tempfile, uuid
from pathlib import Path
from torpor import task

tempfile.gettempdir()
ssl.RAND_bytes(4)
with open({marker!r}, "a") as marker:
    marker.write("imported\\n")

@task
async def look():
    return {{
        "drawn": [random.random(), ssl.RAND_bytes(8).hex(), str(uuid.uuid4()), str(uuid.uuid1())],
        "places": [os.getcwd(), tempfile.gettempdir(), os.environ["TMPDIR"]],
        "host": socket.gethostname(),
        "variables": [os.environ.get("HOSTNAME"), os.environ.get("TERM")],
        "hash": hash("torpor"),
    }}
"""

THREADED = """
import threading, time
from torpor import task

beats = 0

def beat():
    global beats
    while True:
        beats += 1
        time.sleep(0.001)

with open({marker!r}, "a") as marker:
    marker.write("imported\\n")
threading.Thread(target=beat, name="beat", daemon=True).start()

@task
def look():
    before, end = beats, time.monotonic() + 60
    while beats < before + 3 and time.monotonic() < end:
        time.sleep(0.005)
    return {{"goes_on": beats >= before + 3, "threads": [thread.name for thread in threading.enumerate()]}}
"""


def told(story: str, directory: Path, source: str) -> dict[str, Any]:
    project = directory / "project"
    project.mkdir()
    (project / "tasks.py").write_text(source.format(marker=str(directory / "imports")))
    command = [sys.executable, str(PROGRAMS), story, str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["left"] == [], "nothing is left of any process and image"
    return said


def test_a_worker_that_never_saw_the_version_thaws_it_and_imports_nothing(tmp_path: Path) -> None:
    said = told("thaws", tmp_path, PLAIN)
    assert said["found"]
    assert said["tasks"] == ["look"]
    assert said["imports"] == [1, 1]
    assert said["needs_import"], "forks are faster, so it is imported there, too, when there is time"
    assert not said["has_long_facts"], "lists of files and tasks are in the image, not in rows and messages"
    assert len(set(said["bases"])) == 1, "forks of the zygote and thaws of its image share that image's pages"
    looks = said["looks"]
    for values in zip(*(look["drawn"] for look in looks), strict=True):
        assert len(set(values)) == len(looks), "no two thaws of one image draw the same"
    assert {look["host"] for look in looks} == {"second"}
    assert [look["variables"] for look in looks] == [[None, "dumb"]] * len(looks), "those of this worker"
    assert len({look["hash"] for look in looks}) == 1
    for work, tmp, variable in (look["places"] for look in looks):
        assert (Path(work).name, Path(tmp).name) == ("work", "tmp")
        assert Path(work).parent == Path(tmp).parent == Path(variable).parent


def test_a_version_that_was_thawed_is_forked_once_it_is_imported(tmp_path: Path) -> None:
    said = told("forks_in_the_end", tmp_path, PLAIN)
    assert said["imports"] == 2
    assert said["ways"] == ["thawed", "forked"]
    assert said["thawed"] != said["forked"]
    assert said["forked"] == said["newest"]


def test_a_version_whose_import_starts_a_thread_is_thawed_and_the_thread_lives(tmp_path: Path) -> None:
    said = told("is_thawed_by_itself", tmp_path, THREADED)
    assert said["imports"] == [2, 2], "once to find the thread, once to be frozen with it, and in no run"
    assert said["looks"] == [{"goes_on": True, "threads": ["MainThread", "beat"]}] * 2
    assert said["way"] == "thawed"
    assert not said["needs_import"]


def test_a_damaged_warm_image_is_refused_and_the_version_imported(tmp_path: Path) -> None:
    said = told("damaged", tmp_path, PLAIN)
    assert not said["found"]
    [refusal] = said["refused"]
    assert refusal["damaged"]
    assert "changed" in refusal["reason"]
    assert said["look"]


def test_a_warm_image_that_is_not_restored_costs_the_run_no_more_than_the_import(tmp_path: Path) -> None:
    said = told("broken", tmp_path, PLAIN)
    assert said["found"]
    assert said["look"]
    assert said["imports"] == 2
    [refusal] = said["refused"]
    assert not refusal["damaged"]


def test_what_was_imported_otherwise_is_not_thawed(tmp_path: Path) -> None:
    """Code may have read packages and variables while it was imported; a lesser CPU could not run it."""
    said = told("unfit", tmp_path, PLAIN)
    assert said["found"] == {"cpu": False, "packages": False, "variables": False, "terminal": True}
    [refusal] = said["refused"]
    assert "instructions that this CPU lacks" in refusal["reason"]
