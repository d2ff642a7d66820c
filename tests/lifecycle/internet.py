"""A network beside the machine that plays the internet: servers at addresses of the world, of neighbours, of a cloud's metadata.

It is joined to the machine by a cable; the machine's routes lead there. Servers answer `hello from <address they see>`, and
keep what they hear. Whoever asks one of them for a name is told the address of the world.
"""

import os
import shutil
import socket
import struct
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from torpor.worker import namespaces, router

PORT = 7007
_MOST = 63
_DNS_HEADER = 12


def need_private_networks() -> None:
    """Skip, or fail where it is promised that they work."""
    missing = router.missing_tools()
    reason = None
    if not namespaces.may_unshare():
        reason = "networks of their own need root"
    elif missing or shutil.which("ip") is None:
        reason = f"private networks need {' and '.join(missing)}"
    if reason is not None:
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


class Internet:
    """Made and removed once. Several may be there at once, for several tests.

    Attributes:
        world: an address of anybody.
        machine: one of the machine's own, as the world sees it.
        neighbour: one of a range that is nobody's on the internet.
        metadata: one of those at which clouds answer their machines.
        heard: whom it heard say what; with nothing, that a connection was closed.
    """

    def __init__(self) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self._inside = ThreadPoolExecutor(max_workers=1)
        self._sockets: list[socket.socket] = []
        self._inside.submit(self._make).result()
        number = self._lay_cable()
        self.machine, self.world = f"198.51.100.{4 * number + 1}", f"198.51.100.{4 * number + 2}"
        self.neighbour, self.metadata = f"10.77.{number}.9", f"169.254.{number}.254"
        try:
            _ip(f"address add {self.machine}/30 dev {self.device}", f"link set {self.device} up")
            self._inside.submit(self._furnish).result()
            _ip(*(f"route add {each}/32 via {self.world}" for each in (self.neighbour, self.metadata)))
        except BaseException:
            self.close()
            raise

    def _make(self) -> None:
        namespaces.unshare(namespaces.CLONE_NEWNET)
        self._namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY)

    def _lay_cable(self) -> int:
        """The number of the first that is free: devices have names, and the kernel sees to it that each is there once."""
        here = f"/proc/{os.getpid()}/fd/{self._namespace}"
        for number in range(_MOST):
            self.device = f"tpi{number}"
            with suppress(subprocess.CalledProcessError):
                _ip(f"link add {self.device} type veth peer name world netns {here}")
                return number
        raise AssertionError("there are too many internets")

    def _furnish(self) -> None:
        _ip(f"address add {self.world}/30 dev world", "link set world up", "link set lo up")
        _ip(f"route add default via {self.machine}")
        _ip(*(f"address add {each}/32 dev world" for each in (self.neighbour, self.metadata)))
        for host in (self.world, self.neighbour, self.metadata):  # or datagrams would be answered in another's name
            for port in (PORT, 53):
                self._serve(host, port)

    def _serve(self, host: str, port: int) -> None:
        stream, datagrams = socket.socket(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sockets += [stream, datagrams]
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for each in (stream, datagrams):
            each.bind((host, port))
        stream.listen(32)
        threading.Thread(target=self._accept, args=(stream,), daemon=True).start()
        threading.Thread(target=self._answer, args=(datagrams,), daemon=True).start()

    def _accept(self, stream: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, (host, _) = stream.accept()
                connection.sendall(f"hello from {host}".encode())
                threading.Thread(target=self._listen, args=(connection, host), daemon=True).start()

    def _listen(self, connection: socket.socket, host: str) -> None:
        """Until it is closed at the other end, which is told as empty."""
        with connection, suppress(OSError):
            while said := connection.recv(1024):
                self.heard.append((host, said))
        self.heard.append((host, b""))

    def _answer(self, datagrams: socket.socket) -> None:
        with suppress(OSError):
            while True:
                said, sender = datagrams.recvfrom(1024)
                if sender is None:  # shut down
                    return
                self.heard.append((sender[0], said))
                if len(said) > _DNS_HEADER and datagrams.getsockname()[1] == 53:
                    datagrams.sendto(self._name_is_ours(said), sender)
                else:
                    datagrams.sendto(f"hello from {sender[0]}".encode(), sender)

    def _name_is_ours(self, question: bytes) -> bytes:
        """The answer to a question for a name (RFC 1035): one address, or none if another kind of record is wanted."""
        asked = question[_DNS_HEADER : question.index(b"\0", _DNS_HEADER) + 5]  # the name, a type, a class
        wants_address = asked[-4:] == b"\0\1\0\1"
        header = question[:2] + struct.pack(">5H", 0x8180, 1, int(wants_address), 0, 0)
        record = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, 4) + socket.inet_aton(self.world)
        return header + asked + (record if wants_address else b"")

    def close(self) -> None:
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._inside.shutdown()
        os.close(self._namespace)
        subprocess.run(["ip", "link", "delete", self.device], check=False, capture_output=True)


def _ip(*commands: str) -> None:
    subprocess.run(["ip", "-batch", "-"], input="\n".join(commands), text=True, check=True, capture_output=True)
