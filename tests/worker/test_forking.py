"""Forks of a zygote: who asked for one gets that one, and nobody else's, whatever becomes of the others."""

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from torpor.wire import runner as wire
from torpor.worker import discovery
from torpor.worker.discovery import Project
from torpor.worker.forking import NotForked, Zygote
from torpor.worker.process import Closed, RunProcess
from torpor.worker.trust import Trust
from torpor.worker.version import Version

pytestmark = pytest.mark.anyio

ENVIRONMENT = {"PATH": os.environ["PATH"]}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "tasks.py").write_text(
        "from torpor import task\n\n\n@task\ndef adds(n: int) -> int:\n    return n + 1\n"
    )
    return discovery.find(tmp_path / "project")


@pytest.fixture
async def zygote(project: Project) -> AsyncIterator[Zygote]:
    zygote = Zygote(project, Trust.OWN, ENVIRONMENT, ENVIRONMENT, import_timeout_s=60)
    await zygote.start()
    yield zygote
    zygote.stop()


@pytest.fixture
async def runners(tmp_path: Path) -> AsyncIterator[list[RunProcess]]:
    made = [RunProcess(tmp_path / name) for name in ("one", "other")]
    for each in made:
        each.belongings.furnish()
        await each.listen()
    yield made
    for each in made:
        await each.bury()


def speaker(process: RunProcess) -> int:
    """Who is at the other end of its connection."""
    assert process._connection is not None
    control = process._connection._transport.get_extra_info("socket")
    return struct.unpack("3i", control.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]


def order(process: RunProcess) -> wire.Fork:
    return wire.Fork(process.directory.name, str(process.directory), False, False, None, False, None)


async def test_a_fork_that_nobody_waits_for_any_more_is_ended_and_not_given_to_the_next_who_asks(
    zygote: Zygote, runners: list[RunProcess]
):
    """A run is taken back while its process is being made: the zygote lives on, and the next run gets a process of its own."""
    one, other = runners
    pid = zygote.pid
    asking = asyncio.create_task(zygote.fork(order(one)))
    await asyncio.sleep(0)  # asked
    asking.cancel()
    assert await one.first_words(wire.Hello) is not None, "it was made all the same"
    forked = await zygote.fork(order(other))
    assert forked is not None
    other.watch(forked)
    assert await other.first_words(wire.Hello) is not None
    assert speaker(other) == forked
    assert zygote.pid == pid
    assert isinstance(await one.inbox.get(), Closed)


async def test_who_speaks_for_a_run_is_the_process_that_is_frozen_for_it(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A zygote dies, and the process that it was asked for comes to life all the same: it finds the place of no other.

    Else it would perform the run, while another process, which has never heard of that, is written down as its checkpoint.
    """
    version = Version(project, tmp_path, isolated=False, environment=ENVIRONMENT)
    await version.start()
    fork, tries = version._zygote.fork, list[wire.Fork]()

    async def dies_at_first(request: wire.Fork) -> int:
        tries.append(request)
        pid = await fork(request)
        if len(tries) == 1:
            version._zygote.stop()
            raise NotForked("it died before it could say so")
        return pid

    monkeypatch.setattr(version._zygote, "fork", dies_at_first)
    try:
        runner = await version.runner()
        assert len(tries) == 2
        assert speaker(runner) == runner.pid
        await runner.bury()
    finally:
        await version.stop()


async def test_a_start_that_is_given_up_leaves_no_answer_behind_for_others(zygote: Zygote, runners: list[RunProcess]):
    starting = asyncio.create_task(zygote.start())
    await asyncio.sleep(0)
    starting.cancel()
    await asyncio.wait([starting])
    assert not zygote.is_up
    await zygote.start()
    forked = await zygote.fork(order(runners[0]))
    assert forked is not None
    runners[0].watch(forked)
    assert await runners[0].first_words(wire.Hello) is not None
