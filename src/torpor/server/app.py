"""Routes and what they share; nothing else. `serve.py` runs it."""

from collections import defaultdict

from fastapi import Depends, FastAPI
from starlette.routing import Route

from torpor.clock import Clock, SystemClock
from torpor.config import Settings
from torpor.dashboard import app as dashboard
from torpor.server import (
    access,
    accounts,
    approvals,
    batch_items,
    batches,
    bulk,
    checkpoints,
    deployments,
    env_vars,
    errors,
    inventory,
    keys,
    metadata,
    projects,
    query,
    queues,
    realtime,
    run_counts,
    runs,
    schedules,
    signing,
    streams,
    traces,
    uploads,
    waitpoints,
    workers,
)
from torpor.server.cors import Cors
from torpor.server.described import document
from torpor.server.hub import Hub
from torpor.server.rates import RateHeaders
from torpor.store.database import Database


def create_app(settings: Settings, database: Database, clock: Clock | None = None) -> FastAPI:
    """The HTTP application over this database. Its `state.hub.wakeups` is to be fed with the database's notifications."""
    app = FastAPI(title="Torpor", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.state.hub = Hub(settings, database, clock or SystemClock())
    errors.install(app, dashboard.nowhere)
    app.add_middleware(RateHeaders)
    app.add_middleware(Cors)
    # Hot: plain routes. A task's id may hold slashes, and the path is decoded before it is routed.
    trigger = Route("/api/v1/tasks/{task_id:path}/trigger", runs.trigger, methods=["POST"])
    plain = (
        trigger,
        *batch_items.routes,
        *realtime.routes,
        *streams.routes,
        *metadata.routes,
        *workers.routes,
        *document.routes,
    )
    app.state.methods = methods = defaultdict[str, set[str]](set)  # for refusals of others
    for route in plain:
        guarded = access.guard(route)
        methods[route.path] |= guarded.methods or set()
        app.router.routes.append(guarded)
    for page in dashboard.routes:
        guarded = access.guard(page)
        methods[page.path] |= guarded.methods or set()
        app.router.routes.append(dashboard.told(guarded))
    for resource in (
        runs,
        run_counts,
        traces,
        bulk,
        metadata,
        uploads,
        deployments,
        query,
        checkpoints,
        batches,
        waitpoints,
        approvals,
        queues,
        schedules,
        inventory,
        env_vars,
        keys,
        projects,
        accounts,
        signing,
    ):
        for route in resource.router.routes:
            access.declared(route)
            methods[route.path] |= route.methods
        app.include_router(resource.router, dependencies=[Depends(access.admit)])
    return app
