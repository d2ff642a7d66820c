"""Which kill was a run's own."""

import signal
from typing import Any, cast

from torpor.wire.http import Usage
from torpor.wire.presets import BUILT_IN
from torpor.worker.cgroups import Cgroup
from torpor.worker.met import Limits

KILLED = int(signal.SIGKILL)  # as a wait status
EXITED = 0


class Group:
    """A control group in which so many processes were killed for their memory."""

    preset = BUILT_IN["micro"]

    def __init__(self) -> None:
        self.kills = 0

    def oom_kills(self) -> int:
        return self.kills

    def refused_pids(self) -> bool:
        return False

    def measure(self) -> None: ...

    def keep_tight(self) -> None: ...

    def usage(self) -> Usage:
        return Usage(0.0, self.preset.memory_bytes)


def limits() -> tuple[Group, Limits]:
    group = Group()
    return group, Limits(cast("Cgroup", group))


def kinds(met: list[Any]) -> list[str]:
    return [each.kind for each in met]


def test_a_kill_that_was_seen_a_moment_before_the_end_was_its_own() -> None:
    group, of = limits()
    group.kills = 1
    assert of.look() == []
    met, oom = of.at_the_end(KILLED)
    assert (met, oom is not None) == ([], True)


def test_a_kill_that_it_has_outlived_was_a_childs() -> None:
    group, of = limits()
    group.kills = 1
    assert of.look() == []
    assert kinds(of.look()) == ["run.child_out_of_memory"]
    assert of.at_the_end(KILLED) == ([], None)


def test_who_ends_otherwise_has_lost_a_child() -> None:
    group, of = limits()
    group.kills = 2
    met, oom = of.at_the_end(EXITED)
    assert (kinds(met), oom) == (["run.child_out_of_memory"], None)
    assert met[0].data["count"] == 2
