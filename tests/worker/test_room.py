"""What a room is made of: what is chosen of the machine, and that making one leaves nothing when it fails."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from torpor.config import Settings
from torpor.errors import ConfigError
from torpor.worker import namespaces, template
from torpor.worker.room import Rooms

needs_root = pytest.mark.skipif(not namespaces.may_unshare(), reason="rooms need root")


def planned(project: Path, readable: tuple[str, ...] = (), writable: tuple[str, ...] = ()) -> template.Plan:
    return template.plan(project, readable=readable, writable=writable, hidden=[])


def test_the_interpreter_its_path_and_the_project_are_seen(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    for wanted in (
        sys.prefix,
        sys.base_prefix,
        str(tmp_path),
        *(path for path in sys.path if path and Path(path).exists()),
    ):
        assert any(f"{wanted}/".startswith(f"{each}/") for each in plan.readable), wanted


def test_what_is_below_something_else_is_not_mounted_again(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    plan = planned(tmp_path, (str(tmp_path / "inner"), f"{tmp_path}/"))
    assert [path for path in plan.readable if path.startswith(str(tmp_path))] == [str(tmp_path)]


def test_a_link_is_seen_under_its_name_and_where_it_leads_to(tmp_path: Path) -> None:
    real, link, project = tmp_path / "real", tmp_path / "link", tmp_path / "project"
    real.mkdir()
    project.mkdir()
    link.symlink_to(real)
    assert {str(real), str(link)} <= set(planned(project, (str(link),)).readable)


@pytest.mark.parametrize("path", ["/", "/run", "/tmp", "/proc/1", "/run/torpor", "/etc"])
def test_what_would_show_other_rooms_or_hide_this_one_is_never_mounted(
    tmp_path: Path, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert path not in planned(tmp_path, (path,)).readable
    assert "can't be shown to runs" in caplog.text


def test_a_path_that_is_not_there_is_told_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plan = planned(tmp_path, writable=(str(tmp_path / "missing"),))
    assert plan.writable == ()
    assert "does not exist" in caplog.text


def test_a_plan_notices_that_a_directory_has_taken_anothers_place(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    plan = planned(tmp_path / "nowhere", (str(place),))
    before = plan.looked()
    assert plan.looked() == before
    place.rename(tmp_path / "old")
    place.mkdir()
    assert plan.looked() != before


@pytest.mark.parametrize("text", ["many", "5", "300-200", "0-100", "1-99999999999"])
def test_a_range_of_users_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="TORPOR_RUN_UIDS"):
        Rooms(tmp_path, Settings(data_dir=tmp_path, run_uids=text))


def in_mounts_of_its_own(tmp_path: Path, what: str) -> dict[str, object]:
    """What this code, which finds `rooms`, `run_root`, `project` and `mounts()`, leaves in `said`."""
    head = f"""
    import json, os
    from pathlib import Path
    from torpor.config import Settings
    from torpor.worker import belongings, namespaces, room
    namespaces.unshare(namespaces.CLONE_NEWNS)
    namespaces.mount(None, "/", None, namespaces.MS_REC | namespaces.MS_PRIVATE)
    run_root, project = Path({str(tmp_path / "runs")!r}), Path({str(tmp_path / "project")!r})
    namespaces.mount("tmpfs", "/run", "tmpfs")
    namespaces.bind(str(run_root), str(run_root))
    settings = Settings(data_dir=project / "data", writable={str(tmp_path / "shared")!r}, run_uids="300000-300002")
    rooms = room.Rooms(run_root, settings)
    directory = run_root / "runner_x"
    directory.mkdir()
    said = {{}}
    def mounts():
        return [line.split()[4] for line in open("/proc/self/mountinfo") if "runner_x" in line]
    """
    for name in ("runs", "project/data", "shared"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "project" / "data" / "secret").write_text("secret")
    code = textwrap.dedent(head) + textwrap.dedent(what) + "\nprint(json.dumps(said))\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_root
def test_a_room_shows_the_project_covers_the_data_and_goes_at_once(tmp_path: Path) -> None:
    said = in_mounts_of_its_own(
        tmp_path,
        """
        made = rooms.make(directory, project)
        inside = lambda path: Path(f"{made.root}{path}")
        said["data"] = os.listdir(inside(project / "data"))
        said["etc"] = [inside("/etc/passwd").is_symlink(), (made.own / "etc" / "passwd").read_text().count("run:x:")]
        said["shared"] = os.access(inside(project), os.W_OK), os.access(inside(project.parent / "shared"), os.W_OK)
        said["uid"] = made.uid
        made.resize(1 << 20)
        try:
            (made.own / "work" / "much").write_bytes(bytes(2 << 20))
        except OSError as error:
            said["full"] = error.strerror
        belongings.remove(directory)
        said["left"] = mounts(), directory.exists()
        """,
    )
    assert said["data"] == []
    assert said["etc"] == [True, 1]
    assert said["shared"] == [False, True]
    assert said["uid"] in (300001, 300002)
    assert said["full"] == "No space left on device"
    assert said["left"] == [[], False]


@needs_root
def test_a_room_that_can_not_be_made_gives_its_user_back(tmp_path: Path) -> None:
    said = in_mounts_of_its_own(
        tmp_path,
        """
        furnish, room._furnish = room._furnish, None
        for _ in range(5):
            try:
                rooms.make(directory, project)
            except TypeError:
                belongings.remove(directory)
                directory.mkdir()
        room._furnish = furnish
        said["made"] = [rooms.make(directory, project).uid] != []
        belongings.remove(directory)
        said["left"] = mounts()
        """,
    )
    assert said == {"made": True, "left": []}


@needs_root
def test_a_room_shows_what_took_the_place_of_the_project(tmp_path: Path) -> None:
    said = in_mounts_of_its_own(
        tmp_path,
        """
        first = rooms.template(project)
        said["same"] = rooms.template(project) is first
        project.rename(project.parent / "old")
        project.mkdir()
        (project / "data").mkdir()
        (project / "new.py").touch()
        made = rooms.make(directory, project)
        said["new"] = Path(f"{made.root}{project}/new.py").exists()
        said["templates"] = len(os.listdir("/run/torpor-rooms"))
        """,
    )
    assert said == {"same": True, "new": True, "templates": 1}
