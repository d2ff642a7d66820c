"""OpenID providers: a real one, in node, and one that says whatever a test has it say."""

import asyncio
import base64
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from time import time
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm
from npm_packages import NPM, installed

CLIENT, SECRET = "torpor", "the client's secret: & %"


@asynccontextmanager
async def real_provider(
    directory: Path, people: dict[str, Any]
) -> AsyncIterator[tuple[str, Callable[[str], Awaitable[None]]]]:
    """Its issuer, and what begins it: it is told where its client takes people back to. Anybody of them signs in there by the
    name, with any password."""
    shutil.copy(NPM / "openid_provider.mjs", directory)
    (directory / "node_modules").symlink_to(installed("openid"))
    process = await asyncio.create_subprocess_exec(
        *("node", "openid_provider.mjs"),
        cwd=directory,
        env={"PATH": os.environ["PATH"], "PEOPLE": json.dumps(people)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdin
    assert process.stdout
    stdin, stdout = process.stdin, process.stdout

    async def line(beginning: str) -> str:
        while not (line := (await stdout.readline()).decode().strip()).startswith(beginning):
            assert line, "it did not come up"
        return line

    async def begin(redirect_url: str) -> None:
        client = {"client_id": CLIENT, "client_secret": SECRET, "redirect_uris": [redirect_url]}
        stdin.write(json.dumps(client).encode() + b"\n")
        await line("ready")

    try:
        yield await line("http"), begin
    finally:
        stdin.close()
        await process.wait()


class Liar:
    """One that says what it is told to, by real HTTP."""

    def __init__(self) -> None:
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.says: dict[str, Any] = {}
        self.came: dict[str, str] = {}
        liar = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(liar.says.get(self.path))

            def do_POST(self) -> None:
                text = self.rfile.read(int(self.headers["content-length"])).decode()
                liar.came = dict(parse_qsl(text)) | {"authorization": self.headers.get("authorization", "")}
                self._answer(liar.says.get(self.path))

            def _answer(self, said: Any) -> None:
                body = json.dumps(said).encode()
                self.send_response(200 if said is not None else 404)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.issuer = f"http://127.0.0.1:{self._server.server_port}"
        public = json.loads(RSAAlgorithm.to_jwk(self.key.public_key()))
        self.says |= {
            "/.well-known/openid-configuration": {
                "issuer": self.issuer,
                "authorization_endpoint": f"{self.issuer}/auth",
                "token_endpoint": f"{self.issuer}/token",
                "jwks_uri": f"{self.issuer}/keys",
            },
            "/keys": {"keys": [public | {"kid": "one", "use": "sig"}, public | {"kid": "sealing", "use": "enc"}]},
        }

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def claims(self, nonce: str) -> dict[str, Any]:
        """Those of somebody who may enter."""
        now = int(time())
        who = {"sub": "7", "email": "Ada@Example.com", "email_verified": True}
        return {"iss": self.issuer, "aud": CLIENT, "iat": now, "exp": now + 300, "nonce": nonce, **who}

    def signed(self, claims: dict[str, Any], key: Any = None, algorithm: str = "RS256", kid: str | None = "one") -> str:
        return jwt.encode(claims, self.key if key is None else key, algorithm, {"kid": kid} if kid else None)

    def took_verifier_of(self, challenge: str) -> bool:
        digest = hashlib.sha256(self.came.get("code_verifier", "").encode()).digest()
        return base64.urlsafe_b64encode(digest).decode().rstrip("=") == challenge


def asked(url: str) -> dict[str, str]:
    """What stands in the query of an address."""
    return dict(parse_qsl(urlsplit(url).query))
