"""The examples of web applications, started as their READMEs say, drive the shop's task."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from stack import eventually

from ports import kept_port
from torpor.cli.project import DevState

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

pytestmark = [pytest.mark.criu, pytest.mark.timeout(400)]


@contextmanager
def serving(shop: DevState, *command: str, port: int) -> Iterator[httpx2.Client]:
    """A client of the application that this command starts."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(EXAMPLES / "shop")}
    environment |= {"TORPOR_API_URL": shop.url, "TORPOR_SECRET_KEY": shop.secret_key}
    with (
        subprocess.Popen([sys.executable, *command], env=environment, start_new_session=True) as application,
        httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http,
    ):
        try:
            eventually(lambda: status(http, "/orders/0") == 404, what="the application answers")
            yield http
        finally:
            application.terminate()


def status(http: httpx2.Client, path: str) -> int:
    try:
        return http.get(path).status_code
    except httpx2.TransportError:
        return 0


def order_and_answer(http: httpx2.Client, number: int) -> dict[str, Any]:
    """Place it, twice; answer when it asks; what has come of it."""
    placed = [http.post(f"/orders/{number}", params={"item": "lamp", "count": 2}) for _ in range(2)]
    assert [each.status_code for each in placed] == [202, 202]
    assert placed[0].json() == placed[1].json(), "the same order is one run"
    eventually(lambda: http.post(f"/orders/{number}/answer", params={"yes": "true"}).status_code == 200, what="it asks")
    return eventually(lambda: ended(http, number), what="the order is done")


def ended(http: httpx2.Client, number: int) -> dict[str, Any] | None:
    order = http.get(f"/orders/{number}").json()
    return order if order["status"] == "COMPLETED" else None


RECEIPT = {"item": "lamp", "price": 14, "shipped": True, "confirmed_by": "the web shop"}


def test_fastapi(shop: DevState) -> None:
    port = kept_port()
    command = ["-m", "uvicorn", "--app-dir", str(EXAMPLES / "from_fastapi"), "app:app", "--port", str(port)]
    with serving(shop, *command, port=port) as http:
        assert order_and_answer(http, 1) == {"status": "COMPLETED", "receipt": RECEIPT}
        told = http.get("/orders/1/live").text.split("\n\n")
        assert told[-1] == ""
        assert '"status": "COMPLETED"' in told[-2]


def test_django(shop: DevState) -> None:
    port = kept_port()
    command = [str(EXAMPLES / "from_django" / "app.py"), "runserver", "--noreload", str(port)]
    with serving(shop, *command, port=port) as http:
        assert order_and_answer(http, 2) == {"status": "COMPLETED", "receipt": RECEIPT}
