"""What the supervisor hears from a runner that imports foreign code, before it has a run.

Whatever is on that socket may be user code's own words. So nothing is waited for without an end, little is taken in, and the
first thing that doesn't belong there ends the process. It can hurt nobody but its own version: the version isn't used, and the
worker's log says why.
"""

import asyncio
import time
from pathlib import Path
from typing import TypeVar

from torpor.wire import runner as wire
from torpor.worker.forking import ImportFailed, ZygoteDied
from torpor.worker.process import Closed, Exited, RunProcess

LARGEST_MESSAGE_BYTES = 8 << 20
"""What a version says of its tasks: some kilobytes for each."""
MOST_OUTPUT_BYTES = 16 << 20
LOOK_INTERVAL_S = 0.2
MOST_CONNECTIONS = 8
SHOWN_CHARACTERS = 20_000
LONGEST_ID = 128

Event = TypeVar("Event")


async def expect(process: RunProcess, kind: type[Event], version: str, *, within_s: float) -> Event:
    """The next thing that it says, which must be of this kind.

    Raises:
        ImportFailed: it says that the import has failed, or something else, or nothing in that time, or prints too much.
        ZygoteDied: it has ended.
    """
    end = time.monotonic() + within_s
    lost = 0
    while True:
        try:
            async with asyncio.timeout(LOOK_INTERVAL_S):
                event = await process.inbox.get()
        except TimeoutError:
            if time.monotonic() > end:
                raise _ended("ImportTimedOut", f"the import took longer than {within_s:.0f} s and was ended") from None
            if output_bytes(process) > MOST_OUTPUT_BYTES:
                raise _ended("ImportTooLoud", f"the import printed more than {MOST_OUTPUT_BYTES >> 20} MB") from None
            continue
        match event:
            case _ if isinstance(event, kind):
                return event
            case wire.ImportFailed(error):
                told = wire.TaskError(tamed(error.name, 200), tamed(error.message), tamed(error.stack_trace))
                raise ImportFailed(told)
            case Exited():
                told = process.end_told()
                if process.was_killed:
                    raise _ended("ImportTampered", told)
                if process.belongings.cgroup is not None and process.belongings.cgroup.oom_kills():
                    told += ", as it had used up its memory"
                said = tamed(output(process).strip())
                raise ZygoteDied(f"version {version} can't be imported: {told}{': ' + said if said else ''}")
            case Closed() if (lost := lost + 1) < MOST_CONNECTIONS:
                pass  # not ours: user code has had a look at the socket
            case _:
                what = f"said {type(event).__name__} on its control socket, where {kind.__name__} was due"
                raise _ended("ImportTampered", f"the process that imports {what}, and was ended")


async def imported(process: RunProcess, version: str, *, within_s: float) -> wire.Imported:
    """What it has imported, once that is plausible.

    Raises:
        ImportFailed, ZygoteDied: see `expect`.
    """
    said = await expect(process, wire.Imported, version, within_s=within_s)
    await expect(process, Closed, version, within_s=within_s)
    names = [each.id for each in said.tasks] + [each.name for each in said.queues]
    for name in names:
        if not name or len(name) > LONGEST_ID or not name.isprintable():
            raise _ended("ImportTampered", f"{tamed(name, 200)!r} is no name for a task or a queue")
    if len(set(names)) < len(names) and len({each.id for each in said.tasks}) < len(said.tasks):
        raise _ended("ImportTampered", "two tasks have the same id")
    return said


def output(process: RunProcess) -> str:
    """The end of what it has printed."""
    try:
        with open(_log(process), "rb") as file:
            file.seek(max(0, output_bytes(process) - SHOWN_CHARACTERS))
            return file.read(SHOWN_CHARACTERS).decode(errors="replace")
    except OSError:
        return ""


def output_bytes(process: RunProcess) -> int:
    try:
        return _log(process).stat().st_size
    except OSError:
        return 0


def tamed(text: str, most: int = SHOWN_CHARACTERS) -> str:
    """Somebody else's words as they may go to the operator's terminal: the last of them, without control characters."""
    return "".join(each if each.isprintable() or each in "\n\t" else "\ufffd" for each in text[-most:])


def _log(process: RunProcess) -> Path:
    return process.directory / "output.log"


def _ended(name: str, message: str) -> ImportFailed:
    return ImportFailed(wire.TaskError(name, message, f"{name}: {message}"))
