"""What `torpor doctor` tells, on machines that can freeze and on machines that can't."""

import json
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from torpor.cli import machine
from torpor.cli.doctor import doctor
from torpor.cli.machine import Fact, can_freeze, cgroup_version, is_tmpfs
from torpor.config import Settings
from torpor.errors import CriuError
from torpor.worker import criu_proof, criu_setup, fitness
from torpor.worker.criu import Criu
from torpor.worker.criu_setup import NoCriu
from torpor.worker.isolation import Isolation, Missing

app = typer.Typer()
app.command()(doctor)
ABLE = Criu(("/somewhere/criu",), "4.2.1", "private")


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, list(arguments))
    return result.exit_code, result.output


@pytest.fixture
def able_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Linux, root, rooms and a CRIU that passes; the rest is this machine's own, but for what takes long to find out."""
    monkeypatch.setenv("TORPOR_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(machine.os, "geteuid", lambda: 0)
    monkeypatch.setattr(criu_setup, "effective_capabilities", lambda: (1 << 41) - 1)
    monkeypatch.setattr(criu_setup, "find", found(ABLE))
    monkeypatch.setattr(machine, "isolation", lambda settings: Isolation("full", ()))
    monkeypatch.setattr(fitness, "_packages", lambda: "all that is installed")

    async def prove(command: tuple[str, ...], *, in_room: bool = False) -> criu_proof.Proof:
        return criu_proof.Proof("4.2.1", 41.6, 12.3)

    monkeypatch.setattr(criu_proof, "prove", prove)


def found(answer: Criu | NoCriu):
    async def find(settings: Settings) -> Criu | NoCriu:
        return answer

    return find


@pytest.mark.usefixtures("able_machine")
def test_a_machine_that_can_freeze_exits_0_and_shows_the_round_trip() -> None:
    code, told = run()
    assert code == 0
    assert "a small process was frozen in 42 ms and came back in 12 ms" in told
    assert "This machine can freeze runs" in told


@pytest.mark.usefixtures("able_machine")
def test_a_machine_without_criu_exits_1_and_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(criu_setup, "find", found(NoCriu("CRIU is not installed", "run `torpor doctor --fix`")))
    code, told = run()
    assert code == 1
    assert "CRIU is not installed" in told
    assert "→ run `torpor doctor --fix`" in told
    assert "held in memory" in told


@pytest.mark.usefixtures("able_machine")
def test_fix_installs_a_criu_and_looks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(criu_setup, "find", found(NoCriu("CRIU is not installed", "install it")))

    async def install(prefix: Path | None, report: object) -> Criu:
        monkeypatch.setattr(criu_setup, "find", found(ABLE))
        return ABLE

    monkeypatch.setattr(criu_setup, "install", install)
    assert run("--fix")[0] == 0


@pytest.mark.usefixtures("able_machine")
def test_a_fix_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(criu_setup, "find", found(NoCriu("CRIU is not installed", "install it")))

    async def install(prefix: Path | None, report: object) -> Criu:
        raise CriuError("no Debian archive is among this machine's apt sources")

    monkeypatch.setattr(criu_setup, "install", install)
    code, told = run("--fix")
    assert code == 1
    assert "no Debian archive is among this machine's apt sources" in told


@pytest.mark.usefixtures("able_machine")
def test_json_is_for_programs() -> None:
    code, told = run("--json")
    answer = json.loads(told)
    assert code == 0
    assert answer["can_freeze"] is True
    assert {"name", "state", "told", "fix"} == set(answer["facts"][0])
    assert answer["isolation"]["level"] in ("full", "partial", "off")


@pytest.mark.usefixtures("able_machine")
def test_what_isolation_lacks_is_told_with_what_to_do_and_keeps_nothing_from_being_frozen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lacks = Isolation("partial", (Missing("a limit on its memory", "Read-only file system", "mount it read-write"),))
    monkeypatch.setattr(machine, "isolation", lambda settings: lacks)
    monkeypatch.setenv("TORPOR_ISOLATION", "auto")
    code, told = run()
    assert code == 0
    assert "with a root of its own: 42 ms and 12 ms" in told
    assert "partial: some of it is missing" in told
    assert "No a limit on its memory" in told
    assert "→ mount it read-write" in told
    monkeypatch.setenv("TORPOR_ISOLATION", "off")
    assert "TORPOR_ISOLATION is off" in run()[1]


@pytest.mark.usefixtures("able_machine")
def test_a_plain_user_is_told_that_runs_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    # In a container even the user's name may be missing; that the database can't be started then is noted beside it.
    monkeypatch.setattr(machine.os, "geteuid", lambda: 4_000_000)
    code, told = run()
    assert code == 1
    assert "this is not root, which freezing needs" in told
    assert "nobody is called 4000000 here" in told


@pytest.mark.usefixtures("able_machine")
def test_macos_is_told_that_everything_but_freezing_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(criu_setup, "find", found(NoCriu("processes can be frozen on Linux only", "nothing to do")))
    code, told = run()
    assert code == 1
    assert "Linux only" in told
    assert "Everything else works" in told
    assert "CAP_SYS_ADMIN" not in told


@pytest.mark.usefixtures("able_machine")
def test_a_capability_that_is_not_needed_is_only_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(criu_setup, "effective_capabilities", lambda: ((1 << 41) - 1) & ~(1 << 40))
    facts = {fact.name: fact for fact in machine.examine(Settings())}
    assert facts["CAP_CHECKPOINT_RESTORE"].state == "note"
    monkeypatch.setattr(criu_setup, "effective_capabilities", lambda: 0)
    facts = {fact.name: fact for fact in machine.examine(Settings())}
    assert facts["CAP_SYS_ADMIN"].state == "missing"


def test_one_missing_fact_is_enough_to_be_unable() -> None:
    assert can_freeze([Fact("a", "ok", ""), Fact("b", "note", "")])
    assert not can_freeze([Fact("a", "ok", ""), Fact("b", "missing", "")])


def test_the_last_mount_on_run_counts() -> None:
    assert is_tmpfs("/run", "tmpfs /run tmpfs rw 0 0\n")
    assert not is_tmpfs("/run", "tmpfs /run tmpfs rw 0 0\n/dev/sda /run ext4 rw 0 0\n")
    assert not is_tmpfs("/run", "tmpfs /run/lock tmpfs rw 0 0\n")


@pytest.mark.parametrize(
    ("made", "told"),
    [
        ("cgroup.controllers", "version 2"),
        ("unified/cgroup.controllers", "hybrid"),
        ("memory/tasks", "version 1"),
        (".", "none"),
    ],
)
def test_the_cgroup_version_is_told(tmp_path: Path, made: str, told: str) -> None:
    (tmp_path / made).mkdir(parents=True, exist_ok=True)
    assert told in cgroup_version(tmp_path)


@pytest.mark.criu
def test_the_round_trip_is_a_real_one(tmp_path: Path) -> None:
    facts = {fact.name: fact for fact in machine.examine(Settings(data_dir=tmp_path))}
    assert facts["Round trip"].state == "ok"
    assert "came back in" in facts["Round trip"].told
    assert facts["Isolation"].state in ("ok", "note")
    assert "can thaw each other's checkpoints" in facts["Fitness"].told
