"""Approvals: what runs ask of people, listed and answered."""

from typing import Any

import httpx2
import pytest
from fake_worker import KEY, FakeWorker

from torpor.errors import NotFound
from torpor.sdk.async_client import AsyncClient
from torpor.wire.runner import NewWait

pytestmark = pytest.mark.anyio


async def ask(http: httpx2.AsyncClient, method: str, path: str, **more: Any) -> httpx2.Response:
    more.setdefault("headers", {"authorization": f"Bearer {KEY}"})
    return await http.request(method, path, **more)


async def test_an_approval_tells_what_is_asked_by_whom_and_what_was_answered(
    client: AsyncClient, worker: FakeWorker, url: str
) -> None:
    run_id = (await client.trigger("echo"))["id"]
    given = await worker.take_and_start()
    made = await client.create_token("1h", title="Pay 30 €?", context={"to": "Ada"}, tags=["money"])
    await worker.block(given, NewWait("wait_1", "token", waitpoint_id=made["id"]))
    async with httpx2.AsyncClient(base_url=url) as http:
        asked = (await ask(http, "GET", f"/api/v1/approvals/{made['id']}")).json()
        assert asked.pop("createdAt") < asked.pop("timeoutAt")
        assert asked == {
            "id": made["id"],
            "status": "WAITING",
            "title": "Pay 30 €?",
            "context": {"to": "Ada"},
            "runIds": [run_id],
            "tags": ["money"],
            "url": made["url"],
        }
        path = f"/api/v1/approvals/{made['id']}"
        answered = (await ask(http, "POST", f"{path}/approve", json={"by": "Grace", "comment": "gladly"})).json()
        assert (answered["status"], answered["by"], answered["comment"]) == ("APPROVED", "Grace", "gladly")
        assert answered["runIds"] == []
        late = (await ask(http, "POST", f"{path}/reject", json={"by": "Bob"})).json()
        assert late == answered, "the first answer wins, and the second sees it"
        assert (await ask(http, "GET", path)).json() == answered
    assert (await client.token(made["id"]))["output"] == '{"approved":true,"by":"Grace","comment":"gladly"}'


async def test_those_that_wait_come_first_on_pages_that_lead_both_ways(client: AsyncClient, url: str) -> None:
    made = [(await client.create_token(title=f"{n}?"))["id"] for n in range(6)]
    await client.create_token()  # asks nobody
    for token_id in (made[5], made[0], made[3]):
        await client.approve(token_id, approved=False)
    wanted = [made[4], made[2], made[1], made[5], made[3], made[0]]
    assert [one["id"] async for one in client.approvals(page_size=2)] == wanted
    assert [one["status"] async for one in client.approvals(page_size=4)] == ["WAITING"] * 3 + ["REJECTED"] * 3
    async with httpx2.AsyncClient(base_url=url) as http:

        async def page(**cursor: str) -> tuple[list[str], dict[str, str]]:
            body = (await ask(http, "GET", "/api/v1/approvals", params={"page[size]": "2", **cursor})).json()
            return [one["id"] for one in body["data"]], body["pagination"]

        first, cursors = await page()
        second, cursors = await page(**{"page[after]": cursors["next"]})
        last, cursors = await page(**{"page[after]": cursors["next"]})
        assert (first + second + last, list(cursors)) == (wanted, ["previous"])
        back, cursors = await page(**{"page[before]": cursors["previous"]})
        front, cursors = await page(**{"page[before]": cursors["previous"]})
        assert (back, front, list(cursors)) == (second, first, ["next"])
        assert await page(**{"page[after]": "waitpoint_unknown"}) == ([], {})


async def test_the_token_that_an_approval_comes_with_may_answer_it_and_no_other(client: AsyncClient, url: str) -> None:
    mine = await client.create_token(title="Mine?")
    other = await client.create_token(title="Another's?")
    headers = {"authorization": f"Bearer {mine['publicAccessToken']}"}
    async with httpx2.AsyncClient(base_url=url, headers=headers) as http:
        assert (await http.get(f"/api/v1/approvals/{mine['id']}")).json()["title"] == "Mine?"
        assert (await http.post(f"/api/v1/approvals/{mine['id']}/reject")).json()["status"] == "REJECTED"
        assert (await http.post(f"/api/v1/approvals/{other['id']}/approve")).status_code == 403
        assert (await http.get(f"/api/v1/approvals/{other['id']}")).status_code == 403
        assert (await http.get("/api/v1/approvals")).status_code == 401


async def test_a_value_from_elsewhere_counts_as_it_does_in_the_run(client: AsyncClient) -> None:
    for value, status in (({"approved": 1}, "REJECTED"), (True, "APPROVED"), ([], "REJECTED")):
        made = await client.create_token(title="?")
        await client.complete_token(made["id"], value)
        assert (await client.approval(made["id"]))["status"] == status, value


async def test_a_token_without_a_title_is_no_approval(client: AsyncClient) -> None:
    made = await client.create_token()
    for token_id in (made["id"], "waitpoint_unknown"):
        with pytest.raises(NotFound):
            await client.approval(token_id)
