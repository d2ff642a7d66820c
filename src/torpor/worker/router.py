"""The way out of all private networks of a worker: a network namespace that forwards what may go, and refuses the rest.

    run: eth0 198.19.0.2 --cable--> r1 \\
    run: eth0 198.19.0.2 --cable--> r2 -- router: filter, an address per run, masquerade -- out --> pasta --> the machine
    run: eth0 198.19.0.2 --cable--> r3 /

`pasta` (of the package passt, what rootless containers use) makes connections of the worker's machine out of packets. So the
machine itself is left as it is: it forwards nothing, has no rule of ours, and nothing has to be taken away from it. All of this
is held by descriptors, a thread and a child of the supervisor; the kernel drops it when they end, however they end.

The filter is here and not with the run, where it would be as safe (a run may change no rules), because a route that is forbidden
there is no wall: a socket that is bound to a device is sent without one. And it is one for all, so that there is one pasta:
each would hold 20 MB.

All runs have the same address, on every machine, so what listens on it or was bound to it can be restored. The router tells
them apart by their cables, and gives each its own address for as long as it looks at their packets. Only IPv4 goes out.
"""

import asyncio
import ipaddress
import itertools
import logging
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from torpor.errors import TorporError
from torpor.worker import namespaces

log = logging.getLogger(__name__)

RUN = "198.19.0.2"
GATE = "198.19.0.1"
"""The router, as every run sees it."""
RESOLVER = "198.18.0.1"
"""Where runs ask for names. It is pasta's end of the wire; the router passes questions on to the machine's own resolver."""
_OUT = "198.18.0.2"
_PLACES = ipaddress.IPv4Network(
    "198.18.64.0/18"
)  # all of these are set apart for tests of networks (RFC 2544): nobody has them
_MTU = 65520

NEVER = ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "198.18.0.0/15", "224.0.0.0/3")
"""Not reached whatever the settings say, like the machine's own addresses. Clouds give credentials away at 169.254.169.254."""
NEIGHBOURS = ("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16")
"""Not reached unless the settings say so: what trusts whoever can reach it."""
MOST_CONNECTIONS = 8192
"""At once, of one run: the router and pasta are shared."""

_PINNED = Path("/run/netns/torpor")
_START_TIMEOUT_S = 10.0
_RETRY_S = 1.0
_PASTA = (
    "--foreground --quiet --ipv4-only --runas 0 --netns-only --no-netns-quit --ns-ifname out"
    f" --address {_OUT} --netmask 30 --gateway {RESOLVER} --no-dhcp --no-dhcpv6 --no-ra --no-ndp"
    " --tcp-ports none --udp-ports none --tcp-ns none --udp-ns none"
).split()
_TOOLS = {"pasta": "passt", "nft": "nftables", "ip": "iproute2"}
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin"}
_RESOLV_CONF = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))


class NoNetwork(TorporError):
    """A network that was asked for can't be had on this machine: the message says why."""


def missing_tools() -> list[str]:
    """What private networks need of this machine and don't find, such as `pasta (package passt)`."""
    path = _ENVIRONMENT["PATH"]
    return [f"{tool} (package {package})" for tool, package in _TOOLS.items() if shutil.which(tool, path=path) is None]


class Router:
    """One worker's.

    Args:
        reached: what runs may reach of `NEIGHBOURS`.
    """

    def __init__(self, reached: Sequence[ipaddress.IPv4Network] = ()) -> None:
        self._reached = [str(each) for each in reached]
        self._numbers = itertools.cycle(range(1, _PLACES.num_addresses - 1))
        self._places: dict[str, str] = {}  # a cable's name -> the address by which the router knows its run
        self._unplugged: deque[str] = deque()
        self._rules = ""
        self._pasta: subprocess.Popen[bytes] | None = None
        self._watching: asyncio.Task[None] | None = None
        # A thread that lives in the router's namespace: what it does and starts is in there, and one thing after the other.
        self._inside = ThreadPoolExecutor(max_workers=1, thread_name_prefix="router")

    async def start(self) -> None:
        """Make it.

        Raises:
            NoNetwork: a tool is missing, or the kernel or the container has it not.
        """
        if missing := missing_tools():
            raise NoNetwork(f"private networks need {' and '.join(missing)}, which this machine hasn't")
        loop = asyncio.get_running_loop()
        try:
            thread = await loop.run_in_executor(self._inside, _new_namespace)
            await loop.run_in_executor(self._inside, self._refresh)
            await self._plug_in(thread)
        except OSError as error:
            raise NoNetwork(f"private networks can't be made here: {error}") from error
        self._watching = asyncio.create_task(self._watch(thread))
        if _resolver() is None:
            log.warning(
                "runs with private networks can't ask for names: /etc/resolv.conf names no resolver that they could reach"
            )

    @property
    def pids(self) -> list[int]:
        """Of those whose end is awaited here."""
        return [self._pasta.pid] if self._pasta is not None else []

    async def refresh(self) -> None:
        """Follow the machine: its addresses and its resolver may be others than a while ago."""
        await asyncio.get_running_loop().run_in_executor(self._inside, self._refresh)

    def connect(self, namespace: int) -> str:
        """Lay a cable to a network namespace, in which its end is `eth0`; returns the cable's name. Called in any thread.

        Raises:
            OSError: it can't be laid.
        """
        return self._inside.submit(self._lay_cable, namespace).result()

    def disconnect(self, cable: str) -> None:
        """The namespace at its other end is gone, and the cable with it. Called in any thread."""
        self._unplugged.append(cable)  # its rule goes when the next one comes

    async def stop(self) -> None:
        """The namespace goes with its thread and with pasta."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
        self._unplug()
        await asyncio.to_thread(self._inside.shutdown)

    # -- pasta --------------------------------------------------------------------------------------------------------

    async def _plug_in(self, thread: int) -> None:
        """Start pasta on our side, in the machine's network, and wait for its device on the other."""
        options = [*_PASTA, *([] if _resolver() == RESOLVER else ["--no-map-gw"])]
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="pasta") as elsewhere:
            pasta = await asyncio.get_running_loop().run_in_executor(elsewhere, _start_pasta, thread, options)
        self._pasta = pasta
        try:
            await asyncio.get_running_loop().run_in_executor(self._inside, self._await_device, pasta)
        except BaseException:
            self._unplug()
            raise

    def _await_device(self, pasta: subprocess.Popen[bytes]) -> None:
        end = time.monotonic() + _START_TIMEOUT_S
        while "out" not in (name for _, name in socket.if_nameindex()):
            if pasta.poll() is not None or time.monotonic() > end:
                pasta.kill()
                assert pasta.stderr is not None
                raise OSError(
                    f"pasta does not start: {'; '.join(_lines(pasta.stderr.read())) or 'it does not say why'}"
                )
            time.sleep(0.001)
        _ip(
            f"address add {_OUT}/30 dev out",
            f"link set out mtu {_MTU} up",
            f"route replace default via {RESOLVER}",
        )

    def _unplug(self) -> None:
        if self._pasta is not None:
            assert self._pasta.stderr is not None
            self._pasta.kill()
            self._pasta.wait()
            self._pasta.stderr.close()
            self._pasta = None

    async def _watch(self, thread: int) -> None:
        """A pasta that ends (the OOM killer, a fault) is started again; what was connected through it isn't any more."""
        while True:
            if self._pasta is not None:
                await self._hear(self._pasta)
                log.warning("pasta, the way out of private networks, has ended: starting it again")
                self._unplug()
            try:
                await self._plug_in(thread)
            except OSError as error:
                log.error("private networks are cut off: %s", error)
                await asyncio.sleep(_RETRY_S)

    async def _hear(self, pasta: subprocess.Popen[bytes]) -> None:
        """Until it ends. A pipe that nobody reads would stop it one day."""
        assert pasta.stderr is not None
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        pipe = pasta.stderr.fileno()

        def read() -> None:
            said = os.read(pipe, 65536)
            for line in _lines(said):
                log.info("pasta says: %s", line)
            if not said:
                ended.set()

        loop.add_reader(pipe, read)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(pipe)

    # -- in the router's thread ---------------------------------------------------------------------------------------

    def _lay_cable(self, namespace: int) -> str:
        self._refresh()
        number = next(number for number in self._numbers if f"r{number}" not in self._places)
        cable, place = f"r{number}", str(_PLACES[number])
        _ip(
            f"link add {cable} mtu {_MTU} type veth peer name eth0 netns /proc/{os.getpid()}/fd/{namespace} mtu {_MTU}",
            f"link set {cable} up",
            f"route replace {place}/32 via {RUN} dev {cable} onlink",
        )
        changes = [f"add element ip torpor places {{ {cable} : {place} }}"]
        while self._unplugged:
            gone = self._unplugged.popleft()
            changes.append(f"delete element ip torpor places {{ {gone} : {self._places.pop(gone)} }}")
        self._places[cable] = place
        _nft("\n".join(changes))
        return cable

    def _refresh(self) -> None:
        rules = _rules(_resolver(), _own_addresses(), self._reached)
        if rules == self._rules:
            return
        elements = ", ".join(f"{cable} : {place}" for cable, place in self._places.items())
        known = f"add element ip torpor places {{ {elements} }}\n" if elements else ""
        # One transaction: no packet meets a router without its rules.
        _nft(f"table ip torpor {{ }}\ndelete table ip torpor\n{rules}\n{known}")
        self._rules = rules


def _new_namespace() -> int:
    """Take this thread, whose number it returns, into a network of its own which forwards packets."""
    namespaces.unshare(namespaces.CLONE_NEWNET)
    settings = Path("/proc/sys/net")  # it shows those of the reader's network
    settings.joinpath("ipv4/ip_forward").write_text("1")
    for name in ("all", "default"):
        settings.joinpath("ipv4/conf", name, "rp_filter").write_text("0")  # the filter looks at who sends what
        no_ipv6 = settings.joinpath("ipv6/conf", name, "disable_ipv6")
        if no_ipv6.exists():
            no_ipv6.write_text("1")
    _ip("link set lo up", f"address add {GATE}/32 dev lo")
    return threading.get_native_id()


def _start_pasta(router: int, options: list[str]) -> subprocess.Popen[bytes]:
    """In a thread made for this. pasta may not open a namespace below /proc; it may at a place of its own mounts."""
    namespaces.own_mounts()
    namespaces.mount(
        None, "/", None, namespaces.MS_REC | namespaces.MS_PRIVATE
    )  # else /run/netns may show it to everybody
    _PINNED.parent.mkdir(exist_ok=True)
    namespaces.mount("tmpfs", str(_PINNED.parent), "tmpfs", namespaces.MS_NOSUID | namespaces.MS_NODEV, "mode=755")
    _PINNED.touch()
    namespaces.bind(f"/proc/{router}/ns/net", str(_PINNED))
    return subprocess.Popen(
        ["pasta", *options, "--netns", str(_PINNED)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=_ENVIRONMENT,
        cwd="/",
    )


def _rules(resolver: str | None, own: Sequence[str], reached: Sequence[str]) -> str:
    """What passes. `places` says by which address the router knows the run at the end of a cable."""
    refuse = "meta l4proto tcp reject with tcp reset"
    ask = (
        f"ip daddr {RESOLVER} meta l4proto {{ tcp, udp }} th dport 53 ct mark set 53 dnat to {resolver}"
        if resolver
        else ""
    )
    reach = f"ip daddr {{ {', '.join(reached)} }} accept" if reached else ""
    return f"""
table ip torpor {{
    map places {{ type ifname : ipv4_addr; }}
    set busy {{ type ipv4_addr; size 65535; flags dynamic; }}
    set never {{ type ipv4_addr; flags interval; auto-merge; elements = {{ {", ".join([*NEVER, *own])} }}; }}
    set neighbours {{ type ipv4_addr; flags interval; auto-merge; elements = {{ {", ".join(NEIGHBOURS)} }}; }}

    chain arrive {{
        type filter hook prerouting priority raw;
        iifname {{ "lo", "out" }} accept
        ip saddr != {RUN} drop
        ip saddr set iifname map @places
    }}
    chain ask {{
        type nat hook prerouting priority dstnat;
        iifname != "out" {ask or "accept"}
    }}
    chain pass {{
        type filter hook forward priority filter; policy drop;
        ct state established,related accept
        iifname "out" drop
        oifname != "out" {refuse}
        oifname != "out" drop
        ct state != new drop
        add @busy {{ ip saddr ct count over {MOST_CONNECTIONS} }} drop
        ct mark 53 accept
        ip daddr @never {refuse}
        ip daddr @never drop
        {reach}
        ip daddr @neighbours {refuse}
        ip daddr @neighbours drop
        accept
    }}
    chain arrive_here {{
        type filter hook input priority filter; policy drop;
        iifname "lo" accept
        {refuse}
    }}
    chain disguise {{
        type nat hook postrouting priority srcnat;
        oifname "out" masquerade
    }}
    chain leave {{
        type filter hook postrouting priority 300;
        oifname != {{ "lo", "out" }} ip daddr set {RUN}
    }}
}}"""


# -- what the machine has -------------------------------------------------------------------------------------------------


def _own_addresses() -> list[str]:
    """All IPv4 addresses of this machine but those of loopback: whoever reaches one of them reaches what listens here."""
    found: set[str] = set()
    address = ""
    for line in Path("/proc/net/fib_trie").read_text().splitlines():
        if leaf := re.search(r"\|-- (\S+)", line):
            address = leaf[1]
        elif line.endswith("/32 host LOCAL"):
            found.add(address)
    return sorted(each for each in found if not each.startswith("127."))


def _resolver() -> str | None:
    """Where this machine asks for names, as its sockets, or the router's (see `_plug_in`), reach it; None: nowhere we could."""
    for file in _RESOLV_CONF:
        if file.exists():
            for line in file.read_text(errors="replace").splitlines():
                match line.split():
                    case ["nameserver", address, *_] if re.fullmatch(r"[\d.]+", address):
                        if not address.startswith("127."):
                            return address
                        if address == "127.0.0.1":
                            return RESOLVER  # pasta maps its end of the wire to that
                    case _:
                        pass
    return None


def _lines(said: bytes) -> list[str]:
    """What pasta says, without its sorrow that there is no syslog."""
    return [line for line in said.decode(errors="replace").splitlines() if "syslog" not in line]


def _ip(*commands: str) -> None:
    _tell(["ip", "-batch", "-"], "\n".join(commands))


def _nft(commands: str) -> None:
    _tell(["nft", "-f", "-"], commands)


def _tell(command: list[str], text: str) -> None:
    """Have a tool carry out a text; by what it says we know how it went: as pid 1 of a namespace we may not be told."""
    try:
        done = subprocess.run(
            command,
            input=text.encode() + b"\n",
            capture_output=True,
            env=_ENVIRONMENT,
            cwd="/",
            timeout=_START_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise OSError(f"{command[0]} did not end within {_START_TIMEOUT_S:.0f} s") from None
    if done.returncode != 0 or done.stderr:
        raise OSError(f"{command[0]} says: {done.stderr.decode(errors='replace').strip() or done.returncode}")


def settle(gate: str = GATE) -> None:
    """In a run's own namespace, at the end of its cable: its address, and its way out."""
    _ip(
        f"address add {RUN}/32 dev eth0",
        "link set eth0 up",
        f"route add {gate}/32 dev eth0",
        f"route add default via {gate} dev eth0",
    )
