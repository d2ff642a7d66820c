"""CRIU: dump a process tree into a directory of images, and restore it. Nothing here knows what a run is.

Each request starts one `criu swrk` and talks with it over a socket pair; the messages are in criu_rpc.proto. CRIU's
answer counts and never its exit status: our caller may be pid 1 of a namespace that reaps every child itself.

Whatever happens (a failure, a timeout, a cancellation), a dump leaves the process running or stopped with its images
complete, and a restore leaves the whole tree or nothing. No CRIU process outlives the call.
"""

import asyncio
import math
import os
import signal
import socket
import subprocess
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torpor.errors import CriuError
from torpor.worker import criu_rpc_pb2 as rpc
from torpor.worker import namespaces
from torpor.worker.criu_reasons import plain_reason
from torpor.worker.lazy import LazyMemory
from torpor.worker.process_tree import KILL_PATIENCE_S, Pinned, kill_group, kill_tree, processes, tree_of

DUMP_LOG = "dump.log"
RESTORE_LOG = "restore.log"

_LOG_TAIL = 4000
_LEARNED = Path("/run/criu.kdat")
"""Where CRIU keeps what it has learned of the kernel, if /run is a tmpfs."""
_GHOST_LIMIT = 1 << 30  # A deleted file that is still open travels in the image up to this size.
_LAST_WORDS_S = 1.0


@dataclass(frozen=True)
class Criu:
    """A CRIU that passed its proof on this machine.

    Attributes:
        command: how to start it. A private one is run through its own dynamic loader.
        version: such as `4.2.1`.
        source: where it was found: `TORPOR_CRIU`, `system` or `private`.
    """

    command: tuple[str, ...]
    version: str
    source: str


async def dump(
    criu: Criu, *, pid: int, images: Path, real_uid: tuple[int, int] | None = None, timeout_s: float = 30.0
) -> None:
    """Write the process tree under `pid` to `images`, an existing directory, and leave the tree stopped.

    The caller makes the images durable and then either kills the tree or calls `let_run`. After any failure the tree
    runs on as if nothing had happened. Who is canceled waits for CRIU's end all the same: it has put code of its own into the
    processes, and killed in the middle of that it may leave them with it.

    Args:
        real_uid: user and group of the tree, if it isn't root's; see `_elsewhere`.

    Raises:
        CriuError: it could not be dumped; the reason names what stands in the way.
    """
    options = _options(DUMP_LOG)
    options.pid = pid
    options.leave_stopped = True
    options.tcp_skip_in_flight = True
    options.ghost_limit = _GHOST_LIMIT
    # CRIU gives up by itself, which is the cleaner way, when a thread can't be stopped in half of our time.
    options.timeout = max(1, math.floor(timeout_s / 2))
    try:
        await _learn_as_root(criu, real_uid)
        request = rpc.Request(type=rpc.DUMP, opts=options)
        await _to_its_end(_ask(criu, request, images, enter=_place_of(pid), real_uid=real_uid, timeout_s=timeout_s))
    except CriuError as error:
        let_run(pid)
        if "unix socket" in error.reason and (numbers := _connected_unix_sockets(pid)):
            # CRIU's log does not say which one it was.
            raise CriuError(f"{error.reason} ({' or '.join(f'fd {n}' for n in numbers)})", error.log) from None
        raise
    except BaseException:
        # CRIU has finished most likely, and left the tree stopped.
        let_run(pid)
        raise


async def _to_its_end(asking: Coroutine[Any, Any, object]) -> None:
    """Wait for it, however often one is canceled meanwhile; then one is."""
    asked = asyncio.ensure_future(asking)
    canceled: asyncio.CancelledError | None = None
    while not asked.done():
        try:
            await asyncio.wait({asked})
        except asyncio.CancelledError as error:
            canceled = error
    if canceled is not None:
        asked.exception()
        raise canceled
    asked.result()


async def restore(
    criu: Criu,
    *,
    images: Path,
    scratch: Path | None = None,
    enter: Callable[[], None] | None = None,
    memory: LazyMemory | None = None,
    real_uid: tuple[int, int] | None = None,
    on_root: Callable[[int], None] | None = None,
    timeout_s: float = 60.0,
) -> int:
    """Bring a dumped tree back to life as a child of this process; it runs when this returns.

    CRIU's log goes to `scratch`, so that the image stays as it is and can be verified and restored again; without it, to
    the images.

    Args:
        enter: called in a thread of its own, before CRIU is started from there: namespaces that it enters are the tree's.
        memory: listens in `scratch`; the tree runs before its memory is there.
        real_uid: user and group of the tree, if it isn't root's; see `_elsewhere`.
        on_root: called in a thread when the first process exists, alone and stopped in namespaces of its own, with its pid: what
            it does holds for all that follows. An OSError ends the restore.

    Returns:
        The pid of its first process, as seen from here.

    Raises:
        CriuError: it could not be restored; nothing of it is left.
    """
    options = _options(RESTORE_LOG)
    options.rst_sibling = True
    options.notify_scripts = True
    options.lazy_pages = memory is not None
    await _learn_as_root(criu, real_uid)
    root: Pinned | None = None
    watching: asyncio.Task[None] | None = None

    async def remember_root(notify: rpc.Notify) -> None:
        nonlocal root, watching
        if notify.script == "setup-namespaces":
            root = Pinned(notify.pid)
            watching = asyncio.create_task(give_up_without(root))
            if memory is not None:
                memory.protect(notify.pid)
            if on_root is not None:
                try:
                    await asyncio.to_thread(on_root, notify.pid)
                except OSError as error:
                    raise CriuError(f"the restored process can't be given what it needs: {error}") from error

    async def give_up_without(root: Pinned) -> None:
        # It isn't CRIU's child: at some moments CRIU doesn't notice that it was killed, and waits for it for ever.
        await root.ended(None)
        await asyncio.wait({asking}, timeout=_LAST_WORDS_S)
        asking.cancel()

    request = rpc.Request(type=rpc.RESTORE, opts=options)
    asking = asyncio.ensure_future(
        _ask(
            criu,
            request,
            images,
            scratch=scratch,
            enter=enter,
            real_uid=real_uid,
            timeout_s=timeout_s,
            on_notify=remember_root,
        )
    )
    is_back = False
    try:
        await asyncio.wait({asking})
        if asking.cancelled():
            raise _failure("the process was killed while it was being restored", (scratch or images) / RESTORE_LOG)
        pid, is_back = asking.result().restore.pid, True
        return pid
    finally:
        for task in (asking, watching):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        if root is not None:
            if not is_back:  # killing CRIU leaves what it has built so far, spinning or stopped
                await kill_tree(root)
            root.forget()


async def version(command: tuple[str, ...], *, timeout_s: float = 10.0) -> str:
    """The version of a CRIU, such as `4.2.1`; asked by the same channel that dumps use.

    Raises:
        CriuError: it doesn't run, or it doesn't speak the protocol.
    """
    answer = await _ask(Criu(command, "", ""), rpc.Request(type=rpc.VERSION), None, timeout_s=timeout_s)
    numbers = [answer.version.major_number, answer.version.minor_number]
    if answer.version.HasField("sublevel"):
        numbers.append(answer.version.sublevel)
    return ".".join(map(str, numbers))


async def warm_up(criu: Criu, *, timeout_s: float = 30.0) -> None:
    """Have CRIU probe the kernel now and keep the result in /run/criu.kdat, which halves the time of the first dump.

    It has an effect only where /run is a tmpfs.

    Raises:
        CriuError: CRIU finds this kernel unfit.
    """
    if not _LEARNED.exists():
        with suppress(OSError):  # what one that was killed has left keeps all others from writing it
            _LEARNED.with_suffix(".kdat.tmp").unlink()
    # Any question about features makes it look at all of them; CHECK skips that when it is given no options.
    question = rpc.Request(type=rpc.FEATURE_CHECK, features=rpc.Features(mem_track=True))
    await _ask(criu, question, None, timeout_s=timeout_s)


async def _learn_as_root(criu: Criu, real_uid: tuple[int, int] | None) -> None:
    """CRIU can't look at the kernel when it is really somebody else: each dump and restore would fail, for as long as nobody
    else has. Whoever was to do so may have failed, or somebody has tidied /run since.
    """
    if real_uid is not None and not _LEARNED.exists():
        await warm_up(criu)


def let_run(pid: int) -> None:
    """Wake the tree under `pid` from the stop in which a dump leaves it. Harmless to processes that aren't stopped."""
    for process in tree_of(pid, list(processes())):
        # Whatever its state: SIGCONT also takes back a stop which CRIU has sent and which has yet to arrive.
        try:
            os.kill(process.pid, signal.SIGCONT)
        except ProcessLookupError:
            pass


def _options(log_file: str) -> rpc.Options:
    """The options that dump and restore share. The network is never locked: TCP connections are given up anyway."""
    return rpc.Options(
        images_dir_fd=-1,
        log_level=2,
        log_file=log_file,
        network_lock=rpc.NETWORK_LOCK_SKIP,
        tcp_close=True,
        file_locks=True,
        link_remap=True,
        manage_cgroups_mode=rpc.CGROUP_IGNORE,
    )


async def _ask(
    criu: Criu,
    request: rpc.Request,
    images: Path | None,
    *,
    scratch: Path | None = None,
    enter: Callable[[], None] | None = None,
    real_uid: tuple[int, int] | None = None,
    timeout_s: float,
    on_notify: Callable[[rpc.Notify], Awaitable[None]] | None = None,
) -> rpc.Response:
    """Start a CRIU, send it one request, and see it end."""
    scratch = scratch or images
    log = scratch / request.opts.log_file if scratch else None
    if log is not None:
        log.unlink(missing_ok=True)  # An older log must not explain this failure.
    started = _start(criu, enter, real_uid)
    with _directory(images) as directory, _directory(scratch) as work, started as (process, channel):
        if images is not None:
            # CRIU opens them as /proc/<our pid>/fd/<number>, so they stay open here until the end.
            request.opts.work_dir_fd = work
            request.opts.images_dir_fd = directory
        try:
            async with asyncio.timeout(timeout_s):
                answer = await _converse_with(process, channel, request, on_notify)
        except TimeoutError:
            await kill_group(process)
            raise _failure(f"CRIU did not answer within {timeout_s:g} s", log) from None
        except BaseException:
            await kill_group(process)
            raise
        channel.close()
        if answer is None or not await process.ended(KILL_PATIENCE_S):
            await kill_group(process)
    if answer is None:
        raise _failure("CRIU ended without an answer", log)
    if not answer.success:
        number = answer.cr_errno
        told = answer.cr_errmsg.strip() or (os.strerror(number) if number else "it does not say why")
        raise _failure(f"CRIU says: {told}", log)
    return answer


async def _converse_with(
    process: "Pinned",
    channel: socket.socket,
    request: rpc.Request,
    on_notify: Callable[[rpc.Notify], Awaitable[None]] | None,
) -> rpc.Response | None:
    """As `_converse`. None also when CRIU has died: what it has made of a tree holds the channel open as well."""
    talking = asyncio.ensure_future(_converse(channel, request, on_notify))
    ending = asyncio.ensure_future(process.ended(None))
    try:
        await asyncio.wait({talking, ending}, return_when=asyncio.FIRST_COMPLETED)
        if not talking.done():
            await asyncio.wait({talking}, timeout=_LAST_WORDS_S)
        return talking.result() if talking.done() else None
    finally:
        for task in (talking, ending):
            task.cancel()
        await asyncio.gather(talking, ending, return_exceptions=True)


async def _converse(
    channel: socket.socket, request: rpc.Request, on_notify: Callable[[rpc.Notify], Awaitable[None]] | None
) -> rpc.Response | None:
    """Send the request and answer CRIU's notifications until it answers; None when it hangs up instead."""
    loop = asyncio.get_running_loop()
    try:
        await loop.sock_sendall(channel, request.SerializeToString())
        while packet := await loop.sock_recv(channel, 1 << 16):
            answer = rpc.Response.FromString(packet)
            if answer.type != rpc.NOTIFY:
                return answer
            if on_notify is not None:
                await on_notify(answer.notify)
            go_on = rpc.Request(type=rpc.NOTIFY, notify_success=True)
            await loop.sock_sendall(channel, go_on.SerializeToString())
    except (ConnectionError, BrokenPipeError):
        pass
    return None


def _failure(fallback: str, log: Path | None) -> CriuError:
    try:
        text = log.read_text(errors="replace") if log else ""
    except OSError:
        text = ""
    return CriuError(plain_reason(text) or fallback, text[-_LOG_TAIL:])


# ---- The CRIU process -------------------------------------------------------------------------------------------


@contextmanager
def _directory(path: Path | None) -> Iterator[int]:
    if path is None:
        yield -1
        return
    try:
        number = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise CriuError(f"the image directory can't be opened: {error}") from error
    try:
        yield number
    finally:
        os.close(number)


@contextmanager
def _start(
    criu: Criu, enter: Callable[[], None] | None, real_uid: tuple[int, int] | None
) -> Iterator[tuple["Pinned", socket.socket]]:
    """`criu swrk` and our end of the socket pair; in a session of its own, to be killed together with its helpers."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.setblocking(False)
        try:
            if enter is None and real_uid is None:
                started = _launch(criu.command, theirs.fileno())
            else:
                started = _elsewhere(enter, real_uid, criu, theirs.fileno())
        except OSError as error:
            raise CriuError(f"CRIU can't be started: {error}") from error
        theirs.close()
        process = Pinned(started.pid)
        try:
            yield process, ours
        finally:
            process.forget()
            started.poll()  # Takes the exit status if nobody else did; that it is gone already is fine.


def _launch(command: Sequence[str], channel: int, kept_open: Iterable[int] = ()) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*command, "swrk", str(channel)],
        pass_fds=[channel, *kept_open],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        cwd="/",
    )


def _elsewhere(
    enter: Callable[[], None] | None, real_uid: tuple[int, int] | None, criu: Criu, channel: int
) -> subprocess.Popen[bytes]:
    """Start CRIU in other namespaces, where it must be from its first instruction on. A thread can be in some of its own, which
    its children inherit; so no helper program is needed, and CRIU is our child as ever.

    The same goes for its ids. It reads and sets limits of processes, which takes CAP_SYS_RESOURCE, and containers rarely have
    that, or the real ids of their owner. So those are its real ones; what it may do goes by the effective ones, which are root's.

    There its own files may be out of sight: a room has a /tmp of its own, and a home may be below the machine's. So they are
    opened before, and what can't be had by its name any more is had by its descriptor.
    """

    def start() -> subprocess.Popen[bytes]:
        files = {each: os.open(each, os.O_PATH | os.O_CLOEXEC) for each in criu.command if each.startswith("/")}
        try:
            if enter is not None:
                enter()
            if real_uid is not None:
                namespaces.be_really(*real_uid)
            hidden = {each: f"/proc/self/fd/{file}" for each, file in files.items() if not _leads_to(each, file)}
            kept_open = [files[each] for each in hidden]
            return _launch([hidden.get(each, each) for each in criu.command], channel, kept_open)
        finally:
            for file in files.values():
                os.close(file)

    return namespaces.elsewhere(start)


def _leads_to(path: str, file: int) -> bool:
    """Whether the path, as this thread sees it, is that open file's."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(file))
    except OSError:
        return False


def _place_of(pid: int) -> Callable[[], None] | None:
    """How to be where the process is: CRIU can't dump one whose mounts are not its own, and would dump a network that isn't."""
    try:
        others = namespaces.not_shared_with(pid, ("net", "mnt"))
    except OSError:
        return None  # it has just ended: CRIU says so
    return (lambda: namespaces.join(pid, others)) if others else None


def _connected_unix_sockets(pid: int) -> list[int]:
    """Descriptors of `pid` that are connected unix sockets, lowest first; empty when /proc doesn't tell."""
    numbers: list[int] = []
    try:
        rows = [line.split() for line in Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:]]
        connected = {f"socket:[{row[6]}]" for row in rows if row[5] == "03"}
        for entry in os.listdir(f"/proc/{pid}/fd"):
            if os.readlink(f"/proc/{pid}/fd/{entry}") in connected:
                numbers.append(int(entry))
    except OSError:
        return []
    return sorted(numbers)
