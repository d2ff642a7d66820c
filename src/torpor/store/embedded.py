"""Our own Postgres, for whoever doesn't name one: a small supervisor around server binaries.

    <root>/data          the cluster (0700, its user's)
    <root>/postgres.log  what the server says
    <root>/start.lock    held while somebody starts or stops it

`<root>` is the directory we are given. When we are root and the server's user can't get there (a checkout under /root),
the cluster lies under /var/lib/torpor instead and `<directory>/place` names it: to forget the database, delete both.

The server listens on a unix socket only, in a 0700 directory; on it, the kernel says who connects (peer), and only our
own user may. It outlives us on purpose: killed services find their database running when they come back, and adopt it.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg

from torpor.errors import ConfigError, TorporError
from torpor.store import binaries as pg
from torpor.store.binaries import Account, Binaries

ROLE = "torpor"
DATABASE = "torpor"
SHELF = Path("/var/lib/torpor")
SOCKET_PATH_MAX = 100  # sun_path holds 107 bytes (103 on macOS), the file's own name included
SOCKET_FILE = ".s.PGSQL.5432"
START_TIMEOUT_S = 60.0  # crash recovery of a large log takes its time
STOP_TIMEOUT_S = 20.0
LOG_MAX_BYTES = 8 << 20

SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "shared_buffers": "64MB",
    "max_connections": "60",
    "max_wal_size": "256MB",
    "max_parallel_workers": "2",
    "jit": "off",  # our statements are short; compiling them costs more than running them
    "timezone": "UTC",
    "log_checkpoints": "off",
}


class PostgresFailed(TorporError):
    """The embedded Postgres did not start; the message holds what it said."""


class EmbeddedPostgres:
    """The Postgres that lives in a directory, whichever process has started it.

    Example:
        >>> postgres = EmbeddedPostgres(Path(".torpor/postgres"))  # doctest: +SKIP
        >>> url = await postgres.start()                            # doctest: +SKIP
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        self._child: subprocess.Popen[Any] | None = None

    # -- what callers do -----------------------------------------------------------------------------------------------

    async def start(self) -> str:
        """The server's URL; starts it unless it runs, and makes the cluster if there is none.

        Raises:
            ConfigError: no binaries, none that can open this cluster, or no user to run it as.
            PostgresFailed: it did not come up.
        """
        async with self._alone():
            root = self._root()
            if not self.is_running():
                await self._start(root)
            await self._prepare_database(root)
        return self._url(root, DATABASE)

    async def ensure(self) -> str:
        """Start it again if it has died; cheap when it has not. Call it every few seconds."""
        root = self._known_root()
        return self._url(root, DATABASE) if root is not None and self.is_running() else await self.start()

    async def stop(self) -> None:
        """Shut the server down, whoever has started it. Its clients are cut off."""
        async with self._alone():
            pid = self._pid()
            for sign in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):  # fast, immediate, by force
                if pid is None or not self.is_running():
                    break
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, sign)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(STOP_TIMEOUT_S):
                        while self.is_running():
                            await asyncio.sleep(0.02)
            self._reap()

    async def destroy(self) -> None:
        """Stop the server and delete the cluster, wherever it lies. For tests, which would litter /var/lib/torpor."""
        await self.stop()
        litter = [self.directory]
        if root := self._known_root():
            litter += [self._socket_directory(root), root]  # the sockets may lie elsewhere, under /tmp
        for directory in litter:
            await asyncio.to_thread(shutil.rmtree, directory, True)

    def is_running(self) -> bool:
        """Whether a postmaster lives on this cluster (it may still be recovering)."""
        pid = self._pid()
        root = self._known_root()
        return pid is not None and root is not None and self._is_postmaster(pid, root / "data")

    # -- where things are ----------------------------------------------------------------------------------------------

    def _known_root(self) -> Path | None:
        """Where the cluster is, if it has been decided."""
        place = self.directory / "place"
        if place.exists():
            return Path(place.read_text().strip())
        return self.directory if (self.directory / "data").exists() else None

    def _root(self) -> Path:
        """Where the cluster is; decided, once, when there is none."""
        if known := self._known_root():
            return known
        user = pg.account()
        if pg.can_reach(self.directory, user):
            return self.directory
        # A name of its own, not only the path's: after `rm -rf .torpor` nobody expects the old data back.
        name = hashlib.sha256(str(self.directory).encode()).hexdigest()[:12] + "-" + secrets.token_hex(4)
        root = SHELF / name
        root.mkdir(parents=True)
        for passable in (SHELF, root):  # whatever our umask says; what is private in there is 0700 by itself
            passable.chmod(0o755)
        _write_whole(self.directory / "place", f"{root}\n")
        return root

    def _socket_directory(self, root: Path) -> Path:
        """In the cluster's root, unless that path is too long for a unix socket."""
        inside = root / "socket"
        if len(os.fsencode(inside / SOCKET_FILE)) <= SOCKET_PATH_MAX:
            return inside
        return Path("/tmp") / f"torpor-{hashlib.sha256(os.fsencode(root)).hexdigest()[:16]}"

    def _url(self, root: Path, database: str) -> str:
        return f"postgresql://{ROLE}@/{database}?host={quote(str(self._socket_directory(root)), safe='/')}"

    # -- is it alive? --------------------------------------------------------------------------------------------------

    def _pid(self) -> int | None:
        """The postmaster's pid, as its lock file says."""
        root = self._known_root()
        try:
            return int((root / "data" / "postmaster.pid").read_text().split("\n")[0]) if root else None
        except (FileNotFoundError, ValueError):
            return None

    def _is_postmaster(self, pid: int, data: Path) -> bool:
        """Whether that pid is alive and is this cluster's server.

        A pid alone proves nothing: it may be a zombie (who waits for an adopted postmaster? whoever is pid 1, some day)
        or, after a reboot, somebody else. Servers run with the cluster as their working directory.
        """
        self._reap()
        if not Path("/proc/self").exists():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 0)
                return True
            return False
        return _is_alive(pid) and _works_in(pid, data)

    def _reap(self) -> None:
        if self._child is not None and self._child.poll() is not None:
            self._child = None

    # -- starting ------------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """One starter or stopper at a time, among all processes."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "start.lock").open("a") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    await asyncio.sleep(0.05)
            yield

    async def _start(self, root: Path) -> None:
        data = root / "data"
        if data.exists():
            user = pg.account_of(data)
            binaries = pg.choose(int((data / "PG_VERSION").read_text().split(".")[0]))
        else:
            user = pg.account()
            binaries = pg.choose(None)
        if not user.is_ours and os.geteuid() != 0:
            raise ConfigError(f"the database in {data} belongs to the user {user.name}: run torpor as that user")
        if not user.is_ours:
            SHELF.mkdir(parents=True, exist_ok=True)
            SHELF.chmod(0o755)
            binaries = await asyncio.to_thread(pg.within_reach, binaries, user, SHELF)
        if not data.exists():
            await asyncio.to_thread(_make_cluster, root, binaries, user)
        await self._bury(data)
        sockets = self._socket_directory(root)
        sockets.mkdir(exist_ok=True)
        _give(sockets, user)
        # A predecessor that was killed leaves the socket and its lock; a lock whose pid means somebody else by now
        # would stop the new one. That nobody serves this cluster has just been made sure of.
        for left in (SOCKET_FILE, SOCKET_FILE + ".lock"):
            (sockets / left).unlink(missing_ok=True)
        _write_access(data, user)
        self._spawn(root, binaries, user, sockets)
        await self._await_answer(root)

    def _spawn(self, root: Path, binaries: Binaries, user: Account, sockets: Path) -> None:
        settings = SETTINGS | {"unix_socket_directories": str(sockets)}
        if binaries.major >= 18:
            settings["io_method"] = "sync"  # three processes fewer; our reads are index lookups
        command = [str(binaries.bin / "postgres"), "-D", str(root / "data"), "-p", "5432"]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        log = root / "postgres.log"
        mode = "ab" if log.exists() and log.stat().st_size < LOG_MAX_BYTES else "wb"
        with log.open(mode) as output:
            self._child = subprocess.Popen(
                command,
                cwd=root / "data",
                env=binaries.environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C in the terminal is for us, not for the database
                **_as(user),
            )

    async def _await_answer(self, root: Path) -> None:
        """Until it takes connections, or has exited."""
        log = root / "postgres.log"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_TIMEOUT_S):
                while self._child is not None and self._child.poll() is None:
                    try:
                        connection = await asyncpg.connect(self._url(root, "postgres"), timeout=5)
                    except (OSError, asyncpg.PostgresError, TimeoutError):
                        await asyncio.sleep(0.03)
                        continue
                    await connection.close()
                    return
        said = log.read_text(errors="replace")[-2000:].strip() or "nothing"
        raise PostgresFailed(f"Postgres did not start in {root / 'data'}; it said ({log}):\n{said}")

    async def _prepare_database(self, root: Path) -> None:
        """Our database in the cluster. Waits out a recovery under way, when a postmaster was adopted just after its
        start."""
        deadline = asyncio.get_running_loop().time() + START_TIMEOUT_S
        while True:
            try:
                connection = await asyncpg.connect(self._url(root, "postgres"), timeout=5)
                break
            except (OSError, asyncpg.PostgresError, TimeoutError) as error:
                if asyncio.get_running_loop().time() > deadline or not self.is_running():
                    raise PostgresFailed(
                        f"Postgres in {root / 'data'} runs but takes no connection: {error}"
                    ) from error
                await asyncio.sleep(0.05)
        try:
            if not await connection.fetchval("select 1 from pg_database where datname = $1", DATABASE):
                await connection.execute(f"create database {DATABASE}")
        finally:
            await connection.close()

    async def _bury(self, data: Path) -> None:
        """After a postmaster was killed: wait for its orphans, then take away its lock file.

        Its backends notice and exit, but one that is busy does so late, and it would write into the files of a new
        server. The lock file keeps a new server away as long as its pid exists, even as a zombie's or a stranger's;
        we know better, so it goes, but only after the last orphan.
        """
        if not Path("/proc/self").exists():
            return  # without /proc we can't know: the server's own checks decide
        waited_s = 0.0
        while orphans := [pid for pid in _all_pids() if _is_alive(pid) and _works_in(pid, data)]:
            if waited_s > 1:
                for pid in orphans:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGQUIT if waited_s < 3 else signal.SIGKILL)
            await asyncio.sleep(0.05)
            waited_s += 0.05
        (data / "postmaster.pid").unlink(missing_ok=True)


# -- files and processes -----------------------------------------------------------------------------------------------


def _make_cluster(root: Path, binaries: Binaries, user: Account) -> None:
    """initdb beside its place and renamed into it: a killed initdb leaves no half cluster."""
    fresh = root / "data.new"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    _give(fresh, user)
    command = [
        str(binaries.bin / "initdb"),
        "-D",
        str(fresh),
        "-U",
        ROLE,
        "-E",
        "UTF8",
        "--auth=peer",
        "--no-instructions",
    ]
    if binaries.major >= 17:
        command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
    else:
        command += ["--locale=C"]
    told = subprocess.run(
        command, cwd=fresh, env=binaries.environment(), capture_output=True, text=True, check=False, **_as(user)
    )
    if told.returncode != 0:
        raise PostgresFailed(f"initdb failed in {fresh}:\n{(told.stderr or told.stdout).strip()[-2000:]}")
    fresh.rename(root / "data")


def _write_access(data: Path, user: Account) -> None:
    """Who may connect: only us, as the kernel reports it. Written at each start, so that it is always true."""
    names = {user.name, pg.pwd.getpwuid(os.geteuid()).pw_name}
    for file, text in (
        ("pg_hba.conf", "local all all peer map=torpor\n"),
        ("pg_ident.conf", "".join(f'torpor "{name}" {ROLE}\n' for name in sorted(names))),
    ):
        _write_whole(data / file, text)
        os.chmod(data / file, 0o600)
        _give(data / file, user)


def _as(user: Account) -> dict[str, Any]:
    """Arguments for subprocess that switch to that user."""
    return {} if user.is_ours else {"user": user.uid, "group": user.gid, "extra_groups": []}


def _give(path: Path, user: Account) -> None:
    if path.is_dir():
        path.chmod(0o700)
    if not user.is_ours:
        os.chown(path, user.uid, user.gid)


def _write_whole(path: Path, text: str) -> None:
    fresh = path.with_name(path.name + ".new")
    with fresh.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(path)


def _all_pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _is_alive(pid: int) -> bool:
    """Not gone and not a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text[text.rindex(")") + 2] not in "ZX"


def _works_in(pid: int, directory: Path) -> bool:
    try:
        return Path(f"/proc/{pid}/cwd").resolve(strict=True) == directory.resolve()
    except OSError:
        return False
