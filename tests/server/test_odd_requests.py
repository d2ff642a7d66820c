"""Requests that no client of ours makes: of other methods, of the wrong kinds, and such that are hardly HTTP."""

from typing import Any

import httpx2
import pytest
from fake_worker import KEY, FakeWorker

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def url(lasting_url: str) -> str:
    """One server for all: what is refused leaves nothing."""
    return lasting_url


ODD: list[tuple[str, str, dict[str, Any], int]] = [
    # What means nothing is refused, also where a default is at hand.
    ("POST", "/api/v1/tasks/echo/trigger", {"json": {"payload": 1, "options": {"payloadType": {}}}}, 400),
    ("POST", "/api/v1/tasks/echo/trigger", {"json": {"payload": 1, "options": {"tags": {}}}}, 422),
    ("POST", "/api/v1/waitpoints/tokens", {"json": {"tags": {}}}, 422),
    ("POST", "/api/v1/auth/jwt", {"json": {"claims": {"scopes": ["read:runs"], "otu": "yes"}}}, 400),
    ("POST", "/api/v1/bulk-actions", {"json": {"action": "cancel", "filter": {"to": False}}}, 400),
    ("POST", "/api/v3/batches", {"json": {"runCount": -1}}, 422),
    ("POST", "/api/v2/tasks/batch", {"content": b'{"items":[{"task":"ec\\xho"}]}'}, 400),
    ("GET", "/api/v1/timezones?excludeUtc=yes", {}, 400),
    # Python reads no number of so many digits.
    ("GET", f"/api/v1/runs?page[size]={'9' * 5000}", {}, 400),
    ("GET", f"/api/v1/queues?page={'9' * 5000}", {}, 400),
    ("GET", "/api/v1/runs/", {}, 404),
    ("GET", "/api/v1/novelties", {}, 404),
]


@pytest.mark.parametrize(("method", "path", "request_", "status"), ODD)
async def test_what_means_nothing_is_refused_in_the_one_shape(
    url: str, worker: FakeWorker, method: str, path: str, request_: dict[str, Any], status: int
) -> None:
    async with httpx2.AsyncClient(headers={"authorization": f"Bearer {KEY}"}) as http:
        response = await http.request(method, url + path, **request_)
    assert response.status_code == status, response.text
    assert isinstance(response.json()["error"], str)


async def test_a_method_that_a_path_has_not_is_told_those_it_has(url: str) -> None:
    async with httpx2.AsyncClient() as http:
        for method, path, allowed in (
            ("DELETE", "/api/v1/keys", "GET, POST"),
            ("OPTIONS", "/api/v1/schedules/sched_1", "DELETE, GET, PUT"),
            ("PATCH", "/api/v1/tasks/mail/send/trigger", "POST"),
            ("POST", "/healthz", "GET, HEAD"),
        ):
            response = await http.request(method, url + path)
            assert (response.status_code, response.headers["allow"]) == (405, allowed), path
            assert allowed in response.json()["error"]
        assert (await http.head(f"{url}/healthz")).status_code == 200
        refused = await http.head(f"{url}/api/v1/runs")
        assert (refused.status_code, refused.headers["allow"], refused.content) == (405, "GET", b"")
