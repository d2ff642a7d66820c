"""What the HTTP API is, said once: the OpenAPI document, docs/api.md and the tests are made from it.

    operation   how a route is described, and the types that many share
    runs, …     one module per resource: its types (of runs: run_types), and its routes
    document    the OpenAPI document, served at /api/openapi.json
    markdown    the reference in docs/api.md

A route is described under the name that it has in access.py, where it says who may call it.
"""

from torpor.server.described import (
    accounts,
    approvals,
    batches,
    bulk,
    checkpoints,
    deployments,
    env_vars,
    inventory,
    keys,
    metadata,
    projects,
    queries,
    queues,
    realtime,
    runs,
    schedules,
    streams,
    traces,
    uploads,
    waitpoints,
)
from torpor.server.described.operation import Resource

RESOURCES: tuple[Resource, ...] = (
    runs.RESOURCE,
    metadata.RESOURCE,
    streams.RESOURCE,
    uploads.RESOURCE,
    checkpoints.RESOURCE,
    traces.RESOURCE,
    bulk.RESOURCE,
    batches.RESOURCE,
    realtime.RESOURCE,
    waitpoints.RESOURCE,
    approvals.RESOURCE,
    schedules.RESOURCE,
    queues.RESOURCE,
    env_vars.RESOURCE,
    deployments.RESOURCE,
    queries.RESOURCE,
    inventory.RESOURCE,
    keys.RESOURCE,
    projects.RESOURCE,
    accounts.RESOURCE,
)
"""In the order of the documentation."""
