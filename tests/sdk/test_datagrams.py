"""UDP sockets around a freeze: those that are connected are let go, and connected again."""

import socket
import sys
from collections.abc import Iterator

import pytest

from torpor.sdk import datagrams

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only on Linux is anything frozen")


@pytest.fixture
def own_address() -> str:
    """An address of this machine that is not its loopback's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent
        except OSError:
            pytest.skip("this machine has no network")
        return probe.getsockname()[0]


@pytest.fixture
def server(own_address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((own_address, 0))
        server.settimeout(60)
        yield server


def test_a_connected_socket_has_no_address_while_it_is_let_go_and_its_old_port_afterwards(
    server: socket.socket,
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(60)
        client.connect(server.getsockname())
        before = client.getsockname()
        server.sendto(b"unread", before)
        gone = datagrams.let_go({server.fileno()})
        assert [each.fd for each in gone] == [client.fileno()]
        assert client.getsockname()[0] == "0.0.0.0"
        assert datagrams.connect_again(gone) == []
        assert client.getsockname() == before
        assert client.getpeername() == server.getsockname()
        client.send(b"hello")
        assert server.recvfrom(100) == (b"hello", before)
        assert client.recv(100) == b"unread"


def test_it_is_let_go_once_though_it_has_two_descriptors(server: socket.socket) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect(server.getsockname())
        with client.dup():
            gone = datagrams.let_go(set())
            assert len(gone) == 1
            assert datagrams.connect_again(gone) == []


def test_loopback_and_what_is_not_connected_are_left_alone() -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        bound.bind(("127.0.0.1", 0))
        client.connect(bound.getsockname())
        assert datagrams.let_go(set()) == []
        assert client.getpeername() == bound.getsockname()


def test_a_peer_that_can_not_be_reached_any_more_is_told(server: socket.socket) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect(server.getsockname())
        [gone] = datagrams.let_go(set())
        unreachable = datagrams.Dissolved(gone.fd, ("255.255.255.255", 9), gone.port)  # broadcasts aren't allowed
        assert datagrams.connect_again([unreachable]) == [f"fd {gone.fd}: UDP to 255.255.255.255:9: Permission denied"]
