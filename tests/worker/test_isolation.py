"""How far runs can be kept apart: what is concluded from what was tried, and that nothing is left of the tries."""

import errno
import os
import time
from pathlib import Path

import pytest
from stack import eventually

from torpor.config import Settings
from torpor.errors import ConfigError
from torpor.worker import isolation, namespaces, router
from torpor.worker.isolation import Isolation, Missing, choose, conclude, possible
from torpor.worker.probes import Probe, attempt, probes

needs_root = pytest.mark.skipif(not namespaces.may_unshare(), reason="needs root")


def fails() -> None:
    raise OSError(errno.EPERM, "mount tmpfs on /here: Operation not permitted")


def works() -> None:
    pass


@pytest.mark.parametrize(
    ("needed", "wished", "level"),
    [(works, works, "full"), (works, fails, "partial"), (fails, works, "off"), (fails, fails, "off")],
)
def test_the_level_is_what_could_be_done(needed, wished, level: str) -> None:
    found = conclude((Probe("a root", needed, "be root"), Probe("a limit", wished, "mount it", is_needed=False)))
    assert found.level == level
    assert [each.what for each in found.missing] == [
        name for name, act in (("a root", needed), ("a limit", wished)) if act is fails
    ]


def test_what_is_missing_has_its_reason_and_what_to_do() -> None:
    found = conclude((Probe("a limit", fails, "mount it", is_needed=False),))
    assert found.missing == (Missing("a limit", "mount tmpfs on /here: Operation not permitted", "mount it"),)
    assert "but without: a limit (mount tmpfs on /here: Operation not permitted)" in found.told()
    assert found.facts()["missing"] == [
        {"what": "a limit", "why": "mount tmpfs on /here: Operation not permitted", "fix": "mount it"}
    ]


def test_a_worker_that_is_to_isolate_fully_refuses_to_start_with_less(monkeypatch: pytest.MonkeyPatch) -> None:
    partial = Isolation("partial", (Missing("a limit", "read-only", "mount it"),))
    monkeypatch.setattr(isolation, "possible", lambda settings: partial)
    assert choose(Settings(isolation="auto")) == partial
    with pytest.raises(
        ConfigError, match=r"TORPOR_ISOLATION=full can't be had(.|\n)*no a limit: read-only\n.*mount it"
    ):
        choose(Settings(isolation="full"))
    monkeypatch.setattr(isolation, "possible", lambda settings: Isolation("full"))
    assert choose(Settings(isolation="full")).level == "full"


def test_off_is_off_and_anything_else_is_refused() -> None:
    assert choose(Settings(isolation="off")).level == "off"
    with pytest.raises(ConfigError, match="auto or full or off"):
        Settings.from_environment({"TORPOR_ISOLATION": "on"})


def test_without_root_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(isolation, "attempt", None)
    assert possible(Settings()).level == "off"


@needs_root
def test_a_private_network_is_tried_where_one_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router, "_ENVIRONMENT", {"PATH": "/nowhere"})
    asks = [Settings(network="private"), Settings(trust="foreign")]
    for settings, is_tried in [
        (Settings(), False),
        (Settings(network="none"), False),
        *((each, True) for each in asks),
    ]:
        found = [each for each in probes(settings) if each.name == "a private network"]
        assert bool(found) is is_tried
        if found:
            assert "pasta (package passt)" in (attempt(found[0].act) or "")


def test_a_try_that_hangs_or_dies_counts_as_failed_and_leaves_no_process() -> None:
    before = children()
    assert "hangs" in (attempt(lambda: time.sleep(3600), 0.1) or "")
    assert "ended with 3" in (attempt(lambda: os._exit(3)) or "")
    assert attempt(lambda: 1 / 0) == "ZeroDivisionError: division by zero"
    assert children() <= before


def children() -> set[str]:
    """Of this process, which may have some of other tests'."""
    return {pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}


def mounts() -> list[str]:
    """Without the networks of other tests, each of which is mounted for the whole machine."""
    return [line for line in Path("/proc/self/mounts").read_text().splitlines() if "/run/netns" not in line]


def groups() -> list[str]:
    """Where this process is. Workers of other tests have a hierarchy that is there for the whole machine while they live."""
    return [line for line in Path("/proc/self/cgroup").read_text().splitlines() if "name=torpor" not in line]


@needs_root
@pytest.mark.parametrize("probe", probes(Settings(network="private")), ids=lambda probe: probe.name)
def test_a_try_changes_nothing_here(probe: Probe) -> None:
    before = mounts(), os.getresuid(), groups()
    why = attempt(probe.act)
    assert (mounts(), os.getresuid(), groups()) == before
    # Workers of other tests try it as well, and theirs are gone in a moment.
    eventually(lambda: not list(Path("/sys/fs/cgroup").rglob("torpor-probe-*")), what="no group of a try is left")
    if why is not None:
        assert not probe.is_needed, why  # a machine on which tests run as root has it


@needs_root
def test_without_a_capability_it_is_said_what_is_missing() -> None:
    """A child that has given up SYS_ADMIN, as in a container, can try all of it and gets words for what fails."""

    def without() -> None:
        drop_sys_admin()
        found = possible(Settings())
        assert found.level == "off", found
        failed = {each.what: each.why for each in found.missing}
        assert failed["mounts of its own"] == "unshare: Operation not permitted"
        assert "a user of its own" not in failed

    assert attempt(without) is None


def drop_sys_admin() -> None:
    """Out of the effective and permitted sets, by the raw call."""
    import ctypes
    import struct

    libc = ctypes.CDLL(None, use_errno=True)
    header, data = struct.pack("=Ii", 0x20080522, 0), ctypes.create_string_buffer(24)
    assert libc.syscall({"x86_64": 125, "aarch64": 90}[os.uname().machine], header, data) == 0
    words = list(struct.unpack("=6I", data.raw))
    for at in (0, 1):
        words[at] &= ~(1 << 21)
    assert libc.syscall({"x86_64": 126, "aarch64": 91}[os.uname().machine], header, struct.pack("=6I", *words)) == 0
