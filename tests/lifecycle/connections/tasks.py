"""A project of its own, with a client that is made at import: in the zygote, whose objects are set aside."""

import socket

import httpx2

from torpor import task, wait

client = httpx2.Client()


@task
async def keeps_connections(token_id: str, port: int) -> list[object]:
    with socket.create_connection(("127.0.0.1", port)) as plain:
        before = client.get(f"http://127.0.0.1:{port}/").status_code
        await wait.for_token(token_id)
        after = client.get(f"http://127.0.0.1:{port}/").status_code
        try:
            plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
            answer = repr(plain.recv(10))
        except OSError as error:
            answer = type(error).__name__
    return [before, after, answer]
