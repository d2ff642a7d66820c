"""Workers without a server, for test_warm.py and bench/cold_start.py: in a process of its own, since it goes into namespaces.

    python warm_programs.py STORY DIRECTORY

DIRECTORY/project is the version. What happened is printed as JSON.
"""

import asyncio
import json
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from torpor.config import Settings
from torpor.images import Images, Keyring, Workspace
from torpor.objects import Directory
from torpor.wire import http, runner
from torpor.worker import criu_setup, discovery, fitness, namespaces, serve
from torpor.worker.criu import Criu
from torpor.worker.process import RunProcess
from torpor.worker.room import Rooms
from torpor.worker.version import Version
from torpor.worker.warm import Place, Warm

ROOT = Path()
"""Set before anything is done."""


class FakeServer:
    """The engine's part: remembers the newest warm image."""

    def __init__(self) -> None:
        self.checkpoint: http.StoredCheckpoint | None = None
        self.refused: list[http.WarmRefusal] = []

    async def send(self, path: str, message: Any, reply: type[Any]) -> Any:
        del reply
        match path:
            case "warm":
                self.checkpoint = message.checkpoint
                return http.LeaseReply("ok")
            case "warm/find":
                return http.WarmFound(self.checkpoint)
            case _:
                self.refused.append(message)
                return http.LeaseReply("ok")


server = FakeServer()
made: list[Version] = []


async def worker(
    name: str, environment: dict[str, str] | None = None, rooms: Rooms | None = None, **of_its_machine: Any
) -> Version:
    """The version on a worker that has never seen it."""
    tool = await criu_setup.find(Settings(data_dir=ROOT))
    assert isinstance(tool, Criu)
    machine = replace(fitness.look(tool.version, makes_rooms=rooms is not None), **of_its_machine)
    workspace = Workspace(ROOT / name, Path("/run/torpor-images", name))
    images = Images(Directory(ROOT / "store"), Keyring({"key_1": bytes(32)}, "key_1"), workspace)
    place: Any = Place(name, "store", images, server, tool, machine, machine.facts(), serve.RUN_ROOT, "secret", rooms)  # pyright: ignore[reportArgumentType]
    variables = {"PATH": os.environ["PATH"], "OPENBLAS_NUM_THREADS": "1", **(environment or {})}
    project = discovery.find(ROOT / "project")
    version = Version(
        project,
        serve.RUN_ROOT,
        isolated=True,
        environment=variables,
        warm=Warm(place, project, variables),
        rooms=rooms,
    )
    made.append(version)
    return version


async def imported(name: str, environment: dict[str, str] | None = None) -> Version:
    """A worker that has imported the version and stored its warm image."""
    version = await worker(name, environment)
    await version.start()
    await version._warming.finished()
    return version


async def output(process: RunProcess, version: Version, task: str = "look") -> Any:
    """What the version's task says."""
    context = runner.RunContext("run_1", task, 1, 1, version.name, "dev", [], False, "2026-01-01T00:00:00Z")
    process.say(runner.Begin(context, msgspec.Raw(b"null"), env_all=version.environment))
    finished = await process.first_words(runner.Finished)
    assert finished is not None, (process.directory / "output.log").read_text()
    assert finished.ok, finished.error
    process.say(runner.Finishing())
    await process.exited
    await process.bury()
    return msgspec.json.decode(finished.output)


async def run(version: Version) -> Any:
    return await output(await version.runner(), version)


def imports() -> int:
    """How often the version was imported."""
    marker = ROOT / "imports"
    return len(marker.read_text().splitlines()) if marker.exists() else 0


def damage() -> None:
    """One bit of every pack."""
    for pack in (ROOT / "store" / "packs").iterdir():
        data = bytearray(pack.read_bytes())
        data[len(data) // 2] ^= 1
        pack.chmod(0o600)
        pack.write_bytes(data)


# -- stories -----------------------------------------------------------------------------------------------------------


async def thaws() -> dict[str, Any]:
    """One worker imports; another one, which is called otherwise, thaws three runners, two of them at once."""
    first = await imported("first", {"HOSTNAME": "first", "TERM": "xterm"})
    forked = await first.runner()
    socket.sethostname("second")
    second = await worker("second", {"TERM": "dumb"})
    found = await second.find_image()
    before = imports()
    together = await asyncio.gather(second.runner(), second.runner())
    looks = [await output(each, second) for each in together] + [await run(second)]
    thawed = await second.runner()
    bases = [forked.base, thawed.base, server.checkpoint and server.checkpoint.id]
    for each in (forked, thawed):
        await each.bury()
    return {
        "found": found,
        "tasks": [task.id for task in second.tasks],
        "needs_import": second.needs_import,
        "imports": [before, imports()],
        "looks": looks,
        "bases": bases,
        "has_long_facts": "files" in (server.checkpoint.facts if server.checkpoint else {}),
    }


async def forks_in_the_end() -> dict[str, Any]:
    """The second worker imports the version as well: from then on it forks, and has a warm image of its own."""
    await imported("first")
    second = await worker("second")
    await second.find_image()
    thawed = await second.runner()
    ways = [second.way]
    await second.start()
    await second._warming.finished()
    forked = await second.runner()
    ways.append(second.way)
    assert server.checkpoint is not None
    told = {
        "ways": ways,
        "thawed": thawed.base,
        "forked": forked.base,
        "newest": server.checkpoint.id,
        "imports": imports(),
    }
    for each in (thawed, forked):
        await each.bury()
    return told


async def is_thawed_by_itself() -> dict[str, Any]:
    """A version whose imports start threads: its own worker thaws it, too."""
    first = await imported("first")
    before = imports()
    looks = [await run(first), await run(first)]
    return {"imports": [before, imports()], "looks": looks, "way": first.way, "needs_import": first.needs_import}


async def damaged() -> dict[str, Any]:
    await imported("first")
    damage()
    second = await worker("second")
    found = await second.find_image()
    await second.start()
    return {"found": found, "refused": msgspec.to_builtins(server.refused), "look": await run(second)}


async def broken() -> dict[str, Any]:
    """CRIU can't restore what was found."""
    await imported("first")
    second = await worker("second")
    found = await second.find_image()
    assert second._warming.image is not None
    for core in second._warming.image.files.criu.glob("core-*.img"):
        core.unlink()
    return {
        "found": found,
        "look": await run(second),
        "refused": msgspec.to_builtins(server.refused),
        "imports": imports(),
    }


async def unfit() -> dict[str, Any]:
    await imported("first")
    cpu = await (await worker("lesser", instructions=frozenset({"sse2"}))).find_image()
    refused = msgspec.to_builtins(server.refused)
    packages = await (await worker("updated", packages="others")).find_image()
    variables = await (await worker("moved", {"DATABASE": "another"})).find_image()
    terminal = await (await worker("terminal", {"TERM": "xterm", "SSH_TTY": "/dev/pts/1"})).find_image()
    return {
        "found": {"cpu": cpu, "packages": packages, "variables": variables, "terminal": terminal},
        "refused": refused,
    }


STORIES = (thaws, forks_in_the_end, is_thawed_by_itself, damaged, broken, unfit)


async def tell() -> dict[str, Any]:
    told = await next(story for story in STORIES if story.__name__ == sys.argv[1])()
    for version in made:
        await version.stop()
    left = [str(path) for path in serve.RUN_ROOT.iterdir()]
    left += [str(path) for path in Path("/run/torpor-images").glob("*/*") if not path.name.startswith("base-")]
    return {**told, "left": left}


def in_namespaces(root: Path, work: Callable[[], None]) -> NoReturn:
    """Do the work as a worker's supervisor would, and exit."""
    global ROOT
    ROOT = root
    namespaces.unshare(namespaces.CLONE_NEWPID | namespaces.CLONE_NEWUTS)
    pid = os.fork()
    if pid:
        raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    serve._furnish(Settings(data_dir=ROOT))
    work()
    raise SystemExit(0)


if __name__ == "__main__":
    in_namespaces(Path(sys.argv[2]), lambda: print(json.dumps(asyncio.run(tell()))))
