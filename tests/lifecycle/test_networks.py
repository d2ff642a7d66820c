"""Two workers in network namespaces of their own, as two machines have them: a run goes from one to the other.

The server is reached over a pair of virtual Ethernet devices each; the object store is a directory that both see.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from stack import Stack, StackMaker, eventually

from torpor.worker import namespaces

pytestmark = pytest.mark.criu


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def networks() -> Iterator[list[tuple[str, str]]]:
    """Names of two namespaces, and the address that each has for the machine outside."""
    reason = None
    if not namespaces.may_unshare():
        reason = "network namespaces need root"
    elif shutil.which("ip") is None:
        reason = "network namespaces need `ip` (iproute2)"
    if reason is not None:
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    made: list[tuple[str, str]] = []
    number = os.getpid() % 200
    try:
        for place in (1, 2):
            name, outside, inside = f"torpor{number}n{place}", f"tp{number}o{place}", f"tp{number}i{place}"
            network = f"10.{200 + place}.{number}"
            ip("netns", "add", name)
            made.append((name, f"{network}.1"))
            ip("link", "add", outside, "type", "veth", "peer", "name", inside, "netns", name)
            ip("address", "add", f"{network}.1/30", "dev", outside)
            ip("link", "set", outside, "up")
            ip("-n", name, "address", "add", f"{network}.2/30", "dev", inside)
            ip("-n", name, "link", "set", inside, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield made
    finally:
        for name, _ in made:
            subprocess.run(["ip", "netns", "delete", name], check=False)


def test_a_run_moves_between_machines_with_networks_of_their_own(
    make_stack: StackMaker, tmp_path: Path, networks: list[tuple[str, str]]
) -> None:
    settings = {"TORPOR_OBJECT_STORE": f"file://{tmp_path}/objects"}
    server = make_stack(TORPOR_HOST="0.0.0.0", **settings)
    server.start_server()
    workers: list[Stack] = []
    for number, (name, outside) in enumerate(networks):
        url = f"http://{outside}:{server.port}"
        worker = server.beside(tmp_path / f"worker{number}", TORPOR_API_URL=url, TORPOR_DRAIN_S="40", **settings)
        worker.within = ("ip", "netns", "exec", name)
        workers.append(worker)
    one, other = workers
    try:
        one.start_worker()
        token = server.client.create_token()["id"]
        moved = server.trigger("counts_on", {"journal": str(server.journal()), "token_id": token})
        waits = server.trigger("waits_for_token", {"journal": str(server.journal("waits")), "token_id": token})
        eventually(lambda: len(server.lines()) > 2, what="it works")
        server.await_event(waits, "run.suspended")
        other.start_worker()
        one.stop_worker()
        seen = len(server.lines())
        eventually(
            lambda: len(server.lines()) > seen + 2,
            what="it works on elsewhere",
            told=lambda: "\n".join([server.how_it_stands(moved), one.worker_log(), other.worker_log()]),
        )
        server.client.complete_token(token, "the answer")
        server.journal("journal.go").touch()
        total, answer = server.output(moved)
        assert answer == "the answer"
        assert server.lines() == [str(number) for number in range(2, total + 1, 2)]
        assert server.output(waits) == "the answer"
        assert server.lines("waits") == ["before", "after"]
    finally:
        for worker in workers:
            if worker._worker is not None and worker._worker.poll() is None:
                worker.stop_worker()
