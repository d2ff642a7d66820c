"""A web application in FastAPI that drives the shop's task: place an order, watch it live, answer its question.

`order` is imported for its signature: wrong arguments are found before anything is sent. Its code runs in a worker.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from tasks import order

from torpor import AsyncClient


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with AsyncClient() as app.state.torpor:
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/orders/{number}", status_code=202)
async def place(number: int, item: str, count: int = 1) -> dict[str, str]:
    """The same number again is the same order: the key sees to that, however often a browser sends it."""
    tagged = order.options(tags=[f"order-{number}"], idempotency_key=f"order-{number}")
    run = await tagged.trigger(number, item, count)
    return {"run": run.id}


@app.get("/orders/{number}")
async def look(number: int) -> dict[str, Any]:
    run = await _run(number)
    return {"status": run["status"], "receipt": run.get("output")}


@app.post("/orders/{number}/answer")
async def answer(number: int, yes: bool) -> dict[str, bool]:
    async for question in app.state.torpor.tokens(status="WAITING", tags=[f"order-{number}"]):
        await app.state.torpor.approve(question["id"], yes, by="the web shop")
        return {"answered": True}
    raise HTTPException(409, "this order asks nothing now")


@app.get("/orders/{number}/live")
async def live(number: int) -> StreamingResponse:
    """Every change of the order, as server-sent events, until it is done."""
    run = await _run(number)

    async def changes() -> AsyncIterator[str]:
        async for now in app.state.torpor.subscribe(run["id"]):
            yield f"data: {json.dumps({'status': now['status'], 'receipt': now.get('output')})}\n\n"

    return StreamingResponse(changes(), media_type="text/event-stream")


async def _run(number: int) -> dict[str, Any]:
    async for run in app.state.torpor.runs(tag=f"order-{number}"):
        return await app.state.torpor.run(run["id"])
    raise HTTPException(404, "there is no such order")
