"""Limits hold for whatever a run does, are told apart from other ends, and leave nothing behind."""

import contextlib
import copy
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from torpor import ids
from torpor.wire.presets import Preset
from torpor.worker import cgroups_v2
from torpor.worker.cgroup_site import Caps, Mount, NoCgroups, Site, distinct, memberships, mounts
from torpor.worker.cgroups import SPARE_PIDS, Cgroup, Cgroups, look

MB = 1 << 20
SMALL = Preset("small", cpu=0.5, memory_bytes=64 * MB, disk_bytes=32 * MB, pids=20)
PATIENCE_S = 60.0


@pytest.fixture(scope="session")
def site() -> Site:
    """Where groups can be made here. Without, a test is skipped and says why, or fails where CI has promised them."""
    found = look() if sys.platform == "linux" and os.geteuid() == 0 else NoCgroups("control groups need root", "")
    if isinstance(found, Site):
        return found
    if os.environ.get("CI"):
        pytest.fail(f"in CI control groups are required: {found.reason}; {found.fix}")
    pytest.skip(found.reason)


@pytest.fixture
def worker(site: Site) -> Iterator[Cgroups]:
    made = Cgroups(site, ids.new("worker"))
    made.open()
    yield made
    made.close()
    assert not any(tree.exists() for tree in trees(made)), "nothing of the worker is left"


@pytest.fixture
def group(worker: Cgroups) -> Iterator[Cgroup]:
    made = worker.create("run", SMALL)
    yield made
    made.remove()


Start = Callable[[Cgroup, str], "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start Python code in a group, which it has entered before it begins."""
    started: list[subprocess.Popen[str]] = []

    def begin(group: Cgroup, code: str) -> "subprocess.Popen[str]":
        enter = f"import os, sys, time\nfor file in {group.files!r}:\n    open(file, 'w').write('0')\n"
        started.append(subprocess.Popen([sys.executable, "-c", enter + code], stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield begin
    for each in started:
        each.kill()
        each.wait()


def trees(worker: Cgroups) -> list[Path]:
    return distinct(worker._tree(worker.worker))


def eventually(is_so: Callable[[], Any], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < end, what
        time.sleep(0.01)


def says(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


# -- memory -----------------------------------------------------------------------------------------------------------


def test_who_uses_up_the_memory_is_killed_and_counted(group: Cgroup, start: Start) -> None:
    assert start(group, "kept = [bytearray(1 << 20) for _ in range(1000)]").wait(PATIENCE_S) == -signal.SIGKILL
    assert group.oom_kills() == 1
    assert 0.9 * SMALL.memory_bytes < group.usage().peak_memory_bytes <= SMALL.memory_bytes


def test_another_kill_is_not_taken_for_one(group: Cgroup, start: Start) -> None:
    process = start(group, "print('there', flush=True); time.sleep(60)")
    says(process)
    process.kill()
    process.wait()
    assert group.oom_kills() == 0


def test_a_child_that_uses_up_the_memory_leaves_its_parent_alive(group: Cgroup, start: Start) -> None:
    process = start(
        group,
        """
child = os.fork()
if child == 0:
    kept = [bytearray(1 << 20) for _ in range(1000)]
print(os.waitpid(child, 0)[1], flush=True)
time.sleep(60)
""",
    )
    assert says(process) == str(int(signal.SIGKILL))
    assert process.poll() is None
    assert group.oom_kills() == 1


def test_contents_of_files_that_were_read_are_not_called_memory_of_the_run(
    group: Cgroup, start: Start, tmp_path: Path
) -> None:
    if os.stat("/dev/shm").st_dev == tmp_path.stat().st_dev:
        pytest.skip("files here are memory")
    file = tmp_path / "large"
    code = f"""
file = open({str(file)!r}, "wb")
for _ in range(300):
    file.write(bytes(1 << 20))
file.flush()
os.fsync(file.fileno())
print('there', flush=True)
time.sleep(60)
"""
    process = start(group, code)
    says(process)
    assert group.usage().peak_memory_bytes < 32 * MB
    assert group.oom_kills() == 0


def test_a_limit_is_not_lowered_below_what_is_used_until_it_is_free_again(group: Cgroup, start: Start) -> None:
    large = Preset("large", 1, 256 * MB, 1, 100)
    group.resize(large)
    process = start(group, "kept = bytearray(b'x') * (128 << 20); print(1, flush=True); time.sleep(60)")
    says(process)
    group.resize(SMALL)
    assert process.poll() is None
    assert group.oom_kills() == 0
    process.kill()
    process.wait()
    eventually(lambda: group.usage().peak_memory_bytes and not group.pids(), "it is gone")
    group.tighten()
    assert start(group, "kept = bytearray(b'x') * (128 << 20)").wait(PATIENCE_S) == -signal.SIGKILL


def test_criu_gets_some_room_beyond_the_limit_for_a_while(group: Cgroup, start: Start) -> None:
    hog = "kept = bytearray(b'x') * (80 << 20)"
    group.loosen()
    assert start(group, hog).wait(PATIENCE_S) == 0
    group.tighten()
    assert start(group, hog).wait(PATIENCE_S) == -signal.SIGKILL


def test_what_forks_share_does_not_count_in_a_restored_run(worker: Cgroups, start: Start) -> None:
    group = worker.create("restored", SMALL, inherited_bytes=64 * MB)
    process = start(group, "kept = bytearray(b'x') * (100 << 20); print(1, flush=True); time.sleep(60)")
    says(process)
    assert 36 * MB < group.usage().peak_memory_bytes < 60 * MB


# -- processes --------------------------------------------------------------------------------------------------------

BOMB = """
made = 0
try:
    while True:
        if os.fork() == 0:
            time.sleep(60)
        made += 1
except BlockingIOError:
    print(made, flush=True)
time.sleep(60)
"""


def test_a_fork_bomb_meets_its_limit(group: Cgroup, start: Start) -> None:
    process = start(group, BOMB)
    assert int(says(process)) == SMALL.pids - 1
    assert len(group.pids()) == SMALL.pids
    eventually(lambda: group.refused_pids() > 0, "the refusal is counted")


def test_criu_may_make_some_more_for_a_while(group: Cgroup, worker: Cgroups, start: Start) -> None:
    group.loosen()
    assert int(says(start(group, BOMB))) == SMALL.pids + SPARE_PIDS - 1
    after = worker.create("after", SMALL)
    after.loosen()
    after.tighten()
    assert int(says(start(after, BOMB))) == SMALL.pids - 1


def test_all_are_killed_wherever_in_the_tree_they_have_got_to(group: Cgroup, start: Start) -> None:
    """In sessions of their own, orphaned, stopped, and forking all the while."""
    process = start(
        group,
        """
import signal
for n in range(6):
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        if n == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        while n == 2:
            try:
                if os.fork() == 0:
                    os._exit(0)
                os.waitpid(-1, 0)
            except OSError:
                pass
        time.sleep(60)
print('there', flush=True)
time.sleep(60)
""",
    )
    says(process)
    eventually(lambda: len(group.pids()) >= 7, "all are there")
    group.kill()
    assert not group.pids()
    assert process.wait(PATIENCE_S) == -signal.SIGKILL


def test_whoever_enters_does_so_with_all_that_it_forks(group: Cgroup) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", "import os, time; input(); os.fork(); time.sleep(60)"], stdin=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    group.enter(process.pid)
    process.stdin.write("go\n")
    process.stdin.flush()
    eventually(lambda: len(group.pids()) == 2, "both are in it")
    group.remove()
    assert process.wait(PATIENCE_S) == -signal.SIGKILL


# -- cpu --------------------------------------------------------------------------------------------------------------

BUSY = """
def busy():
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
"""


def test_cpu_time_of_children_that_have_ended_counts(group: Cgroup, start: Start, site: Site) -> None:
    if group.usage().cpu_ms == 0 and site.kind == "v1" and "cpuacct" not in site.homes:
        pytest.skip("CPU time isn't counted by groups here")
    start(group, BUSY + "\nfor _ in range(2):\n    if os.fork() == 0:\n        busy()\n        os._exit(0)").wait()
    eventually(lambda: not group.pids(), "all have ended")
    assert 390 < group.usage().cpu_ms < 2000


def test_a_hard_limit_holds_though_nobody_else_wants_the_cpu(site: Site, start: Start) -> None:
    if "cpu" in site.lacks:
        pytest.skip("no controller for CPUs here")
    worker = Cgroups(site, ids.new("worker"), is_hard=True)
    worker.open()
    with contextlib.closing(worker):
        group = worker.create("slow", Preset("slow", 0.2, 64 * MB, 1, 20))
        began = time.monotonic()
        assert start(group, BUSY + "busy()").wait(PATIENCE_S) == 0
        assert time.monotonic() - began > 0.7


# -- trees ------------------------------------------------------------------------------------------------------------


def test_the_tree_of_a_dead_worker_is_removed_with_all_that_is_in_it(site: Site, start: Start) -> None:
    dead, living = Cgroups(site, ids.new("worker")), Cgroups(site, ids.new("worker"))
    dead.open()
    process = start(dead.create("left-over", SMALL), "print(1, flush=True); time.sleep(60)")
    says(process)
    dead._let_go()  # as the kernel does at its end
    living.open()
    with contextlib.closing(living):
        assert process.wait(PATIENCE_S) == -signal.SIGKILL
        assert not any(tree.exists() for tree in trees(dead))


def test_the_tree_of_a_living_worker_is_let_be(worker: Cgroups, site: Site, start: Start) -> None:
    process = start(worker.create("run", SMALL), "print(1, flush=True); time.sleep(60)")
    says(process)
    other = Cgroups(site, ids.new("worker"))
    other.open()
    other.close()
    assert process.poll() is None
    assert all(tree.exists() for tree in trees(worker))


def test_a_worker_that_has_only_some_groups_in_common_with_us_is_let_be(worker: Cgroups, site: Site) -> None:
    """As in a container that has a memory group of its own, but the other groups of its host. The last to leave leaves none."""
    if site.kind != "v1":
        pytest.skip("v2 has one hierarchy: whoever shares a place shares it all")
    place = site.homes["memory"] / "torpor-test-elsewhere"
    place.mkdir()
    try:
        elsewhere = copy.copy(site)
        elsewhere.homes = {**site.homes, "memory": place}
        other = Cgroups(elsewhere, ids.new("worker"))
        other.open()
        assert all(tree.exists() for tree in trees(worker))
        third = Cgroups(site, ids.new("worker"))
        third.open()
        assert all(tree.exists() for tree in trees(other))
        third.close()
        other.close()
        assert not list(place.glob("*/"))
        assert all(tree.exists() for tree in trees(worker))
    finally:
        for each in (place / "torpor", place):
            with contextlib.suppress(FileNotFoundError):
                each.rmdir()


def test_a_worker_that_comes_back_finds_its_tree_empty(site: Site, start: Start) -> None:
    name = ids.new("worker")
    before, after = Cgroups(site, name), Cgroups(site, name)
    before.open()
    process = start(before.create("left-over", SMALL), "print(1, flush=True); time.sleep(60)")
    says(process)
    before._let_go()
    after.open()
    with contextlib.closing(after):
        assert process.wait(PATIENCE_S) == -signal.SIGKILL
        assert not [entry for tree in trees(after) for entry in tree.iterdir() if entry.is_dir()]


# -- what is found ----------------------------------------------------------------------------------------------------


def test_hierarchies_are_read_from_what_is_mounted() -> None:
    docker_v1 = """\
700 650 0:29 /docker/abc /sys/fs/cgroup/memory ro,nosuid master:11 - cgroup cgroup rw,memory
701 650 0:30 / /sys/fs/cgroup/my\\040cpu rw,nosuid - cgroup cgroup rw,cpu,cpuacct
702 650 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
703 650 0:99 / /proc rw - proc proc rw
"""
    memory, cpu, unified = mounts(docker_v1)
    assert memory.controllers == {"memory"}
    assert not memory.is_writable
    assert memory.where("/docker/abc") == Path("/sys/fs/cgroup/memory")
    assert memory.where("/docker/abc/inner") == Path("/sys/fs/cgroup/memory/inner")
    assert memory.where("/docker/abcd") is None
    assert cpu.controllers == {"cpu", "cpuacct"}
    assert cpu.where("/user/1") == Path("/sys/fs/cgroup/my cpu/user/1")
    assert unified.kind == "cgroup2"
    assert memberships("4:cpu,cpuacct:/user\n0::/me\n") == {"cpu": "/user", "cpuacct": "/user", "": "/me"}


def hierarchy(top: Path, *groups: str, controllers: str = "cpu memory pids", is_host: bool = True) -> Mount:
    """Files as the kernel would show them."""
    for name in ("", *groups):
        group = top / name
        group.mkdir(parents=True, exist_ok=True)
        (group / "cgroup.controllers").write_text(controllers)
        (group / "cgroup.subtree_control").write_text("")
        (group / "cgroup.procs").write_text("")
        if name or not is_host:
            (group / "cgroup.type").write_text("domain")
            (group / "memory.max").write_text("max")
    return Mount("cgroup2", "/", top, True, frozenset())


def found_home(mount: Mount, ours: str) -> Path | str:
    found = cgroups_v2.look([mount], {"": ours})
    return found.home if isinstance(found, Site) else found.reason


def test_in_a_container_the_group_of_all_its_processes_is_taken(tmp_path: Path) -> None:
    mount = hierarchy(tmp_path, is_host=False)
    (tmp_path / "cgroup.procs").write_text("1\n17\n18\n")
    assert found_home(mount, "/") == tmp_path


def test_a_group_that_others_are_in_is_not_rearranged(tmp_path: Path) -> None:
    """As in a session of ssh: then ours are at the top of the host's."""
    mount = hierarchy(tmp_path, "user", "user/session")
    (tmp_path / "user/session/cgroup.procs").write_text(f"1\n{os.getpid()}\n")
    assert found_home(mount, "/user/session") == tmp_path


def test_a_group_that_is_all_ours_is_taken(tmp_path: Path) -> None:
    mount = hierarchy(tmp_path, "system", "system/torpor.service")
    (tmp_path / "system/torpor.service/cgroup.procs").write_text(f"{os.getpid()}\n")
    assert found_home(mount, "/system/torpor.service") == tmp_path / "system/torpor.service"


def test_limits_that_were_set_for_the_worker_are_not_evaded(tmp_path: Path) -> None:
    mount = hierarchy(tmp_path, "user", "user/session")
    (tmp_path / "user/memory.max").write_text("1000000")
    (tmp_path / "user/session/cgroup.procs").write_text("1\n")
    told = found_home(mount, "/user/session")
    assert isinstance(told, str)
    assert f"runs must stay within the limits of {tmp_path / 'user'}" in told


def test_a_second_worker_finds_the_place_that_the_first_one_has_made(tmp_path: Path) -> None:
    mount = hierarchy(tmp_path, "torpor", "torpor/outside", is_host=False)
    assert found_home(mount, "/torpor/outside") == tmp_path


def test_a_hierarchy_without_our_controllers_is_none(tmp_path: Path) -> None:
    told = found_home(hierarchy(tmp_path, controllers="cpu"), "/")
    assert told == f"no controller for memory and pids in {tmp_path}"


def test_caps_are_a_presets() -> None:
    assert Caps.of(SMALL, is_hard=True) == Caps(64 * MB, 20, 0.5, is_hard=True)
