"""The OpenAPI document: it tells of every route, its examples fit its types, and it is served as it is made."""

import re
from typing import get_args

import httpx2
import msgspec
import pytest
from msgspec import UNSET
from openapi_spec_validator import OpenAPIV31SpecValidator

from torpor.engine.states import STATUS
from torpor.server.access import ROUTES
from torpor.server.auth import Kind
from torpor.server.described import document, run_types
from torpor.server.described.operation import JSON

OPERATIONS = dict(document.operations())


def test_every_route_that_is_neither_for_workers_nor_a_page_is_described() -> None:
    """Add it to a module of server/described/, under the name of its line in server/access.py."""
    assert OPERATIONS.keys() == {name for name, line in ROUTES.items() if "/worker/" not in name and not line.is_page}


def test_the_document_is_openapi() -> None:
    whole = document.document()
    assert [error.message for error in OpenAPIV31SpecValidator(whole).iter_errors()] == []
    ids = [operation.id for operation in OPERATIONS.values()]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("name", OPERATIONS)
def test_examples_are_of_the_types_that_are_told(name: str) -> None:
    operation = OPERATIONS[name]
    assert operation.answers
    for answer in operation.answers.values():
        if answer.example is not UNSET:
            msgspec.json.decode(msgspec.json.encode(answer.example), type=answer.type)
        assert answer.example is not UNSET or answer.media != JSON or "openapi" in name
    if operation.body:
        msgspec.json.decode(msgspec.json.encode(operation.body.example), type=operation.body.type)
    for one in (*operation.query, *operation.headers):
        if one.example is not None:
            msgspec.convert(one.example, one.type)


def test_who_may_call_is_that_of_the_table() -> None:
    paths = document.document()["paths"]
    told = {
        f"{method.upper()} {path}": {
            (scheme, *scopes) for each in operation["security"] for scheme, scopes in each.items()
        }
        for path, methods in paths.items()
        for method, operation in methods.items()
    }
    assert told["GET /healthz"] == set()
    assert told["POST /api/v2/runs/{run_id}/cancel"] == {
        ("secretKey",),
        ("scopedKey", "write:runs:{run_id}"),
        ("scopedKey", "write:tasks:{task}"),
        ("personalToken",),
        ("publicToken", "write:runs:{run_id}"),
        ("publicToken", "write:tasks:{task}"),
    }
    known = document.document()["components"]["securitySchemes"]
    for name, access in ROUTES.items():
        if "/worker/" not in name and not access.is_page:
            kinds = {document.scheme(kind) for kind in access.takes if kind not in (Kind.NOTHING, Kind.HASH)}
            assert {scheme for scheme, *_ in told[name]} == kinds <= known.keys(), name


def test_all_statuses_of_runs_are_told() -> None:
    assert set(get_args(run_types.Status)) == set(STATUS.values())


@pytest.mark.anyio
async def test_it_is_served_to_everybody_and_leads_nowhere_else(url: str) -> None:
    async with httpx2.AsyncClient() as http:
        response = await http.get(f"{url}/api/openapi.json")
    assert response.status_code == 200
    assert response.json() == msgspec.json.decode(msgspec.json.encode(document.document()))
    assert not re.search(r"\]\(\w+\.md", response.text), "links between pages of the documentation"
