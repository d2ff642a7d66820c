"""To reach somebody: by sockets of every kind."""

import fcntl
import http.client
import socket
import struct

from arms import World, attack, each


def _connect(family: int, address: str | tuple[str, int] | bytes, kind: int = socket.SOCK_STREAM) -> str:
    with socket.socket(family, kind) as connection:
        connection.settimeout(2)
        connection.connect(address)
        return "connected"


@attack
def speak_to_the_socket_of_another_run(world: World) -> str:
    places = [f"{place}/{name}" for place in world.others for name in ("ctl.sock", "room/ctl.sock", "tmp/own.sock")]
    return each({place: lambda p=place: _connect(socket.AF_UNIX, p) for place in places if len(place) < 100})


@attack
def speak_to_a_socket_of_the_host(world: World) -> str:
    return each({world.socket: lambda: _connect(socket.AF_UNIX, world.socket)})


@attack
def speak_to_sockets_of_the_system(world: World) -> str:
    places = (
        "/run/docker.sock",
        "/var/run/docker.sock",
        "/run/dbus/system_bus_socket",
        "/run/systemd/private",
        "/dev/log",
    )
    return each({place: lambda p=place: _connect(socket.AF_UNIX, p) for place in places})


@attack
def speak_to_an_abstract_socket_of_the_host(world: World) -> str:
    return each({world.abstract: lambda: _connect(socket.AF_UNIX, "\0" + world.abstract)})


@attack
def speak_to_a_port_of_the_host(world: World) -> str:
    return each({str(world.port): lambda: _connect(socket.AF_INET, ("127.0.0.1", world.port))})


@attack
def ask_the_server_as_a_worker(world: World) -> str:
    """Without a token there is nothing to be had of it, where it can be reached at all."""

    def ask() -> str:
        connection = http.client.HTTPConnection("127.0.0.1", world.api_port, timeout=60)
        connection.request("POST", "/worker/v1/dequeue", b"{}", {"content-type": "application/json"})
        return f"HTTP {connection.getresponse().status}"

    return each({"dequeue": ask})


@attack
def send_raw_packets(world: World) -> str:
    def raw(family: int, protocol: int) -> None:
        socket.socket(family, socket.SOCK_RAW, protocol).close()

    return each(
        {
            "ipv4": lambda: raw(socket.AF_INET, socket.IPPROTO_TCP),
            "ipv6": lambda: raw(socket.AF_INET6, socket.IPPROTO_TCP),
        }
    )


@attack
def read_all_packets(world: World) -> str:
    return each({"packet": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3).close()})


@attack
def open_other_families(world: World) -> str:
    families = {"alg": 38, "vsock": 40, "xdp": 44, "bluetooth": 31, "can": 29, "key": 15, "rds": 21, "tipc": 30}
    return each(
        {name: lambda f=family: socket.socket(f, socket.SOCK_SEQPACKET).close() for name, family in families.items()}
    )


@attack
def speak_to_other_parts_of_the_kernel(world: World) -> str:
    names = {"netfilter": 12, "generic": 16, "audit": 9, "uevent": 15, "crypto": 21, "sock_diag": 4}
    return each(
        {name: lambda p=protocol: socket.socket(16, socket.SOCK_RAW, p).close() for name, protocol in names.items()}
    )


@attack
def change_the_network(world: World) -> str:
    """The loopback device gets the flags that it has."""

    def change() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            flags = fcntl.ioctl(any_socket, 0x8913, struct.pack("16sH14x", b"lo", 0))  # SIOCGIFFLAGS
            fcntl.ioctl(any_socket, 0x8914, flags)  # SIOCSIFFLAGS

    return each({"ioctl": change})


@attack
def listen_on_a_port_of_the_system(world: World) -> str:
    def listen() -> None:
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 81))

    return each({"81": listen})
