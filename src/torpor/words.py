"""How a run's events are told: a verb that stands out and the figures that matter. The command line prints it, the
dashboard shows it.

It tells what the API's story holds and makes nothing up: a figure that an event lacks is left out.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torpor.figures import clock, duration, instant, milliseconds, size

Event = dict[str, Any]
Data = dict[str, Any]


@dataclass(frozen=True)
class Words:
    """What is said of an event: a verb that stands out, the rest of the sentence, and lines below it."""

    verb: str
    rest: str = ""
    style: str = ""
    below: tuple[str, ...] = ()


def _triggered(data: Data) -> Words:
    tags = data.get("tags") or []
    facts = [
        f"tags {', '.join(tags)}" if tags else "",
        f"a replay of {data['replayed_from']}" if data.get("replayed_from") else "",
        str(data.get("pending") or ""),
    ]
    return Words("triggered", _join(facts), "cyan")


def _debounced(data: Data) -> Words:
    what = "with the newer payload" if data.get("mode") == "trailing" else ""
    until = f"until {clock(instant(str(data['until'])))}" if data.get("until") else ""
    return Words("put off by another trigger", _join([until, what]), "cyan")


def _started(data: Data) -> Words:
    trust = "foreign code" if data.get("trust") == "foreign" else ""
    return Words(
        "started", _join([_took("ready in", data.get("start_ms")), _isolated(data), _network(data), trust]), "green"
    )


def _network(data: Data) -> str:
    """What it reaches, where that isn't all that its worker does."""
    return {"private": "private network", "none": "no network"}.get(str(data.get("network")), "")


def _isolated(data: Data) -> str:
    """How far the process is kept apart from others, where that is worth a word."""
    match data.get("isolation"):
        case "full":
            return "isolated"
        case "partial":
            lacks = ", ".join(str(each) for each in data.get("missing") or [])
            return "partly isolated, without " + (lacks or "some of it")
        case "off":
            return "not isolated"
        case _:
            return ""


def _waiting(data: Data) -> Words:
    return Words("waiting", _waits(data), "blue")


def _held(data: Data) -> Words:
    """The process stays in memory: for a short wait by choice, else because something can't be frozen."""
    blockers = [str(one) for one in data.get("blockers") or data.get("reasons") or []]
    why = data.get("reason") or ("it can't be frozen now:" if blockers else "the wait is short")
    return Words("held in memory", str(why), "yellow", tuple(blockers))


def _suspended(data: Data) -> Words:
    stored, new = data.get("size_bytes") or data.get("size"), data.get("new_bytes")
    facts = [
        f"{size(stored)} on disk" + (f", {size(new)} of it new" if new and new != stored else ""),
        _took("dumped in", data.get("dump_ms")),
        _took("durable after", data.get("durable_ms")),
        f"{size(data['rss_bytes'])} of memory given back" if data.get("rss_bytes") else "",
    ]
    return Words("frozen", _join(facts), "bold blue", tuple(_places(data.get("waiting_at") or [])))


def _saved(data: Data) -> Words:
    facts = [
        f"as {data['name']}" if data.get("name") else "by itself",
        f"{size(data['new_bytes'])} new" if data.get("new_bytes") else "",
        _took("durable after", data.get("durable_ms")),
    ]
    return Words("saved", _join(facts), "blue", tuple(_places(data.get("waiting_at") or [])))


def _moved(data: Data) -> Words:
    facts = [str(data.get("reason") or ""), _took("durable after", data.get("durable_ms"))]
    return Words("leaves its worker", _join(facts), "bold blue", tuple(_places(data.get("waiting_at") or [])))


def _forked(data: Data) -> Words:
    if data.get("as"):
        return Words("forked as", str(data["as"]), "cyan")
    origin = data.get("from") or {}
    answered = "with another answer" if origin.get("answered") else ""
    return Words("goes on from", _join([f"{origin.get('run_id')} at {origin.get('checkpoint_id')}", answered]), "cyan")


def _refused(data: Data) -> Words:
    following = {
        "another worker": "another worker will have it",
        "previous checkpoint": "going on from the checkpoint before",
        "new attempt": "beginning again from the top",
    }
    goes_on = str(data.get("continues") or "")
    return Words(
        "checkpoint not restored",
        _join([str(data.get("reason") or ""), following.get(goes_on, goes_on)]),
        "bold yellow",
    )


def _token(data: Data) -> Words:
    if data.get("title"):
        return Words("asks a person", str(data["title"]), "cyan")
    return Words("made a token", str(data.get("waitpoint_id") or ""), "dim")


def _resuming(data: Data) -> Words:
    kinds = {
        "time": "its time has come",
        "run": "its child has ended",
        "batch": "its batch has ended",
        "token": "it was answered",
    }
    why = kinds.get(str(data.get("kind")), "what it waits for is answered")
    if "approved" in data:
        by = f" by {data['by']}" if data.get("by") else ""
        why = _join([("approved" if data["approved"] else "rejected") + by, str(data.get("comment") or "")])
    if data.get("status") == "timed_out":
        why = "its token timed out" if data.get("kind") == "token" else "its wait timed out"
    return Words("waking", why, "blue")


def _lost(data: Data) -> Words:
    return Words(
        "some files could not be opened again", "", "yellow", tuple(str(one) for one in data.get("lost") or [])
    )


def _resumed(data: Data) -> Words:
    facts = [
        _took("restored in", data.get("restore_ms")),
        _took("back", data.get("since_due_ms"), "after its answer"),
        _isolated(data) if data.get("isolation") == "partial" else "",
    ]
    return Words("back on the next line", _join(facts), "bold green")


def _ending(verb: str, data: Data) -> Words:
    message, below = _error(data)
    return Words(verb, message, "bold red", below)


def _retrying(data: Data) -> Words:
    message, below = _error(data)
    when = ""
    if data.get("retry_at"):
        when = f"again at {clock(instant(str(data['retry_at'])))}"
    elif data.get("delay_s") is not None:
        when = f"again in {duration(float(data['delay_s']))}" if data["delay_s"] else "again at once"
    return Words("will be tried again", _join([when, message]), "yellow", below)


def _out_of_memory(data: Data) -> Words:
    limit = size(data["limit_bytes"]) if data.get("limit_bytes") else "its"
    where = "from its newest checkpoint" if data.get("from_checkpoint") else "from the top"
    facts = [f"{limit} of {data.get('machine')} used up", f"goes on with {data.get('next_machine')}, {where}"]
    return Words("out of memory", _join(facts), "bold yellow")


def _batch(verb: str, style: str) -> Callable[[Data], Words]:
    def words(data: Data) -> Words:
        failed = data.get("failed_items")
        facts = [
            str(data.get("batch_id") or ""),
            f"{data['run_count']} items" if data.get("run_count") is not None else "",
            f"{failed} of them failed" if failed else "",
        ]
        return Words(verb, _join(facts), style)

    return words


def _plain(verb: str, style: str = "", *keys: str) -> Callable[[Data], Words]:
    """Words of an event that only has a reason to tell."""

    def words(data: Data) -> Words:
        return Words(verb, _join([str(data[key]) for key in keys if data.get(key)]), style)

    return words


def _times(count: Any) -> str:
    return f"{count} times" if isinstance(count, int) and count > 1 else ""


_TELL: dict[str, Callable[[Data], Words]] = {
    "run.triggered": _triggered,
    "run.debounced": _debounced,
    "run.pending_version": _plain("waits for a version", "yellow", "reason"),
    "run.version_found": _plain("its version is here", "green", "version"),
    "run.rescheduled": lambda data: Words(
        "rescheduled", f"until {clock(instant(str(data['until'])))}" if data.get("until") else "", "cyan"
    ),
    "run.replayed": _plain("replayed as", "cyan", "as"),
    "run.dequeued": _plain("handed to a worker", "dim"),
    "run.started": _started,
    "run.waiting": _waiting,
    "run.held": _held,
    "run.suspended": _suspended,
    "run.resuming": _resuming,
    "run.resumed": _resumed,
    "run.descriptors_lost": _lost,
    "run.pids_exhausted": lambda data: Words(
        "may not start any more processes or threads", f"{data.get('machine')} allows {data.get('pids')}", "yellow"
    ),
    "run.child_out_of_memory": lambda data: Words(
        "a child process was killed for its memory",
        _join([f"{data.get('machine')} allows {size(data.get('limit_bytes'))}", _times(data.get("count"))]),
        "yellow",
    ),
    "run.completed": _plain("completed", "bold green"),
    "run.failed": lambda data: _ending("failed", data),
    "run.crashed": lambda data: _ending("crashed", data),
    "run.timed_out": lambda data: _ending("timed out", data),
    "run.system_failure": lambda data: _ending("given up by Torpor", data),
    "run.retrying": _retrying,
    "run.out_of_memory": _out_of_memory,
    "run.cancel_requested": _plain("asked to end", "yellow", "reason"),
    "hook.queued": _plain("left to a process of its own:", "dim", "hook"),
    "hook.started": _plain("called", "dim", "hook"),
    "hook.completed": _plain("done", "green", "hook"),
    "hook.failed": lambda data: _ending(f"{data.get('hook', 'its hook')} failed", data),
    "run.canceled": _plain("canceled", "bold yellow", "reason"),
    "run.expired": _plain("expired", "bold yellow", "reason"),
    "run.rescued": _plain("taken back from its worker", "yellow", "reason"),
    "run.repaired": _plain("put right by Torpor", "bold yellow", "reason"),
    "run.start_failed": _plain("could not be started, tried again", "yellow", "reason"),
    "run.refused": _plain("refused by its worker", "yellow", "reason"),
    "run.stranded": _plain("nobody can take it", "yellow", "reason"),
    "run.saved": _saved,
    "run.moved": _moved,
    "run.forked": _forked,
    "run.checkpoint_refused": _refused,
    "run.save_failed": _plain("save point given up, the run goes on", "yellow", "reason"),
    "run.move_failed": _plain("it can't be moved", "yellow", "reason"),
    "run.freeze_failed": _plain("freeze given up, the run stays in memory", "yellow", "reason"),
    "run.not_stored": _plain("something that its code says of it can't be stored", "yellow", "reason"),
    "token.created": _token,
    "batch.created": _batch("opened a batch", "dim"),
    "batch.sealed": _batch("triggered a batch", "cyan"),
    "batch.aborted": _batch("a batch was given up: its items stopped coming", "yellow"),
}


def words(event: Event) -> Words:
    """What is said of an event. A kind from a newer server is told by its name."""
    kind = str(event.get("kind", ""))
    tell = _TELL.get(kind)
    if tell is None:
        return Words(kind.removeprefix("run.").replace("_", " ").replace(".", " "), "", "dim")
    return tell(event.get("data") or {})


# -- phrases ----------------------------------------------------------------------------------------------------------


def _join(parts: Iterable[str]) -> str:
    return " · ".join(part for part in parts if part)


def _took(verb: str, ms: float | None, after: str = "") -> str:
    return "" if ms is None else f"{verb} {milliseconds(ms)} {after}".rstrip()


_WAITED_FOR = {
    "time": "for time to pass",
    "run": "for a child run",
    "batch": "for a batch of runs",
    "token": "for an answer",
}


def _waits(data: Data) -> str:
    told = ", ".join(_WAITED_FOR.get(str(kind), f"for {kind}") for kind in data.get("kinds") or [])
    if (data.get("count") or 0) > 1:
        told += f" ({data['count']} waits)"
    due = data.get("due_at")
    return _join([told, f"until {clock(instant(str(due)))}" if due else ""])


def _places(waiting_at: list[Any]) -> list[str]:
    """Where each task of the run stands: the line that it will come back to."""
    places: list[str] = []
    for place in waiting_at:
        if isinstance(place, dict):
            source = str(place.get("source") or "").strip()
            name = str(place.get("file", "")).rsplit("/", 1)[-1]
            places.append(f"at {name}:{place.get('line', '?')}  {source}".rstrip())
    return places


def _error(data: Data) -> tuple[str, tuple[str, ...]]:
    """An error's one-line message, and its traceback as lines below."""
    error = data.get("error")
    if not isinstance(error, dict):
        return str(error or data.get("reason") or ""), ()
    message = f"{error.get('name') or 'Error'}: {error.get('message', '')}"
    trace = str(error.get("stackTrace") or error.get("stack_trace") or "").rstrip()
    lines = tuple(line for line in trace.splitlines() if line.strip())
    return message, lines[:-1] if lines and lines[-1].startswith(str(error.get("name"))) else lines
