"""What runs reach, by the kind of their network. The internet is played by a network of the test's own."""

import asyncio
import os
import re
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Network
from pathlib import Path
from typing import TypeVar

import internet
import pytest
from internet import PORT, Internet

from torpor.wire.networks import KINDS, strictest
from torpor.worker import namespaces, router
from torpor.worker.network import Network, Networks, NoNetwork, resolv_conf

T = TypeVar("T")
pytestmark = pytest.mark.anyio

SO_BINDTODEVICE = 25
IP_FREEBIND = 15
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def world() -> Iterator[Internet]:
    internet.need_private_networks()
    made = Internet()
    yield made
    made.close()


@pytest.fixture
async def networks() -> AsyncIterator[Networks]:
    internet.need_private_networks()
    before = left_over()
    made = Networks()
    yield made
    await made.stop()
    assert left_over() == before


def left_over() -> tuple[list[str], list[int], list[str]]:
    """What networks could leave behind: devices, programs that were started for them, and mounts."""
    names = sorted(name for _, name in socket.if_nameindex() if not name.startswith("tp"))
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return names, sorted(ways_out()), [each for each in mounts if each == str(router._PINNED)]


def ways_out() -> list[int]:
    """Those that this process has started."""
    children = "".join(each.read_text() for each in Path("/proc/self/task").glob("*/children"))
    return [pid for pid in map(int, children.split()) if _is_pasta(pid)]


def _is_pasta(pid: int) -> bool:
    return Path(f"/proc/{pid}/comm").read_text().startswith(("pasta", "passt"))


async def inside(network: Network | None, act: Callable[[], T]) -> T:
    """What a program in that network gets."""

    def enter_and_act() -> T:
        assert network is not None
        network.enter()
        return act()

    with ThreadPoolExecutor(max_workers=1) as thread:
        return await asyncio.get_running_loop().run_in_executor(thread, enter_and_act)


def connected(host: str, port: int = PORT, *, device: bytes | None = None) -> str:
    with socket.socket() as stream:
        stream.settimeout(PATIENCE_S)  # what is refused is refused at once
        try:
            if device is not None:
                stream.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, device)
            stream.connect((host, port))
            return stream.recv(100).decode()
        except OSError as error:
            return f"refused: {error}"


def answered(host: str, port: int = PORT) -> str:
    """What the answer is, asked for until it comes: datagrams may be lost, and a busy machine takes its time."""
    end = time.monotonic() + PATIENCE_S
    while (answer := asked_once(host, port)).startswith("refused") and time.monotonic() < end:
        pass
    return answer


def asked_once(host: str, port: int = PORT, *, as_host: str | None = None) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.settimeout(0.3)
        try:
            if as_host is not None:
                datagrams.setsockopt(socket.SOL_IP, IP_FREEBIND, 1)
                datagrams.bind((as_host, 0))
            datagrams.sendto(b"a question", (host, port))
            return datagrams.recv(100).decode()
        except OSError as error:
            return f"refused: {error}"


@pytest.fixture
def services() -> Iterator[int]:
    """The port of something that listens on all addresses of this machine."""
    with socket.socket() as stream:
        stream.bind(("0.0.0.0", 0))
        stream.listen()
        stream.settimeout(0.1)
        over = threading.Event()

        def serve() -> None:
            while not over.is_set():
                try:
                    stream.accept()[0].sendall(b"the machine")
                except TimeoutError:
                    continue

        server = threading.Thread(target=serve)
        server.start()
        yield stream.getsockname()[1]
        over.set()
        server.join()


async def test_a_private_network_reaches_the_world(world: Internet, networks: Networks) -> None:
    private = await networks.take("private")
    assert await inside(private, lambda: connected(world.world)) == f"hello from {world.machine}"
    assert await inside(private, lambda: answered(world.world)) == f"hello from {world.machine}"


async def test_no_network_reaches_nothing_but_itself(world: Internet, networks: Networks) -> None:
    none = await networks.take("none")
    assert (await inside(none, lambda: connected(world.world))).startswith("refused")
    assert (await inside(none, lambda: connected("127.0.0.1", 1))) == "refused: [Errno 111] Connection refused"

    def to_itself() -> bytes:
        with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
            client.sendall(b"hello")
            return server.accept()[0].recv(10)

    assert await inside(none, to_itself) == b"hello"
    assert await inside(none, lambda: [name for _, name in socket.if_nameindex()]) == ["lo"]


@pytest.mark.parametrize("kind", ["private", "none"])
async def test_what_listens_on_the_machine_is_out_of_reach(
    kind: str, world: Internet, networks: Networks, services: int
) -> None:
    assert connected("127.0.0.1", services) == connected(world.machine, services) == "the machine"
    network = await networks.take(kind)
    for host in ("127.0.0.1", world.machine, router.GATE, router.RESOLVER, *router._own_addresses()):
        assert (await inside(network, lambda host=host: connected(host, services))).startswith("refused"), host


@pytest.mark.parametrize("whose", ["metadata", "neighbour"])
async def test_a_private_network_reaches_neither_neighbours_nor_metadata(
    whose: str, world: Internet, networks: Networks
) -> None:
    host = getattr(world, whose)
    assert connected(host).startswith("hello")
    private = await networks.take("private")
    assert await inside(private, lambda: connected(host)) == "refused: [Errno 111] Connection refused"  # at once
    assert (await inside(private, lambda: asked_once(host))).startswith("refused")


async def test_a_socket_that_is_bound_to_the_device_gets_no_further(world: Internet, networks: Networks) -> None:
    """It is sent without asking the routes, so a forbidden route would not hold it."""
    private = await networks.take("private")
    assert (await inside(private, lambda: connected(world.world, device=b"eth0"))).startswith("hello")
    for host in (world.metadata, world.neighbour, world.machine):
        assert (await inside(private, lambda host=host: connected(host, device=b"eth0"))).startswith("refused"), host


async def test_the_settings_can_open_the_way_to_neighbours(world: Internet) -> None:
    networks = Networks(
        [IPv4Network(f"{world.neighbour}/32"), IPv4Network("169.254.0.0/16"), IPv4Network(f"{world.machine}/32")]
    )
    private = await networks.take("private")
    try:
        assert (await inside(private, lambda: connected(world.neighbour))).startswith("hello")
        assert (await inside(private, lambda: connected(world.metadata))).startswith("refused"), (
            "never, whatever they say"
        )
        assert (await inside(private, lambda: connected(world.machine))).startswith("refused"), (
            "never, whatever they say"
        )
    finally:
        await networks.stop()


async def test_runs_do_not_reach_each_other(world: Internet, networks: Networks) -> None:
    one, other = await networks.take("private"), await networks.take("private")

    def listen() -> socket.socket:
        return socket.create_server(("0.0.0.0", 4321))

    with await inside(one, listen):
        assert (await inside(other, lambda: connected(router.RUN, 4321))) == "refused: [Errno 111] Connection refused"
        for place in router._PLACES[1], router._PLACES[2], router._PLACES[3]:
            assert (await inside(other, lambda place=place: connected(str(place), 4321))).startswith("refused")


async def test_a_run_can_not_speak_in_the_name_of_another(world: Internet, networks: Networks) -> None:
    one = await networks.take("private")
    await networks.take("private")
    world.heard.clear()
    for place in (str(router._PLACES[1]), str(router._PLACES[2]), "192.0.2.77"):
        assert (await inside(one, lambda place=place: asked_once(world.world, as_host=place))).startswith("refused")
    assert world.heard == []


async def test_a_run_has_no_more_than_so_many_connections_at_once(
    world: Internet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(router, "MOST_CONNECTIONS", 3)
    networks = Networks()
    one, other = await networks.take("private"), await networks.take("private")

    def connect_and_stay(patience_s: float = PATIENCE_S) -> socket.socket:
        return socket.create_connection((world.world, PORT), timeout=patience_s)

    held: list[socket.socket] = []
    try:
        for _ in range(3):
            held.append(await inside(one, connect_and_stay))
        with pytest.raises(TimeoutError):
            await inside(one, lambda: connect_and_stay(0.3))
        held.append(await inside(other, connect_and_stay))
    finally:
        for each in held:
            each.close()
        await networks.stop()


async def test_names_are_asked_of_the_machine_s_resolver(
    world: Internet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mine = tmp_path / "resolv.conf"
    mine.write_text(f"# mine\nsearch example.org\nnameserver {world.neighbour}\noptions edns0\n")
    monkeypatch.setattr(router, "_RESOLV_CONF", (mine,))
    networks = Networks()
    private = await networks.take("private")
    try:
        assert (await inside(private, lambda: answered(router.RESOLVER, 53))).startswith("hello")
        assert (await inside(private, lambda: connected(router.RESOLVER, 53))).startswith("hello")
        assert (await inside(private, lambda: asked_once(world.neighbour, 53))).startswith("refused"), (
            "it is a neighbour"
        )
        mine.write_text("nameserver 192.0.2.200\n")
        await networks.refresh()
        assert (await inside(private, lambda: asked_once(router.RESOLVER, 53))).startswith("refused"), "followed"
    finally:
        await networks.stop()


def test_a_resolver_that_listens_for_the_machine_alone_is_asked_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stub, upstream = tmp_path / "resolv.conf", tmp_path / "upstream.conf"
    monkeypatch.setattr(router, "_RESOLV_CONF", (stub, upstream))
    stub.write_text("nameserver 127.0.0.53\n")
    assert router._resolver() is None
    upstream.write_text("nameserver 2001:db8::1\nnameserver 192.0.2.53\n")
    assert router._resolver() == "192.0.2.53"
    stub.write_text("nameserver 127.0.0.1\n")
    assert router._resolver() == router.RESOLVER


def test_a_run_is_told_where_to_ask_for_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mine = tmp_path / "resolv.conf"
    mine.write_text("search example.org\nnameserver 127.0.0.53\n")
    monkeypatch.setattr("torpor.worker.network._RESOLV_CONF", mine)
    assert resolv_conf("host") == mine.read_text()
    assert resolv_conf("private") == f"nameserver {router.RESOLVER}\nsearch example.org\n"
    assert "nameserver" not in resolv_conf("none")


async def test_a_new_address_of_the_machine_is_refused_as_well(
    world: Internet, networks: Networks, services: int
) -> None:
    private = await networks.take("private")
    added = "203.0.113.77"
    os.system(f"ip address add {added}/32 dev {world.device}")
    await networks.refresh()
    assert connected(added, services) == "the machine"
    assert (await inside(private, lambda: connected(added, services))).startswith("refused")
    assert (await inside(private, lambda: connected(world.world))).startswith("hello"), "the rest is as it was"


async def test_a_way_out_that_dies_comes_back(world: Internet, networks: Networks) -> None:
    before = set(ways_out())
    private = await networks.take("private")
    (pasta,) = set(ways_out()) - before
    os.kill(pasta, signal.SIGKILL)
    async with asyncio.timeout(60):
        while not (await inside(private, lambda: connected(world.world))).startswith("hello"):
            await asyncio.sleep(0.05)


async def test_networks_are_made_ahead(networks: Networks) -> None:
    await networks.take("none")
    async with asyncio.timeout(60):
        while networks._making:
            await asyncio.sleep(0.01)
    one, other = await networks.take("none"), await networks.take("none")
    assert one is not None
    assert other is not None
    assert os.readlink(one.path) != os.readlink(other.path)


async def test_whoever_is_called_off_while_he_waits_leaves_nothing_half_made(networks: Networks) -> None:
    before = len(os.listdir("/proc/self/fd"))
    waiting = asyncio.create_task(networks.take("private"))
    await asyncio.sleep(0.02)
    waiting.cancel()
    await asyncio.wait([waiting])
    await networks.stop()
    assert len(os.listdir("/proc/self/fd")) == before


async def test_what_was_released_is_gone(networks: Networks) -> None:
    before = namespaces_held()
    taken = [await networks.take("private") for _ in range(3)] + [await networks.take("none")]
    for network in taken:
        assert network is not None
        network.release()
        network.release()  # twice is once
    await networks.stop()
    assert namespaces_held() == before


def namespaces_held() -> set[str]:
    held: set[str] = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            held.add(os.readlink(entry))
        except OSError:
            continue
    return {each for each in held if re.match(r"net:", each)}


async def test_missing_tools_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    if not namespaces.may_unshare():
        pytest.skip("needs root")
    monkeypatch.setattr(router, "_ENVIRONMENT", {"PATH": "/nowhere"})
    with pytest.raises(NoNetwork, match=r"pasta \(package passt\) and nft \(package nftables\)"):
        await Networks().take("private")


async def test_a_worker_that_is_not_root_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespaces, "may_unshare", lambda: False)
    for kind in ("private", "none"):
        with pytest.raises(NoNetwork, match="root"):
            await Networks().take(kind)
    assert await Networks().take("host") is None


@pytest.mark.parametrize(
    ("kinds", "wins"), [(KINDS, "none"), (("host", "private"), "private"), ((None, "host"), "host")]
)
def test_the_strictest_wins(kinds: tuple[str | None, ...], wins: str) -> None:
    assert strictest(*kinds) == strictest(*reversed(kinds)) == wins
