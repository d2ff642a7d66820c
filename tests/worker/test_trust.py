"""How far code is trusted: which level holds, what it gets of the environment, and where it can't be kept."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from torpor.config import Settings
from torpor.worker import trust
from torpor.worker.isolation import Isolation
from torpor.worker.trust import Trust

WORKERS = {
    "PATH": "/usr/bin",
    "TZ": "Europe/Vienna",
    "LC_ALL": "C.UTF-8",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "SHOP_NAME": "kiosk",
    "TORPOR_WORKER_TOKEN": "secret",
    "PYTHONSTARTUP": "/srv/shop/start.py",
}


def test_the_stricter_level_holds() -> None:
    assert trust.stricter(Trust.OWN, Trust.OWN) is Trust.OWN
    assert trust.stricter(Trust.OWN, Trust.FOREIGN) is trust.stricter(Trust.FOREIGN, Trust.OWN) is Trust.FOREIGN


def test_foreign_code_has_only_variables_that_tell_nothing_and_those_that_are_named() -> None:
    nothing = {"PATH", "TZ", "LC_ALL"}
    assert trust.environment_of_runs(Trust.FOREIGN, Settings(), WORKERS).keys() == nothing
    named = Settings(run_env="SHOP_*, TORPOR_WORKER_TOKEN")
    assert trust.environment_of_runs(Trust.FOREIGN, named, WORKERS).keys() == nothing | {"SHOP_NAME"}
    assert trust.environment_of_runs(Trust.OWN, Settings(), WORKERS).keys() == WORKERS.keys() - {"TORPOR_WORKER_TOKEN"}


def test_what_an_interpreter_would_listen_to_does_not_come_to_the_zygote_of_foreign_code() -> None:
    named = Settings(run_env="PYTHON* LD_* SHOP_*", cpu_baseline="x86-64-v2")
    variables = trust.environment_of_runs(Trust.FOREIGN, named, {**WORKERS, "LD_PRELOAD": "/srv/shop/evil.so"})
    assert {"PYTHONSTARTUP", "LD_PRELOAD", "SHOP_NAME"} <= variables.keys()
    zygotes = trust.environment_of_bare_zygote(variables)
    assert not {"PYTHONSTARTUP", "LD_PRELOAD", "SHOP_NAME"} & zygotes.keys()
    assert "GLIBC_TUNABLES" in zygotes, "the baseline must be there when the C library starts"


def test_nothing_of_the_project_and_no_start_up_code_of_packages_is_in_a_bare_zygote(tmp_path: Path) -> None:
    """Its command, with the zygote's work replaced by a look around; in a directory full of traps."""
    for trap in ("random.py", "sitecustomize.py", "usercustomize.py", "msgspec.py", "start.py"):
        (tmp_path / trap).write_text("open('sprung', 'w')\n")
    command = trust.bare_command([])
    code = command[command.index("-c") + 1]
    look = code.replace("zygote.main()", "print(sorted({name.split('.')[0] for name in sys.modules}), sys.path)")
    command[command.index("-c") + 1] = look
    variables = {"PYTHONPATH": str(tmp_path), "PYTHONSTARTUP": str(tmp_path / "start.py"), "HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | variables, capture_output=True, text=True, check=True)
    names, path = map(eval, done.stdout.strip().replace("] [", "]\n[").splitlines())
    strange = set(names) - set(sys.stdlib_module_names)
    assert strange <= {"__main__", "torpor", "msgspec", "typing_extensions"}
    assert "site" not in names
    assert str(tmp_path) not in path
    assert not (tmp_path / "sprung").exists()


def test_less_than_full_isolation_is_refused_to_foreign_code_only(tmp_path: Path) -> None:
    for level in ("partial", "off"):
        assert trust.why_refused(Trust.OWN, Isolation(level), tmp_path) is None
        assert "can't be kept apart" in (trust.why_refused(Trust.FOREIGN, Isolation(level), tmp_path) or "")
    assert trust.why_refused(Trust.FOREIGN, Isolation("full"), tmp_path) is None


def test_a_project_that_the_worker_itself_imports_from_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "lib")])
    assert str(tmp_path) in (trust.why_exposed(tmp_path) or "")
    monkeypatch.setattr(sys, "path", [*sys.path[:-1], ""])
    monkeypatch.chdir(tmp_path)
    assert "python -m torpor" in (trust.why_exposed(tmp_path) or "")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert trust.why_exposed(elsewhere) is None
