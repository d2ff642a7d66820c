"""The servers that programs are clients of: HTTP, web sockets, gRPC, S3, Postgres, Redis, and echoes by TLS, TCP, UDP, unix.

They run outside of all runs, in a process of their own, on one address that every worker reaches:

    python servers.py ADDRESS DIRECTORY REDIS POSTGRES_SOCKET

It writes `addresses.json` to DIRECTORY when all of them answer, and ends when its standard input does.
"""

import asyncio
import contextlib
import json
import logging
import os
import ssl
import stat
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import grpc
import trustme
from hypercorn.asyncio import serve
from hypercorn.config import Config
from moto.server import ThreadedMotoServer
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as serve_websockets

Message = MutableMapping[str, Any]


async def main(address: str, directory: Path, redis: str, postgres: str) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(directory / "authority.pem")
    certificate = authority.issue_cert(address, "neighbour.test")
    certificate.private_key_and_cert_chain_pem.write_to_path(directory / "server.pem")
    stop = asyncio.Event()
    web = asyncio.create_task(_web(address, directory, stop))
    sockets = await serve_websockets(_echo_messages, address, 0)
    tls = await asyncio.start_server(_echo, address, 0, ssl=_tls(directory))
    tcp = await asyncio.start_server(_echo, address, 0)
    udp, _ = await asyncio.get_running_loop().create_datagram_endpoint(_EchoDatagrams, (address, 0))
    await asyncio.start_unix_server(_echo, directory / "echo.sock")
    (directory / "echo.sock").chmod(0o777)
    calls, calls_port = await _grpc(address)
    database = await asyncio.start_server(_to_unix(postgres), address, 0)
    store = ThreadedMotoServer(ip_address=address, port=0, verbose=False)
    store.start()
    keys, keys_port = await _redis(redis, address, directory)

    def port(of: Any) -> int:
        return of.sockets[0].getsockname()[1]

    addresses = {
        **await _web_addresses(directory, address),
        "authority": str(directory / "authority.pem"),
        "websocket": f"ws://{address}:{port(sockets)}",
        "tls": f"{address}:{port(tls)}",
        "unix": str(directory / "echo.sock"),
        "device": _fuse(directory),
        "tcp": f"{address}:{port(tcp)}",
        "udp": f"{address}:{udp.get_extra_info('sockname')[1]}",
        "grpc": f"{address}:{calls_port}",
        "s3": f"http://{address}:{store.get_host_and_port()[1]}",
        "postgres": f"postgresql://torpor@{address}:{port(database)}/torpor?sslmode=disable",
        "redis": f"redis://{address}:{keys_port}/0",
    }
    draft = directory / "addresses.json.draft"
    draft.write_text(json.dumps(addresses))
    draft.rename(directory / "addresses.json")
    await asyncio.to_thread(sys.stdin.buffer.read)
    stop.set()
    keys.terminate()
    store.stop()
    await calls.stop(None)
    await web
    await keys.wait()


# -- HTTP -------------------------------------------------------------------------------------------------------------


async def _answer(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    """Says what it was asked, by which version of HTTP, on which connection: the client's port."""
    if scope["type"] != "http":
        return
    told = {"path": scope["path"], "http": scope["http_version"], "port": scope["client"][1]}
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": json.dumps(told).encode()})


WEB_PORTS = "web-ports.json"


async def _web(address: str, directory: Path, stop: asyncio.Event) -> None:
    config = Config()
    config.insecure_bind = [f"{address}:{_free_port(address)}"]
    config.bind = [f"{address}:{_free_port(address)}"]
    config.certfile = config.keyfile = str(directory / "server.pem")
    config.keep_alive_timeout = 600
    config.errorlog = logging.getLogger("web")
    (directory / WEB_PORTS).write_text(json.dumps({"http": config.insecure_bind[0], "https": config.bind[0]}))
    await serve(_answer, config, shutdown_trigger=stop.wait)  # pyright: ignore[reportArgumentType]


async def _web_addresses(directory: Path, address: str) -> dict[str, str]:
    places: dict[str, str] = json.loads((directory / WEB_PORTS).read_text())
    for place in places.values():
        await _until_it_listens(address, int(place.rpartition(":")[2]))
    return {kind: f"{kind}://{place}" for kind, place in places.items()}


# -- the others -------------------------------------------------------------------------------------------------------


def _fuse(directory: Path) -> str:
    """A device that everybody may open."""
    device = directory / "fuse"
    os.mknod(device, stat.S_IFCHR, os.stat("/dev/fuse").st_rdev)
    device.chmod(0o666)
    return str(device)


def _tls(directory: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "server.pem")
    return context


async def _echo_messages(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):  # a client that was frozen is simply gone
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


class _EchoDatagrams(asyncio.DatagramProtocol):
    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._transport.sendto(data, addr)


async def _grpc(address: str) -> tuple[grpc.aio.Server, int]:
    async def echo(request: bytes, _: Any) -> bytes:
        return request

    server = grpc.aio.server()
    handler = grpc.method_handlers_generic_handler("Echo", {"Echo": grpc.unary_unary_rpc_method_handler(echo)})
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port(f"{address}:0")
    await server.start()
    return server, port


def _to_unix(path: str) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    """Pass a TCP connection on to a unix socket: the tests' Postgres listens on nothing else."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_unix_connection(path)
        await asyncio.gather(_pass_on(reader, inner_writer), _pass_on(inner_reader, writer))

    return serve


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


async def _redis(program: str, address: str, directory: Path) -> tuple[asyncio.subprocess.Process, int]:
    port = _free_port(address)
    arguments = [
        "--bind",
        address,
        "--port",
        str(port),
        "--save",
        "",
        "--protected-mode",
        "no",
        "--dir",
        str(directory),
    ]
    process = await asyncio.create_subprocess_exec(program, *arguments, stdout=asyncio.subprocess.DEVNULL)
    await _until_it_listens(address, port)
    return process, port


async def _until_it_listens(address: str, port: int) -> None:
    while True:
        try:
            _, writer = await asyncio.open_connection(address, port)
        except OSError:
            await asyncio.sleep(0.05)
            continue
        writer.close()
        return


def _free_port(address: str) -> int:
    import socket

    with socket.socket() as probe:
        probe.bind((address, 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4]))
