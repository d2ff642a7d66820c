"""The table of all pages: where each is, what answers there, and what it is called in the menu."""

from starlette.routing import Route

from torpor.dashboard import (
    account,
    batches,
    errors,
    live,
    logs,
    page,
    queues,
    run,
    run_verbs,
    runs,
    schedules,
    sign_in,
    static,
    waiting,
    workers,
)
from torpor.dashboard.page import told

__all__ = ["routes", "told"]

routes = [
    Route("/static/{name}", static.static, methods=["GET"]),
    Route("/sign-in", sign_in.show, methods=["GET"]),
    Route("/sign-in", sign_in.sign_in, methods=["POST"]),
    Route("/sign-in/{link}", sign_in.by_link, methods=["GET"]),
    Route("/sign-out", sign_in.sign_out, methods=["POST"]),
    Route("/account", account.show, methods=["GET"]),
    Route("/account", account.create, methods=["POST"]),
    Route("/live", live.live, methods=["GET"]),
    Route("/", runs.show, methods=["GET"]),
    Route("/runs/bulk", runs.bulk, methods=["POST"]),
    Route("/runs/{run_id}", run.show, methods=["GET"]),
    Route("/runs/{run_id}/timeline", run.model, methods=["GET"]),
    Route("/runs/{run_id}/packets/{field}", run.packet, methods=["GET"]),
    Route("/runs/{run_id}/log", run.log, methods=["GET"]),
    Route("/runs/{run_id}/cancel", run_verbs.cancel, methods=["POST"]),
    Route("/runs/{run_id}/replay", run_verbs.replay, methods=["POST"]),
    Route("/runs/{run_id}/fork", run_verbs.fork, methods=["POST"]),
    Route("/runs/{run_id}/answer", run_verbs.answer, methods=["POST"]),
    Route("/schedules", schedules.show, methods=["GET"]),
    Route("/schedules", schedules.create, methods=["POST"]),
    Route("/schedules/new", schedules.new, methods=["GET"]),
    Route("/schedules/{schedule_id}", schedules.edit, methods=["GET"]),
    Route("/schedules/{schedule_id}", schedules.change, methods=["POST"]),
    Route("/schedules/{schedule_id}/activate", schedules.activate, methods=["POST"]),
    Route("/schedules/{schedule_id}/deactivate", schedules.deactivate, methods=["POST"]),
    Route("/schedules/{schedule_id}/delete", schedules.delete, methods=["POST"]),
    Route("/queues", queues.show, methods=["GET"]),
    Route("/queues/{queue_id}/pause", queues.pause, methods=["POST"]),
    Route("/queues/{queue_id}/resume", queues.resume, methods=["POST"]),
    Route("/queues/{queue_id}/limit", queues.limit, methods=["POST"]),
    Route("/queues/{queue_id}/reset", queues.reset, methods=["POST"]),
    Route("/errors", errors.show, methods=["GET"]),
    Route("/errors/{fingerprint}", errors.one, methods=["GET"]),
    Route("/logs", logs.show, methods=["GET"]),
    Route("/batches", batches.show, methods=["GET"]),
    Route("/batches/{batch_id}", batches.show_one, methods=["GET"]),
    Route("/workers", workers.show, methods=["GET"]),
    Route("/waiting", waiting.show, methods=["GET"]),
    Route("/waiting/{token_id}/approve", waiting.approve, methods=["POST"]),
    Route("/waiting/{token_id}/reject", waiting.reject, methods=["POST"]),
    Route("/waiting/{token_id}/complete", waiting.complete, methods=["POST"]),
]

page.MENU[:] = [
    ("/", "Runs", "r"),
    ("/waiting", "Waiting", "w"),
    ("/schedules", "Schedules", "s"),
    ("/queues", "Queues", "q"),
    ("/batches", "Batches", "b"),
    ("/errors", "Errors", "e"),
    ("/logs", "Logs", "l"),
    ("/workers", "Workers", "o"),
]
