"""Two of the planted faults; `python -m tests.simulation.planted` looks for all of them."""

import asyncio

import pytest

from .planted import FAULTS, look
from .postgres import served

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("name", ["suspend doesn't move the lease on", "an end doesn't answer who waits for it"])
async def test_a_planted_fault_is_found(name: str) -> None:
    (fault,) = [fault for fault in FAULTS if fault.name == name]
    async with served() as (url,):
        assert await asyncio.to_thread(look, fault, url, 5) is not None
