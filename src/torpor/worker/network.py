"""What a run reaches: the network namespace that it lives in.

    host     that of the worker; there is nothing to make
    private  its own, with a way out through `router.py`: nothing reaches in, and out only to what is nobody's neighbour
    none     its own, with loopback and nothing else

Nothing of a network is ever in an image: a restored run gets a fresh one of the same kind, and CRIU is started inside of it.
A namespace is kept by a descriptor of the supervisor's, so that none outlives it, and some are made ahead: making one takes
milliseconds, which no run is to wait for.
"""

import asyncio
import contextlib
import fcntl
import ipaddress
import logging
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from torpor.errors import ConfigError
from torpor.wire.networks import HOST, NONE, PRIVATE
from torpor.worker import namespaces, router
from torpor.worker.router import NoNetwork, Router

log = logging.getLogger(__name__)

REFRESH_S = 5.0
AHEAD = 4
"""So many of each kind that runs have asked for are ready."""

_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1
_RESOLV_CONF = Path("/etc/resolv.conf")


class Network:
    """A network namespace for one run.

    Attributes:
        kind: `private` or `none`.
    """

    def __init__(self, kind: str, descriptor: int, on_release: Callable[[], None] = lambda: None) -> None:
        self.kind = kind
        self._descriptor = descriptor
        self._on_release = on_release

    @property
    def path(self) -> str:
        """By which the worker's processes can open it."""
        return f"/proc/{os.getpid()}/fd/{self._descriptor}"

    def enter(self) -> None:
        """This thread alone, and what it starts."""
        namespaces.join_file(self.path)

    def release(self) -> None:
        """It is needed no more: it ends with the last process that is in it. Called in any thread."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            self._on_release()


class Networks:
    """Those of a worker's runs.

    Args:
        reached: what private networks may reach of those that are nobody's on the internet.
    """

    def __init__(self, reached: Sequence[ipaddress.IPv4Network] = ()) -> None:
        self._reached = reached
        self._router: Router | None = None
        self._ready: dict[str, deque[Network]] = {PRIVATE: deque(), NONE: deque()}
        self._making: dict[str, asyncio.Task[None]] = {}
        self._is_stopping = False

    async def take(self, kind: str) -> Network | None:
        """A network for one run, which releases it; None for `host`.

        Raises:
            NoNetwork: there can't be one of this kind here.
        """
        if kind == HOST:
            return None
        ready = self._ready[kind]
        while not ready:
            if self._is_stopping:
                raise NoNetwork("the worker is about to end")
            await asyncio.shield(self._make_soon(kind, atleast=1))
        network = ready.popleft()
        if len(ready) < AHEAD:
            self._make_soon(kind, atleast=AHEAD)
        return network

    @property
    def pids(self) -> list[int]:
        """Of processes whose end is awaited here: whoever collects orphans leaves these alone."""
        return self._router.pids if self._router is not None else []

    async def refresh(self) -> None:
        """Follow the machine's addresses, which private networks don't reach, and its resolver. To be called now and then."""
        if self._router is not None:
            await self._router.refresh()

    async def stop(self) -> None:
        """Release what was made ahead, and end the router. Runs that still use it are cut off."""
        self._is_stopping = True
        if self._making:
            await asyncio.wait([*self._making.values()])
        for ready in self._ready.values():
            while ready:
                ready.pop().release()
        if self._router is not None:
            await self._router.stop()
            self._router = None

    def _make_soon(self, kind: str, *, atleast: int) -> asyncio.Task[None]:
        """One task for each kind, so that a run which is taken away while it waits leaves nothing half made."""
        if (making := self._making.get(kind)) is None:
            making = self._making[kind] = asyncio.create_task(self._make_some(kind, atleast))
            making.add_done_callback(lambda done: self._made(kind, done))
        return making

    def _made(self, kind: str, making: asyncio.Task[None]) -> None:
        del self._making[kind]
        if not making.cancelled():
            making.exception()  # whoever waits for it is told; if nobody does, the next run is

    async def _make_some(self, kind: str, number: int) -> None:
        while len(self._ready[kind]) < number and not self._is_stopping:
            self._ready[kind].append(await self._make(kind))

    async def _make(self, kind: str) -> Network:
        if not namespaces.may_unshare():
            raise NoNetwork("networks of their own need a worker that is root, with the capability SYS_ADMIN")
        if kind == PRIVATE and self._router is None:
            starting = Router(self._reached)
            try:
                await starting.start()
            except BaseException:
                await starting.stop()
                raise
            self._router = starting
        way_out = self._router if kind == PRIVATE else None
        # A thread made for this alone: what has been in another network is of no use for anything else.
        with _one_thread() as thread:
            try:
                return await asyncio.get_running_loop().run_in_executor(thread, _furnish, way_out)
            except OSError as error:
                raise NoNetwork(f"a network of its own can't be made here: {error}") from error


@contextlib.contextmanager
def _one_thread() -> Iterator[ThreadPoolExecutor]:
    thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="network")
    try:
        yield thread
    finally:
        thread.shutdown(wait=False)


def _furnish(way_out: Router | None) -> Network:
    """A namespace with loopback, and with a way out if there is to be one."""
    namespaces.unshare(namespaces.CLONE_NEWNET)
    _loopback_up()
    descriptor = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    if way_out is None:
        return Network(NONE, descriptor)
    cable = None
    try:
        # The router speaks IPv4: without an address of the other kind, programs don't try to use it.
        no_ipv6 = Path("/proc/sys/net/ipv6/conf/default/disable_ipv6")
        if no_ipv6.exists():
            no_ipv6.write_text("1")
        cable = way_out.connect(descriptor)
        router.settle()
    except BaseException:
        os.close(descriptor)
        if cable is not None:
            way_out.disconnect(cable)
        raise
    return Network(PRIVATE, descriptor, lambda: way_out.disconnect(cable))


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", _IFF_UP))


def reached(text: str | None) -> list[ipaddress.IPv4Network]:
    """What `TORPOR_NETWORK_REACHES` names.

    Raises:
        ConfigError: it can't be read.

    >>> reached("10.1.2.0/24, 10.3.0.7")
    [IPv4Network('10.1.2.0/24'), IPv4Network('10.3.0.7/32')]
    """
    try:
        return [ipaddress.IPv4Network(each.strip()) for each in (text or "").split(",") if each.strip()]
    except ValueError as error:
        wanted = "IPv4 addresses and networks, separated by commas, such as 10.1.2.0/24, 10.3.0.7"
        raise ConfigError(f"TORPOR_NETWORK_REACHES={text!r} can't be used: it should be {wanted} ({error})") from None


def resolv_conf(kind: str) -> str:
    """What /etc/resolv.conf says to a run with that network."""
    if kind == NONE:
        return "# this run has no network\n"
    lines = _RESOLV_CONF.read_text(errors="replace").splitlines() if _RESOLV_CONF.exists() else []
    if kind == PRIVATE:
        lines = [f"nameserver {router.RESOLVER}", *(line for line in lines if line.split()[:1] != ["nameserver"])]
    return "\n".join(lines) + "\n"
