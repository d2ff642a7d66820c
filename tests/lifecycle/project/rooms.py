"""A task that looks around in its room."""

import os
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from torpor import Retry, task, wait


def seen() -> dict[str, object]:
    """What doesn't change by a freeze."""
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    names = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "Groups", "NoNewPrivs", "Seccomp")
    return {
        "users": [*os.getresuid(), *os.getresgid()],
        "status": {name: status[name].strip() for name in names},
        "name": subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip(),
        "processes": sorted(entry for entry in os.listdir("/proc") if entry.isdigit()),
        "own": sorted(os.listdir("/run/torpor")),
        "modes": {name: oct(os.stat(f"/run/torpor/{name}").st_mode) for name in ("work", "tmp", "shm")},
        "places": [os.getcwd(), tempfile.gettempdir(), os.environ["HOME"], os.environ["USER"]],
        "limits": subprocess.run(["sh", "-c", "ulimit -c"], capture_output=True, text=True, check=True).stdout.strip(),
    }


def wrote(path: str) -> str:
    try:
        with open(path, "a") as file:
            file.write("x")
    except OSError as error:
        return os.strerror(error.errno or 0)
    return "written"


@task
async def looks_around(token_id: str, paths: list[str]) -> dict[str, object]:
    """Before and after a freeze: itself, and whether these can be read, listed and written."""
    before = seen()
    for place in ("mine", "/tmp/mine", "/dev/shm/mine"):
        Path(place).write_text("kept")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("/tmp/listener")
    listener.listen()
    reached = [[path, os.path.exists(path), wrote(path)] for path in paths]
    await wait.for_token(token_id)
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect("/tmp/listener")
    again = [[path, os.path.exists(path), wrote(path)] for path in paths]
    kept = [Path(place).read_text() for place in ("mine", "/tmp/mine", "/dev/shm/mine")]
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return {"before": before, "after": seen(), "reached": reached, "again": again, "kept": kept, "mounts": len(mounts)}


@task
async def fills_its_disk(megabytes: int) -> str:
    with open("much", "wb") as file:
        try:
            for _ in range(megabytes):
                file.write(bytes(1 << 20))
        except OSError as error:
            return os.strerror(error.errno or 0)
    return "written"


@task
async def adds_a_line(path: str) -> str:
    """To a file outside, that other runs write to as well."""
    with open(path, "a") as file:
        file.write("line\n")
    return Path(path).read_text()


@task
async def works_until_told(token_id: str, flag: str) -> None:
    """After a freeze."""
    await wait.for_token(token_id)
    Path(flag + ".reached").touch()
    while not Path(flag).exists():
        time.sleep(0.02)  # noqa: ASYNC251  (nothing else is to happen)


@task(retry=Retry(max_attempts=1))
async def puts_a_link(token_id: str, below: str, target: str) -> None:
    """Where in its own /tmp something of the machine is to be mounted after a freeze."""
    Path(below).rename("/tmp/moved")
    Path(below).symlink_to(target)
    await wait.for_token(token_id)
