"""What runs reach, by the kind of their network, before a freeze and after it. The internet is played by `internet.py`."""

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import internet
import pytest
from internet import PORT, Internet
from stack import Stack, StackMaker, eventually, fresh_database

from torpor.store.embedded import EmbeddedPostgres

pytestmark = pytest.mark.criu

TASKS = """
import socket
from concurrent.futures import ThreadPoolExecutor
from torpor import task, wait


def reached(host, port, patience_s):
    try:
        with socket.create_connection((host, port), timeout=patience_s) as stream:
            return stream.recv(100).decode() or "open"
    except OSError as error:
        return f"refused: {error}"


def asked(host, port, patience_s):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.settimeout(patience_s)
        try:
            datagrams.sendto(b"a question", (host, port))
            return datagrams.recv(100).decode()
        except OSError as error:
            return f"refused: {error}"


def named(name):
    try:
        return socket.gethostbyname(name)
    except OSError as error:
        return f"refused: {error}"


def abstract(name):
    with socket.socket(socket.AF_UNIX) as stream:
        try:
            stream.connect(chr(0) + name)
            return "open"
        except OSError as error:
            return f"refused: {error}"


def look(places, name, path):
    devices = sorted(device for _, device in socket.if_nameindex())
    world, talks = places[0] if places else (None, None)
    # Who could answer is waited for; not what is dropped on the way, and who waits for a question.
    patience_s = {
        host: 30 if host == world or port == talks and devices != ["eth0", "lo"] else 2 for host, port in places
    }
    with ThreadPoolExecutor(len(places) + 3) as pool:
        tcp = {host: pool.submit(reached, host, port, patience_s[host]) for host, port in places}
        udp = {host: pool.submit(asked, host, port, patience_s[host]) for host, port in places[:2]}
        found = pool.submit(named, name)
    return {
        "tcp": {host: each.result() for host, each in tcp.items()},
        "udp": {host: each.result() for host, each in udp.items()},
        "name": found.result(),
        "abstract": abstract(path),
        "devices": devices,
    }


async def looks(places, name, path, token_id):
    before = look(places, name, path)
    await wait.for_token(token_id)
    return [before, look(places, name, path)]


async def listens(token_id):
    host = socket.gethostbyname("localhost")
    with socket.create_server((host, 0)) as server, socket.create_server(("198.19.0.2" if LISTENS else host, 0)) as other:
        await wait.for_token(token_id)
        heard = []
        for each in (server, other):
            with socket.create_connection(each.getsockname(), timeout=30):
                heard.append(each.accept()[1][0])
        return heard


@task
async def looks_as_it_may(places: list[tuple[str, int]], name: str, path: str, token_id: str):
    return await looks(places, name, path, token_id)


@task(network="private")
async def looks_in_private(places: list[tuple[str, int]], name: str, path: str, token_id: str):
    return await looks(places, name, path, token_id)


@task(network="none")
async def looks_alone(places: list[tuple[str, int]], name: str, path: str, token_id: str):
    return await looks(places, name, path, token_id)


@task(network="private")
async def listens_in_private(token_id: str):
    global LISTENS
    LISTENS = True
    return await listens(token_id)


@task(network="none")
async def listens_alone(token_id: str):
    global LISTENS
    LISTENS = False
    return await listens(token_id)


@task(network="private")
async def is_connected(host: str, port: int, token_id: str):
    with socket.create_connection((host, port), timeout=30) as stream:
        heard = stream.recv(100).decode()
        await wait.for_token(token_id)
        return [heard, stream.recv(100).decode()]
"""
TASK_OF = {"host": "looks_as_it_may", "private": "looks_in_private", "none": "looks_alone"}


@pytest.fixture(scope="module")
def world() -> Iterator[Internet]:
    internet.need_private_networks()
    made = Internet()
    yield made
    made.close()


@pytest.fixture(scope="module")
def abstract() -> Iterator[str]:
    """The name of an abstract unix socket of the machine."""
    name = f"torpor-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0" + name)
        listener.listen()
        yield name


def asks_the_world_for_names(stack: Stack, world: Internet) -> Stack:
    """A stack whose machine has a resolver in the internet."""
    names = stack.directory / "resolv.conf"
    names.write_text(f"nameserver {world.neighbour}\noptions timeout:20 attempts:1\n")
    command = 'mount --make-rprivate / && mount --bind "$0" /etc/resolv.conf && exec "$@"'
    stack.within = ("unshare", "--mount", "sh", "-c", command, str(names))
    return stack


def project(directory: Path) -> Path:
    directory.mkdir()
    (directory / "tasks.py").write_text(TASKS)
    return directory


@pytest.fixture(scope="module")
def shared(postgres: EmbeddedPostgres, world: Internet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack that isolates its runs, and listens on all addresses of the machine."""
    place = tmp_path_factory.mktemp("networks")
    settings = {"TORPOR_ISOLATION": "auto", "TORPOR_HOST": "0.0.0.0"}
    stack = Stack(place / "stack", fresh_database(postgres, "networks"), project(place / "project"), **settings)
    asks_the_world_for_names(stack, world).start()
    yield stack
    stack.stop()


def places(stack: Stack, world: Internet) -> list[tuple[str, int]]:
    """The world and a neighbour; then Torpor's server by two addresses, its database, and metadata of a cloud."""
    database = urlsplit(stack.database_url)
    return [
        (world.world, PORT),
        (world.neighbour, PORT),
        ("127.0.0.1", stack.port),
        ("127.0.0.2", database.port or stack.port),
        (world.machine, stack.port),
        (world.metadata, PORT),
    ]


def seen(stack: Stack, world: Internet, task: str, name: str) -> tuple[dict[str, Any], dict[str, Any], str]:
    """What a run of that task sees before a freeze and after it."""
    token = stack.client.create_token()["id"]
    run_id = stack.trigger(
        task, {"places": places(stack, world), "name": "torpor.test", "path": name, "token_id": token}
    )
    stack.await_event(run_id, "run.suspended")
    stack.client.complete_token(token)
    before, after = stack.output(run_id)
    return before, after, run_id


@pytest.mark.parametrize("kind", ["host", "private", "none"])
def test_a_run_reaches_what_its_kind_of_network_does_before_and_after_a_freeze(
    kind: str, shared: Stack, world: Internet, abstract: str
) -> None:
    before, after, run_id = seen(shared, world, TASK_OF[kind], abstract)
    for looked in (before, after):
        tcp, udp = looked["tcp"], looked["udp"]
        assert tcp[world.world].startswith("hello" if kind != "none" else "refused"), tcp
        assert udp[world.world].startswith("hello" if kind != "none" else "refused"), udp
        assert (looked["name"] == world.world) is (kind != "none"), looked["name"]
        everything = "hello" if kind == "host" else "refused"
        for host in (world.neighbour, world.metadata):
            assert tcp[host].startswith(everything), tcp
        assert udp[world.neighbour].startswith(everything)
        assert (looked["abstract"] == "open") is (kind == "host")
        if kind != "host":
            assert {tcp[host].partition(":")[0] for host in ("127.0.0.1", "127.0.0.2", world.machine)} == {"refused"}
            assert looked["devices"] == (["eth0", "lo"] if kind == "private" else ["lo"])
    assert shared.events(run_id, "run.started")[0]["network"] == kind
    assert shared.events(run_id, "run.resumed")[0]["network"] == kind


@pytest.mark.parametrize(("task", "address"), [("listens_in_private", "198.19.0.2"), ("listens_alone", "127.0.0.1")])
def test_what_listens_goes_on_listening(task: str, address: str, shared: Stack) -> None:
    token = shared.client.create_token()["id"]
    run_id = shared.trigger(task, token)
    shared.await_event(run_id, "run.suspended")
    shared.client.complete_token(token)
    assert shared.output(run_id) == ["127.0.0.1", address]


def test_a_connection_into_the_world_ends_at_a_freeze_at_both_ends(shared: Stack, world: Internet) -> None:
    token = shared.client.create_token()["id"]
    world.heard.clear()
    run_id = shared.trigger("is_connected", {"host": world.world, "port": PORT, "token_id": token})
    shared.await_event(run_id, "run.suspended")
    eventually(lambda: (world.machine, b"") in world.heard, what="the world hears that it is over")
    shared.client.complete_token(token)
    assert shared.output(run_id) == [f"hello from {world.machine}", ""]


def test_a_killed_worker_leaves_nothing_of_its_networks(shared: Stack, world: Internet) -> None:
    before = devices()
    token = shared.client.create_token()["id"]
    for task in ("looks_in_private", "looks_alone"):
        payload = {"places": [], "name": "torpor.test", "path": "nobody", "token_id": token}
        shared.await_event(shared.trigger(task, payload), "run.started")
    pids = shared.worker_pids()
    commands: dict[int, str] = {}
    networks: set[str] = set()
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError):  # a short command of its own that has just ended
            commands[pid] = Path(f"/proc/{pid}/comm").read_text().strip()
            networks.add(os.readlink(f"/proc/{pid}/ns/net"))
    networks.discard(os.readlink("/proc/self/ns/net"))
    assert any(command.startswith("pas") for command in commands.values()), commands
    assert networks
    shared.kill_worker()
    eventually(lambda: not any(shared.alive(pid) for pid in pids), what="all of its processes are gone")
    eventually(lambda: not networks & everybodys_networks(), what="nobody holds its networks")
    assert devices() == before


def test_a_run_keeps_its_network_on_another_machine(
    make_stack: StackMaker, world: Internet, abstract: str, tmp_path: Path
) -> None:
    settings = {"TORPOR_OBJECT_STORE": f"file://{tmp_path}/objects", "TORPOR_ISOLATION": "auto"}
    one = make_stack(project(tmp_path / "project"), **settings, TORPOR_NETWORK="private")
    asks_the_world_for_names(one, world).start()
    token = one.client.create_token()["id"]
    payload = {"places": places(one, world), "name": "torpor.test", "path": abstract, "token_id": token}
    run_id = one.trigger("looks_as_it_may", payload)
    one.await_event(run_id, "run.suspended")
    one.stop_worker()
    other = one.beside(tmp_path / "other", TORPOR_NETWORK="host")
    other.start_worker()
    try:
        one.client.complete_token(token)
        before, after = one.output(run_id)
        assert before["devices"] == after["devices"] == ["eth0", "lo"]
        assert after["tcp"][world.world].startswith("hello")
        assert after["tcp"][world.neighbour].startswith("refused")
        assert [each["network"] for each in one.events(run_id, "run.resumed")] == ["private"]
    finally:
        other.stop_worker()


def test_the_strictest_of_worker_project_and_task_wins(make_stack: StackMaker, world: Internet, tmp_path: Path) -> None:
    root = project(tmp_path / "project")
    (root / "pyproject.toml").write_text('[tool.torpor]\nnetwork = "private"\n')
    stack = make_stack(root, TORPOR_ISOLATION="auto", TORPOR_NETWORK="host")
    asks_the_world_for_names(stack, world).start()
    for task, kind, devices in (("looks_as_it_may", "private", ["eth0", "lo"]), ("looks_alone", "none", ["lo"])):
        before, after, run_id = seen(stack, world, task, "nobody")
        assert before["devices"] == after["devices"] == devices
        assert stack.events(run_id, "run.started")[0]["network"] == kind


def test_foreign_code_never_has_the_worker_s_own_network(
    make_stack: StackMaker, world: Internet, tmp_path: Path
) -> None:
    """Its runs are thawed, each into a network of its own."""
    stack = make_stack(
        project(tmp_path / "project"), TORPOR_TRUST="foreign", TORPOR_ISOLATION="auto", TORPOR_NETWORK="host"
    )
    asks_the_world_for_names(stack, world).start()
    before, after, run_id = seen(stack, world, "looks_as_it_may", "nobody")
    for looked in (before, after):
        assert looked["devices"] == ["eth0", "lo"]
        assert looked["tcp"][world.world].startswith("hello")
        assert looked["tcp"]["127.0.0.1"].startswith("refused")
    assert stack.events(run_id, "run.started")[0]["network"] == "private"


def test_a_worker_without_rooms_hands_back_what_asks_for_less(make_stack: StackMaker, tmp_path: Path) -> None:
    stack = make_stack(project(tmp_path / "project"), TORPOR_ISOLATION="off")
    stack.start()
    token = stack.client.create_token()["id"]
    payload = {"places": [], "name": "torpor.test", "path": "nobody", "token_id": token}
    refused = stack.trigger("looks_alone", payload)
    stack.await_event(refused, "run.refused")
    reason = stack.events(refused, "run.refused")[0]["reason"]
    assert "TORPOR_ISOLATION" in reason
    assert "'none'" in reason
    assert stack.await_end(refused)["status"] == "SYSTEM_FAILURE"
    assert "run.started" not in stack.kinds(refused)
    performed = stack.trigger("looks_as_it_may", payload)
    stack.await_event(performed, "run.started")
    assert stack.events(performed, "run.started")[0]["network"] == "host"


def devices() -> set[str]:
    """Those of this machine, but for the cables of tests."""
    return {name for _, name in socket.if_nameindex() if not name.startswith("t")}


def everybodys_networks() -> set[str]:
    """The network namespaces that any process lives in or holds open."""
    found: set[str] = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            for link in [entry / "ns/net", *_descriptors(entry)]:
                try:
                    found.add(os.readlink(link))
                except OSError:
                    continue  # it has just ended
    return {each for each in found if each.startswith("net:")}


def _descriptors(entry: Path) -> list[Path]:
    try:
        return list((entry / "fd").iterdir())
    except OSError:
        return []
