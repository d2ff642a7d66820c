"""A run's room: what is in there, what is not, and that a freeze changes nothing of it. Who tries to break out of it is
tests/attacks.
"""

import os
import subprocess
from pathlib import Path

import pytest
from stack import Stack, StackMaker, eventually

from torpor.worker import namespaces

pytestmark = [
    pytest.mark.criu,
    pytest.mark.skipif(not namespaces.may_unshare(), reason="rooms need root"),
]

NOTHING = "0000000000000000"


def waiting(stack: Stack, *paths: Path | str) -> tuple[str, str]:
    """A token, and a run that has looked around and waits for it, frozen."""
    token = stack.client.create_token()["id"]
    run_id = stack.trigger("looks_around", {"token_id": token, "paths": list(map(str, paths))})
    stack.await_event(run_id, "run.suspended")
    return token, run_id


def mounts_of(stack: Stack, pid: int) -> list[str]:
    """All mount points of the namespace that a process is in, also those that it can't see itself."""
    supervisor = stack.worker_pids()[1]
    enter = ["nsenter", f"--mount=/proc/{pid}/ns/mnt", f"--pid=/proc/{supervisor}/ns/pid"]
    done = subprocess.run([*enter, "cat", "/proc/self/mountinfo"], capture_output=True, text=True, check=True)
    return [line.split()[4] for line in done.stdout.splitlines()]


def test_a_run_is_nobody_and_sees_itself_only_before_and_after_a_freeze(stack: Stack) -> None:
    token, run_id = waiting(stack)
    stack.client.complete_token(token)
    said = stack.output(run_id)
    before = said["before"]
    assert before == said["after"]
    assert len(set(before["users"][:3])) == 1
    assert 200_000 < before["users"][0] < 300_000
    assert before["users"][3:] == [200_000] * 3
    assert before["name"] == "run"
    assert {name: value for name, value in before["status"].items() if name.startswith("Cap")} == {
        "CapInh": NOTHING,
        "CapPrm": NOTHING,
        "CapEff": NOTHING,
        "CapBnd": NOTHING,
        "CapAmb": NOTHING,
    }
    assert [before["status"][name] for name in ("Groups", "NoNewPrivs", "Seccomp")] == ["", "1", "2"]
    assert before["processes"] == ["1"]
    assert before["own"] == ["ctl.sock", "etc", "shm", "tmp", "work"]
    assert before["places"] == ["/run/torpor/work", "/tmp", "/tmp", "run"]
    assert before["limits"] == "0"
    assert said["kept"] == ["kept"] * 3
    stack.assert_nothing_left()


def test_of_the_machine_it_sees_what_it_needs_and_writes_to_none_of_it(stack: Stack, tmp_path: Path) -> None:
    secret = tmp_path.parent.parent / "secret"  # beside what is writable
    secret.write_text("secret")
    allowed = tmp_path / "allowed"
    data = stack.directory / "data" / "worker" / "id"
    paths = [secret, "/etc/shadow", data, "/root", "/proc/sys/kernel/hostname", "/usr/x", os.path.__file__, allowed]
    token, run_id = waiting(stack, *paths)
    stack.client.complete_token(token)
    said = stack.output(run_id)
    assert said["reached"] == [
        [str(secret), False, "Permission denied"],
        ["/etc/shadow", False, "Read-only file system"],
        [str(data), False, "No such file or directory"],
        ["/root", True, "Is a directory"],
        ["/proc/sys/kernel/hostname", True, "Permission denied"],
        ["/usr/x", False, "Read-only file system"],
        [os.path.__file__, True, "Permission denied"],
        [str(allowed), False, "written"],
    ]
    assert [each[2] for each in said["again"]] == [each[2] for each in said["reached"]]
    assert allowed.read_text() == "xx"


def test_runs_have_users_of_their_own_and_share_what_is_writable(stack: Stack, tmp_path: Path) -> None:
    path = tmp_path / "shared"
    assert stack.output(stack.trigger("adds_a_line", str(path))) == "line\n"
    owner = path.stat().st_uid
    assert stack.output(stack.trigger("adds_a_line", str(path))) == "line\nline\n"
    assert path.stat().st_gid == 200_000
    assert owner != 0


def test_two_lives_of_one_image_are_in_rooms_of_their_own(make_stack: StackMaker) -> None:
    stack = make_stack(TORPOR_CHECKPOINT_RETENTION_S="3600")
    stack.start()
    token, run_id = waiting(stack)
    first, second = (stack.client.fork(run_id)["id"] for _ in range(2))
    stack.client.complete_token(token)
    told = [stack.output(each) for each in (run_id, first, second)]
    assert told[0]["before"] == told[1]["after"] == told[2]["after"]
    assert {each["mounts"] for each in told} == {told[0]["mounts"]}, "none of them sees the others' mounts"


def test_a_restored_run_keeps_no_other_run_in_memory(stack: Stack, tmp_path: Path) -> None:
    """Its mounts are a copy of the worker's, without those of other runs, whose memory would else stay with it."""
    flag = tmp_path / "flag"
    others = [waiting(stack) for _ in range(2)]
    token = stack.client.create_token()["id"]
    run_id = stack.trigger("works_until_told", {"token_id": token, "flag": str(flag)})
    stack.await_event(run_id, "run.suspended")
    stack.client.complete_token(token)
    eventually(Path(f"{flag}.reached").exists, what="it is restored")
    pid = stack.process_of(run_id)
    assert pid is not None
    points = mounts_of(stack, pid)
    flag.touch()
    stack.output(run_id)
    for other_token, other in others:
        stack.client.complete_token(other_token)
        stack.output(other)
    assert len({point.split("/")[3] for point in points if point.startswith("/run/torpor/runner_")}) == 1
    assert not [point for point in points if point.startswith(("/run/torpor/home_", "/run/torpor-rooms"))]


def test_a_run_has_as_much_disk_as_it_was_given(stack: Stack) -> None:
    assert stack.output(stack.trigger("fills_its_disk", 100)) == "written"
    assert stack.output(stack.trigger("fills_its_disk", 2000)) == "No space left on device"
    stack.assert_nothing_left()


def test_nothing_is_left_mounted_when_runs_are_gone(stack: Stack) -> None:
    token, run_id = waiting(stack)
    stack.client.complete_token(token)
    stack.output(run_id)
    stack.assert_nothing_left()
    supervisor = stack.worker_pids()[1]
    eventually(
        lambda: (
            len({point.split("/")[3] for point in mounts_of(stack, supervisor) if point.startswith("/run/torpor/r")})
            <= 1
        ),
        what="only the spare runner has a room",
    )
    assert not [point for point in mounts_of(stack, supervisor) if point.startswith("/run/torpor/home_")]


def test_a_link_where_something_is_to_be_mounted_is_not_followed(stack: Stack, tmp_path: Path) -> None:
    """The tests' directories are below /tmp, so they are mounted in the run's own /tmp: it may put links in their place."""
    victim = tmp_path / "victim"
    (victim / "pytest").mkdir(parents=True)
    token = stack.client.create_token()["id"]
    top = "/".join(tmp_path.parts[:3]).replace("//", "/")
    run_id = stack.trigger("puts_a_link", {"token_id": token, "below": top, "target": str(victim)})
    stack.await_event(run_id, "run.suspended")
    stack.client.complete_token(token)
    stack.await_event(run_id, "run.start_failed")
    stack.client.cancel(run_id, at_once=True)
    stack.await_end(run_id)
    assert [path.name for path in victim.iterdir()] == ["pytest"]
    stack.assert_nothing_left()
