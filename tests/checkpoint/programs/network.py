"""Sockets, where they are not a library's business."""

import contextlib
import socket
import ssl

from freezing import Outside, freeze, program


def place(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def call(address: tuple[str, int]) -> socket.socket:
    return socket.create_connection(address, 60)


@program
async def listening_socket() -> None:
    """It keeps its port and its options, and takes callers again."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=7, reuse_port=False)
    listening.settimeout(60)
    address = listening.getsockname()
    for n in range(3):
        with call(address) as caller:
            caller.sendall(b"hello")
            peer, _ = listening.accept()
            with peer:
                assert peer.recv(100) == b"hello"
        if n < 2:
            await freeze()
        assert listening.getsockname() == address
        assert listening.gettimeout() == 60


@program
async def unix_sockets() -> None:
    """A pair with something under way, and a listener in the working directory with a caller of its own."""
    left, right = socket.socketpair()
    left.sendall(b"queued")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind("here.sock")
    listening.listen()
    caller = socket.socket(socket.AF_UNIX)
    caller.connect("here.sock")
    peer, _ = listening.accept()
    for _ in range(2):
        await freeze()
        caller.sendall(b"ping")
        assert peer.recv(100) == b"ping"
    assert right.recv(100) == b"queued"
    with socket.socket(socket.AF_UNIX) as another:
        another.connect("here.sock")
        listening.accept()[0].close()


@program
async def udp_socket(outside: Outside) -> None:
    """Connected to a server elsewhere, and bound to a port of its own with a datagram in its queue."""
    connected = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    connected.settimeout(60)
    connected.connect(place(outside["udp"]))
    bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    bound.bind(("127.0.0.1", 0))
    bound.settimeout(60)
    address = bound.getsockname()
    for n in range(3):
        connected.send(b"%d" % n)
        assert connected.recv(100) == b"%d" % n
        if n < 2:
            await freeze()
        assert bound.getsockname() == address
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"note", address)
        assert bound.recv(100) == b"note"


@program
async def tcp_connection_is_over(outside: Outside) -> None:
    """What a freeze does to a connection: it is at its end, as if the server had hung up. A new one works."""
    for _ in range(2):
        with call(place(outside["tcp"])) as connection:
            connection.sendall(b"before")
            assert connection.recv(100) == b"before"
            await freeze()
            try:
                assert connection.recv(100) == b""
            except OSError as error:
                raise AssertionError(f"reading: {error!r}") from error
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(b"after")
                raise AssertionError("writing works")


@program
async def tcp_pair_inside_the_run() -> None:
    """Both ends are the run's own, and the listener is still there: the connection is over, the next one works."""
    listening = socket.create_server(("127.0.0.1", 0))
    for _ in range(2):
        caller = call(listening.getsockname())
        peer, _ = listening.accept()
        caller.sendall(b"hello")
        assert peer.recv(100) == b"hello"
        caller.sendall(b"never read")
        await freeze()
        for end in (caller, peer):
            end.settimeout(5)
            with contextlib.suppress(OSError):
                assert end.recv(100) == b""
            end.close()
    with call(listening.getsockname()) as caller:
        peer, _ = listening.accept()
        caller.sendall(b"hello")
        assert peer.recv(100) == b"hello"


@program
async def tls_session(outside: Outside) -> None:
    """Context, verified certificates and the session's ticket are kept: the next connection resumes the session."""
    context = ssl.create_default_context(cafile=outside["authority"])
    host, port = place(outside["tls"])

    def connect(session: ssl.SSLSession | None) -> ssl.SSLSocket:
        secured = context.wrap_socket(call((host, port)), server_hostname=host, session=session)
        secured.sendall(b"hello")
        assert secured.recv(100) == b"hello"
        return secured

    connection = connect(None)
    for _ in range(2):
        session = connection.session
        await freeze()
        connection.close()
        connection = connect(session)
        assert connection.session_reused
        assert connection.version() == "TLSv1.3"
    connection.close()


@program
async def tls_without_a_socket() -> None:
    """OpenSSL's state in the middle of a session: both ends are here, so the session goes on."""
    import trustme

    authority = trustme.CA()
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("here.test").configure_cert(server_context)
    client_context = ssl.create_default_context()
    authority.configure_trust(client_context)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(back, there, server_hostname="here.test")
    server = server_context.wrap_bio(there, back, server_side=True)
    done = 0
    while done < 2:
        done = 0
        for end in (client, server):
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
                done += 1
    for n in range(3):
        client.write(b"message %d" % n)
        if n < 2:
            await freeze()
        assert server.read(100) == b"message %d" % n
        server.write(b"reply")
        assert client.read(100) == b"reply"
