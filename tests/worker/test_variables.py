"""The variables at hand: asked for once per change, whoever needs them first."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest

from torpor.config import Settings
from torpor.wire import http, runner
from torpor.worker.discovery import Project
from torpor.worker.forking import Zygote
from torpor.worker.trust import Trust, with_variables
from torpor.worker.variables import Variables

pytestmark = pytest.mark.anyio


async def test_a_change_is_asked_for_once_however_many_runs_begin():
    asked: list[int] = []

    async def ask() -> http.VariablesReply:
        await asyncio.sleep(0)
        asked.append(1)
        return http.VariablesReply(len(asked), {"A": str(len(asked))})

    variables = Variables(ask)
    await asyncio.gather(*[variables.at_least(0) for _ in range(5)])
    assert (len(asked), variables.values) == (1, {"A": "1"})
    await variables.at_least(1)
    await asyncio.gather(*[variables.at_least(2) for _ in range(5)])
    assert (len(asked), variables.values) == (2, {"A": "2"})


def test_the_servers_win_over_the_workers_but_not_over_the_baseline_of_the_cpu():
    ours = {"ZONE": "the worker's", "HERE": "x"}
    given = {"ZONE": "the server's", "NPY_DISABLE_CPU_FEATURES": "none"}
    assert with_variables(ours, given, Settings()) == {"HERE": "x", **given}
    held = with_variables(ours, given, Settings(cpu_baseline="x86-64-v2"))
    assert held["ZONE"] == "the server's"
    assert "AVX2" in held["NPY_DISABLE_CPU_FEATURES"]


async def test_what_has_privileges_is_given_none_of_the_variables_of_foreign_code(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    given: list[Mapping[str, str]] = []

    async def launch(command: list[str], environment: Mapping[str, str], timeout_s: float) -> runner.ZygoteReady:
        given.append(environment)
        return runner.ZygoteReady()

    theirs = {"PATH": "/theirs", "LC_ALL": "theirs", "KEY": "theirs"}
    project = Project(tmp_path, tmp_path, [], "dev-1")
    zygote = Zygote(project, Trust.FOREIGN, theirs, {"PATH": "/usr/bin"}, import_timeout_s=1)
    monkeypatch.setattr(zygote, "_launch", launch)
    await zygote.start_bare()
    assert given == [{"PATH": "/usr/bin"}]
