"""Start a worker: `run_worker`, what `torpor worker` calls.

    torpor worker (this process: waits, and passes signals on)
      +-- supervisor, pid 1 of its own pid namespace, in its own mount namespace
            +-- zygotes, runs, CRIU

The pid namespace is the fence that makes "who may die" simple: when the supervisor ends, whatever the reason, the kernel
kills everything below it at once. No run outlives its supervisor, so none can go on beside its own restored twin.

In its mount namespace /run is a tmpfs (CRIU keeps its cache of kernel features only there) and runs have their
directories below /run/torpor, the same path on every machine: an image names the files that it has open.

Without root or Linux there are no namespaces: everything works, and runs that wait are held in memory.
"""

import asyncio
import fcntl
import json
import os
import shutil
import signal
import stat
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from blake3 import blake3

from torpor import ids
from torpor.config import Settings
from torpor.errors import ConfigError, TorporError
from torpor.images.workspace import MEMORY
from torpor.worker import cgroups, cpu, discovery, isolation, litter, namespaces, trust
from torpor.worker.cgroups import Cgroups

RUN_ROOT = Path("/run/torpor")
MOVES = Path("/run/torpor.moves")
"""Where a hierarchy of control groups is mounted for its side effect."""
DRAINED = "drained"
"""Beside the lock: what became of the runs of a worker that was drained."""
PASSED_ON = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2}


def run_worker(settings: Settings, path: Path) -> int:
    """Be a worker for the project at `path` until SIGTERM or SIGINT; SIGHUP imports the project anew, SIGUSR2 drains the worker.

    Returns:
        The exit status for the process.

    Raises:
        ConfigError: the server's address or the worker token is missing, this data directory has a worker already, this CPU
            doesn't reach the baseline, or runs can't be isolated as they should be, or as foreign code must be.
    """
    if settings.api_url is None:
        raise ConfigError("TORPOR_API_URL is not set: it should be the address of the Torpor server")
    if settings.worker_token is None:
        raise ConfigError("TORPOR_WORKER_TOKEN is not set: it should be the secret that the server was started with")
    cpu.check(settings.cpu_baseline)
    apart = isolation.choose(settings)
    asked = trust.stricter(trust.Trust(settings.trust), discovery.asked_of(path).trust)
    if (reason := trust.why_refused(asked, apart, path)) is not None:
        raise ConfigError(f"{path} can't be run here: {reason}")
    began = time.time()
    directory = settings.data_dir.resolve() / "worker"
    former = litter.last_start(directory / "lock")
    lock = _only_one(directory)
    try:
        litter.sweep(directory, since=former)  # of a former one that was killed together with its shadow
        if not namespaces.may_unshare():
            if sys.platform == "linux":
                # Runs are forked twice, and are to become our children, whose end we are told.
                namespaces.prctl(namespaces.PR_SET_CHILD_SUBREAPER, 1)
            with _private_root(settings) as root:
                return _supervise(settings, path, root, apart, None, unfreezable=_why_not())
        apart, groups = _with_limits(settings, apart)
        return _in_own_namespace(settings, path, apart, groups)
    finally:
        # Whatever ended the supervisor, nothing of it lives: what is left of its runs can go.
        litter.sweep(directory, since=began)
        os.close(lock)


def drain_worker(settings: Settings) -> Iterator[dict[str, Any]]:
    """Have the worker of this data directory move its runs and stop; yields what became of each run, as it happens.

    Ends when the worker has: one whose runs can't all be moved waits for the rest of them.

    Raises:
        ConfigError: no worker runs there.
    """
    directory = settings.data_dir.resolve() / "worker"
    told = directory / DRAINED
    if not _is_locked(directory / "lock"):
        raise ConfigError(f"no worker is running on {directory}: is TORPOR_DATA_DIR the one that it was started with?")
    told.unlink(missing_ok=True)
    os.kill(int((directory / "lock").read_text()), signal.SIGUSR2)
    read = 0
    is_last = False
    while not is_last:
        is_last = not _is_locked(directory / "lock")  # looked for before reading: then nothing comes after what is read
        whole = told.read_bytes().rpartition(b"\n")[0] if told.exists() else b""
        for line in whole[read:].splitlines():
            if line:
                yield json.loads(line)
        read = len(whole)
        time.sleep(0.05)


def _is_locked(lock: Path) -> bool:
    """Whether a worker holds it."""
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _with_limits(settings: Settings, apart: isolation.Isolation) -> tuple[isolation.Isolation, Cgroups | None]:
    """Make a place for the control groups of runs. They are a part of a run's room: without rooms there are none."""
    if apart.level == "off":
        return apart, None
    site = cgroups.look()
    if isinstance(site, cgroups.NoCgroups):
        return apart, None  # which is among what is missing
    groups = Cgroups(site, worker_id(settings), is_hard=settings.cpu_cap)
    try:
        groups.open()
    except OSError as error:
        missing = isolation.Missing("limits on memory, processes and CPU", str(error), cgroups.FIX)
        return isolation.without(settings, apart, missing), None
    return apart, groups


def _in_own_namespace(settings: Settings, path: Path, apart: isolation.Isolation, groups: Cgroups | None) -> int:
    """Fork the supervisor into new namespaces and stay behind as its shadow."""
    signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)  # none gets lost before the supervisor can take it
    alive_read, alive_write = os.pipe()
    namespaces.unshare(namespaces.CLONE_NEWPID)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            namespaces.prctl(namespaces.PR_SET_PDEATHSIG, signal.SIGKILL)
            os.close(alive_write)
            os.set_blocking(alive_read, False)
            try:
                if os.read(alive_read, 1) == b"":
                    os._exit(1)  # our parent died before the line above could tie us to it
            except BlockingIOError:
                pass
            _furnish(settings)
            if groups is not None:
                cgroups.favor_moves(MOVES)
            status = _supervise(settings, path, RUN_ROOT, apart, groups, unfreezable=None)
        except TorporError as error:  # such as a server that refuses it: what is to be done is in the message
            print(f"error: {error}", file=sys.stderr)
            status = 3
        except BaseException:  # noqa: BLE001  (the stack above is our parent's: this is the last stop of every exception)
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    os.close(alive_read)
    for number in PASSED_ON:
        signal.signal(number, lambda got, _frame: os.kill(pid, got))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
    _, status = os.waitpid(pid, 0)
    os.close(alive_write)
    if groups is not None:
        groups.close()
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _furnish(settings: Settings) -> None:
    """Mounts of our own, seen by nobody outside: /proc of our pids, a tmpfs on /run, the runs' directories."""
    os.umask(0o022)  # what rooms are made of is for users that are not us; what isn't has modes of its own
    namespaces.unshare(namespaces.CLONE_NEWNS)
    namespaces.mount(None, "/", None, namespaces.MS_REC | namespaces.MS_PRIVATE)
    flags = namespaces.MS_NOSUID | namespaces.MS_NODEV | namespaces.MS_NOEXEC
    namespaces.mount("proc", "/proc", "proc", flags)
    if namespaces.filesystem_of("/run") != "tmpfs":
        _tmpfs_over_run()
    _memory_for_images()
    runs = settings.data_dir.resolve() / "worker" / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    RUN_ROOT.mkdir(parents=True, exist_ok=True)
    namespaces.bind(str(runs), str(RUN_ROOT))


def _tmpfs_over_run() -> None:
    """Put a tmpfs on /run and let what was there show through: user code may need a resolver's or a database's socket."""
    old = os.open("/run", os.O_RDONLY | os.O_DIRECTORY)
    names = os.listdir(old)
    namespaces.mount("tmpfs", "/run", "tmpfs", namespaces.MS_NOSUID | namespaces.MS_NODEV, "mode=755")
    for name in names:
        source, target = Path(f"/proc/self/fd/{old}/{name}"), Path("/run", name)
        if name.startswith(("torpor", "criu.kdat")):
            continue
        if source.is_symlink():
            target.symlink_to(os.readlink(source))
            continue
        if source.is_dir():
            target.mkdir()
        else:
            target.touch()
        namespaces.bind(str(source), str(target))
    os.close(old)


def _memory_for_images() -> None:
    """A tmpfs of our own where images are while they are files. In huge pages: an image is written and laid there three to six
    times as quickly as in pages of 4 KiB, each of which the kernel has to find and clear.
    """
    MEMORY.mkdir(mode=0o700, exist_ok=True)
    for options in ("mode=700,huge=within_size", "mode=700"):
        try:
            namespaces.mount("tmpfs", str(MEMORY), "tmpfs", namespaces.MS_NOSUID | namespaces.MS_NODEV, options)
        except OSError:
            continue  # This kernel has no huge pages for files, or none at all of this: the disk does.
        return


def _supervise(
    settings: Settings,
    path: Path,
    run_root: Path,
    apart: isolation.Isolation,
    groups: Cgroups | None,
    *,
    unfreezable: str | None,
) -> int:
    # The imports are here because the process that stays behind needs none of this.
    from torpor.worker.supervisor import Supervisor

    run_root.mkdir(parents=True, exist_ok=True)

    async def main() -> None:
        supervisor = Supervisor(
            settings,
            path,
            run_root=run_root,
            isolated=unfreezable is None,
            unfreezable=unfreezable,
            isolation=apart,
            cgroups=groups,
        )
        await supervisor.serve()

    asyncio.run(main())
    return 0


def _only_one(directory: Path) -> int:
    """Two workers on one data directory would take each other's runs for left-overs."""
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o700)  # control sockets and images are below it
    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(f"another worker is running on {directory}: give this one its own TORPOR_DATA_DIR") from None
    os.truncate(lock, 0)
    os.write(lock, f"{os.getpid()}\n".encode())  # for `torpor worker drain`
    return lock


def worker_id(settings: Settings) -> str:
    """This worker's id, made at its first start: it is how the engine knows its former processes to be gone."""
    path = settings.data_dir.resolve() / "worker" / "id"
    if path.exists():
        return path.read_text().strip()
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    draft.write_text(ids.new("worker") + "\n")
    draft.rename(path)
    return path.read_text().strip()


def _why_not() -> str:
    if sys.platform != "linux":
        return "freezing needs Linux"
    if os.geteuid() != 0:
        return "freezing needs root (or run the worker in a container that may use CRIU)"
    return "freezing needs the capability SYS_ADMIN, which this container lacks"


@contextmanager
def _private_root(settings: Settings) -> Iterator[Path]:
    """A short path for the runs' directories: unix sockets allow little more than a hundred characters."""
    name = blake3(str(settings.data_dir.resolve()).encode()).hexdigest()[:8]
    root = Path(tempfile.gettempdir(), f"torpor-{os.getuid()}-{name}")
    root.mkdir(mode=0o700, exist_ok=True)
    status = root.lstat()
    if status.st_uid != os.getuid() or not stat.S_ISDIR(status.st_mode) or status.st_mode & 0o077:
        raise ConfigError(f"{root} belongs to somebody else: remove it, or set TMPDIR to a directory of your own")
    litter.empty(root)
    try:
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)
