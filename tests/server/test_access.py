"""Every route with every kind of key and token, compared with the table that says who may call what."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import httpx2
import jwt
import pytest
from fake_worker import KEY, TOKEN, FakeWorker
from starlette.responses import Response
from starlette.routing import Route

from torpor.config import Settings
from torpor.sdk.async_client import AsyncClient
from torpor.server import access
from torpor.server.access import ROUTES, Access
from torpor.server.app import create_app
from torpor.server.auth import Kind

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")]

PATH = {
    "run_id": "run_x",
    "task_id": "echo",
    "batch_id": "batch_x",
    "token_id": "waitpoint_x",
    "schedule_id": "sched_x",
    "name": "emails",
    "key": "k",
    "key_id": "apikey_x",
    "checkpoint_id": "checkpoint_x",
    "worker_id": "worker_x",
    "bulk_id": "bulk_x",
    "span_id": "0123456789abcdef",
    "project_ref": "proj_x",
    "project": "shop",
    "given_hash": "0" * 64,
    "environment_id": "env_x",
    "filename": "trigger/packet_x/payload.json",
    "path": "upload_x/payload.json",
    "field": "payload",
    "slug": "dev",
    "deployment_id": "deployment_x",
    "stream_key": "log",
    "target": "self",
    "account_id": "account_x",
    "link": "x",
    "queue_id": "queue_x",
    "fingerprint": "0123456789abcdef",
    "each task": "echo",
}
BODIES: dict[str, dict[str, Any]] = {
    "POST /api/v2/tasks/batch": {"json": {"items": [{"task": "echo"}]}},
    "POST /api/v3/batches": {"json": {"runCount": 1, "taskIdentifiers": ["echo"]}},
    "POST /api/v3/batches/{batch_id}/items": {
        "content": b'{"index": 0, "task": "echo"}\n',
        "headers": {"content-type": "application/x-ndjson"},
    },
    "GET /api/v1/runs": {"params": {"filter[taskIdentifier]": "echo"}},
    "GET /api/v1/projects/{project_ref}/runs": {"params": {"filter[taskIdentifier]": "echo"}},
}
"""For routes whose body or query names what the scopes are about."""


def test_every_route_has_a_line_and_every_line_a_route() -> None:
    app = create_app(Settings(), cast(Any, None))
    real: list[str] = []
    for route in app.router.routes:
        for each in getattr(getattr(route, "original_router", None), "routes", [route]):
            real += access.declared(each)
    assert len(real) == len(set(real))
    assert set(real) == ROUTES.keys()


def test_a_route_without_a_line_does_not_start() -> None:
    async def handler(request: object) -> Response:
        return Response()

    with pytest.raises(LookupError, match="POST /api/v1/novelties has no line"):
        access.guard(Route("/api/v1/novelties", handler, methods=["POST"]))


def test_only_what_nobody_has_to_hide_is_open_and_workers_routes_are_workers_only() -> None:
    open_to_all = {name for name, line in ROUTES.items() if Kind.NOTHING in line.takes}
    assert {name for name in open_to_all if not ROUTES[name].is_page} == {
        "GET /healthz",
        "GET /api/openapi.json",
        "GET /api/v1/timezones",
    }
    assert {name for name in open_to_all if ROUTES[name].is_page} == {
        "GET /static/{name}",
        "GET /sign-in",
        "POST /sign-in",
        "GET /sign-in/{link}",
        "POST /sign-in/{link}",
        "GET /openid",
        "GET /openid/callback",
    }
    assert {name for name, line in ROUTES.items() if Kind.SESSION in line.takes} <= {
        name for name, line in ROUTES.items() if line.is_page
    }, "a cookie comes along unasked: it opens no part of the API"
    for name, line in ROUTES.items():
        assert (line.takes == (Kind.WORKER,)) == ("/worker/" in name)
        assert (Kind.PERSONAL in line.takes) == (Kind.SCOPED in line.takes), (
            "it lacks the care of keys, and nothing else"
        )
        assert line.scopes or not {Kind.PUBLIC, Kind.ONE_TIME} & {*line.takes}, name


class Bearers:
    """A key or token of every kind, made for a route."""

    def __init__(self, client: AsyncClient, environment_id: str) -> None:
        self._client = client
        self._environment_id = environment_id
        self._scoped: dict[str, str] = {}
        self.dead: dict[str, str] = {}
        self.personal = ""
        self.of_workers = ""

    async def for_route(self, line: Access) -> dict[str, tuple[str | None, Kind, bool]]:
        """Name -> (what is sent, its kind, whether its scopes are right). NOTHING stands for what opens nothing at all."""
        right = right_scope(line)
        signed = self.signed
        return {
            "no header": (None, Kind.NOTHING, False),
            "a garbled key": ("tr_dev_" + "x" * 24, Kind.NOTHING, False),
            "a garbled scoped key": ("tr_dev_sk_" + "x" * 24, Kind.NOTHING, False),
            "a garbled personal token": ("tr_pat_" + "x" * 40, Kind.NOTHING, False),
            "a garbled token": ("e30.e30." + "x" * 43, Kind.NOTHING, False),
            "a secret key": (KEY, Kind.SECRET, True),
            "a revoked secret key": (self.dead["revoked"], Kind.NOTHING, False),
            "a secret key that has run out": (self.dead["expired"], Kind.NOTHING, False),
            "a personal token": (self.personal, Kind.PERSONAL, True),
            "a revoked personal token": (self.dead["revoked personal"], Kind.NOTHING, False),
            "a scoped key": (await self.scoped(right), Kind.SCOPED, True),
            "a scoped key for something else": (await self.scoped("read:novelties"), Kind.SCOPED, not line.scopes),
            "a scoped key for another one": (await self.scoped(right + "_other"), Kind.SCOPED, not line.scopes),
            "a public token": (signed([right]), Kind.PUBLIC, True),
            "a public token by the server": (
                await self._client.create_public_token([right]),
                Kind.PUBLIC,
                True,
            ),
            "a public token for something else": (signed(["read:novelties"]), Kind.PUBLIC, False),
            "a public token for nothing": (signed([]), Kind.PUBLIC, False),
            "a public token that has run out": (signed([right], exp=-1), Kind.NOTHING, False),
            "a public token of another environment": (signed([right], sub="env_x"), Kind.NOTHING, False),
            "a public token by another key": (signed([right], secret="tr_dev_" + "y" * 24), Kind.NOTHING, False),
            "a one-time token": (signed([right], otu=True), Kind.ONE_TIME, True),
            "a one-time token for something else": (signed(["read:novelties"], otu=True), Kind.ONE_TIME, False),
            "the worker token": (TOKEN, Kind.WORKER, True),
            "a garbled worker token": (TOKEN + "x", Kind.NOTHING, False),
            "a worker token of the environment": (self.of_workers, Kind.WORKER, True),
            "a revoked worker token": (self.dead["revoked worker"], Kind.NOTHING, False),
        }

    def signed(self, scopes: list[str], *, exp: float = 600, secret: str = KEY, **claims: Any) -> str:
        """As a client signs it."""
        now = datetime.now(UTC)
        told = {
            "iss": "https://id.trigger.dev",
            "aud": "https://api.trigger.dev",
            "sub": self._environment_id,
            "pub": True,
        }
        told |= {"scopes": scopes, "iat": now, "exp": now + timedelta(seconds=exp)}
        return jwt.encode(told | claims, secret, "HS256")

    async def scoped(self, scope: str) -> str:
        if scope not in self._scoped:
            self._scoped[scope] = (await self._client.create_key(scope, scopes=[scope]))["key"]
        return self._scoped[scope]


def right_scope(line: Access) -> str:
    """The first of the scopes, about what the path names."""
    return line.scopes[0].format_map(PATH) if line.scopes else "read:novelties"


def expected(line: Access, kind: Kind, is_right: bool) -> set[int] | None:
    """The statuses of a refusal; None: the request is let in."""
    if Kind.NOTHING in line.takes:
        return None
    if Kind.SESSION in line.takes:
        return {303}  # to /sign-in, whatever the bearer
    if kind not in line.takes:
        return {401}
    return None if is_right else {403}


async def test_every_route_with_every_kind_of_bearer_answers_as_the_table_says(
    client: AsyncClient, worker: FakeWorker, url: str
) -> None:
    async with httpx2.AsyncClient() as http:

        async def status(name: str, bearer: str | None) -> int:
            method, path = name.split(" ", 1)
            asked = BODIES.get(name, {})
            headers = dict(asked.get("headers", {})) | ({} if bearer is None else {"authorization": f"Bearer {bearer}"})
            request = {**asked, "headers": headers}
            # A stream may never end: what it begins with is enough.
            async with http.stream(method, url + path.format_map(PATH), **request) as response:
                return response.status_code

        response = await http.post(f"{url}/api/v1/auth/jwt/claims", headers={"authorization": f"Bearer {KEY}"})
        bearers = Bearers(client, response.json()["sub"])
        revoked = await client.create_key("revoked")
        await client.revoke_key(revoked["id"])
        bearers.dead["revoked"] = revoked["key"]
        bearers.personal = (await client.create_key("Ada", personal=True))["key"]
        gone = await client.create_key("Ada", personal=True)
        await client.revoke_key(gone["id"])
        bearers.dead["revoked personal"] = gone["key"]
        bearers.of_workers = (await client.create_key("workers", worker=True))["key"]
        gone = await client.create_key("workers", worker=True)
        await client.revoke_key(gone["id"])
        bearers.dead["revoked worker"] = gone["key"]
        bearers.dead["expired"] = (await client.create_key("expired", expires=0.001))["key"]
        wrong: list[str] = []
        for name, line in ROUTES.items():
            if Kind.NOTHING in line.takes and line.is_page:
                continue  # tests/dashboard/test_sign_in.py
            for what, (bearer, kind, is_right) in (await bearers.for_route(line)).items():
                given, wanted = await status(name, bearer), expected(line, kind, is_right)
                if (given not in wanted) if wanted else (given in (401, 403) or given >= 500):
                    wrong.append(f"{name} with {what}: {given}, not {wanted or 'let in'}")
    assert not wrong, "\n".join(wrong)


async def test_a_callback_url_takes_its_hash_and_a_key_is_no_help(client: AsyncClient) -> None:
    made = await client.create_token()
    wrong = re.sub(r"[0-9a-f]{64}$", "0" * 64, made["url"])
    async with httpx2.AsyncClient() as http:
        assert (await http.post(wrong, headers={"authorization": f"Bearer {KEY}"})).status_code == 401
        assert (await http.post(made["url"])).status_code == 200
