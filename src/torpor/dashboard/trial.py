"""The page that tests a task: its payload as a form or as JSON, all options of a trigger, and what is wrong at its place.

Every button of the form sends all of it, and is answered by the form as it is then; so nothing of it needs a script.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
from msgspec import UNSET
from starlette.datastructures import ImmutableMultiDict
from starlette.requests import Request
from starlette.responses import Response

from torpor import engine, ids
from torpor.dashboard.page import go, part, render
from torpor.dashboard.payload_form import Field, Given, PayloadForm
from torpor.dashboard.tasks import known
from torpor.durations import parse_duration, write_duration
from torpor.engine import PayloadMisfit, RunFilter, read, read_tasks
from torpor.engine.pages import Page
from torpor.engine.payload import fitted
from torpor.server import auth, offload, sessions
from torpor.server.errors import Refused
from torpor.server.hub import Hub, hub
from torpor.server.options import TriggerOptions, read_options
from torpor.server.runs import trigger_request, triggered
from torpor.store.records import Run, Task

RECENT = 8
LARGE_CHARS = 100_000
"""What is longer is no form: a browser would have thousands of fields to show."""

View = Literal["form", "json"]


@dataclass(frozen=True, slots=True)
class Option:
    """An option of a trigger. `kind`: text, list (tags), seconds, whole, json, flag, or whose names there are to choose from."""

    name: str  # as the API has it
    label: str
    kind: str = "text"
    hint: str = ""


OPTIONS: dict[str, list[Option]] = {
    "When": [
        Option("delay", "Delay", hint="10m, or a date and time"),
        Option("ttl", "Time to start", hint="1h, else it expires"),
    ],
    "Where": [
        Option("queue", "Queue", "queues", "the task's"),
        Option("concurrencyKey", "Concurrency key", hint="such as customer-7"),
        Option("priority", "Priority", "seconds", "such as 10m earlier"),
        Option("machine", "Machine", "machines", "the task's"),
        Option("lockToVersion", "Version", "versions", "the current one"),
    ],
    "How long": [
        Option("maxAttempts", "Attempts", "whole", "the task's"),
        Option("maxDuration", "Working time", "seconds", "the task's"),
    ],
    "What it carries": [
        Option("tags", "Tags", "list", "such as eu, vip"),
        Option("idempotencyKey", "Idempotency key", hint="such as order-4711"),
        Option("idempotencyKeyTTL", "Key holds for", hint="24h"),
        Option("metadata", "Metadata", "json", '{"customer": 7}'),
        Option("test", "It is a test", "flag"),
    ],
}
BY_NAME = {option.name: option for group in OPTIONS.values() for option in group}
_NAMED = re.compile(r"options\.(\w+)(?::? )(.*)", re.DOTALL)


@dataclass(slots=True)
class Draft:
    """What somebody has filled in so far. `text` is the payload as JSON, while that is what is shown."""

    view: View
    given: Given
    text: str = ""
    options: dict[str, str] = field(default_factory=lambda: {"test": "1"})
    problems: dict[str, str] = field(default_factory=dict)  # by option
    general: list[str] = field(default_factory=list)
    added: str | None = None  # the pointer of what is new


async def show(request: Request) -> Response:
    """An empty form, or (`?from=`) one that begins with what a run was given."""
    here, environment_id = hub(request), auth.environment(request).id
    task = await known(here, environment_id, request.path_params["task_id"])
    draft = Draft("form", Given(_form_of(task).begin()))
    if run_id := request.query_params.get("from"):
        draft.given = Given(await _payload_of(here, environment_id, run_id))
    draft.text = _pretty(draft.given.value)
    if len(draft.text) > LARGE_CHARS:
        draft.view = "json"
    return await _page(request, task, draft)


async def _payload_of(here: Hub, environment_id: str, run_id: str) -> Any:
    async with here.database.transaction() as tx:
        run = await read.run(tx, environment_id, run_id)
    if run is None:
        raise Refused(404, f"There is no run {run_id[:60]} to begin from.")
    run = await offload.whole(here, run)
    return UNSET if run.payload is None else msgspec.json.decode(run.payload)


def _form_of(task: Task) -> PayloadForm:
    takes_null = task.parameters == "one" and any(
        branch.get("type") == "null" for branch in task.payload_schema.get("anyOf", [])
    )
    return PayloadForm(task.payload_schema, is_required=not takes_null)


async def act(request: Request) -> Response:
    """Trigger; or only change the form: its view, or what is in a list."""
    here, environment = hub(request), auth.environment(request)
    task = await known(here, environment.id, request.path_params["task_id"])
    fields = await sessions.form(request)
    draft, form = _read(task, fields), _form_of(task)
    kind, _, what = fields.get("do", "").partition(":")
    if kind:
        if kind == "view":
            _turn(draft, "json" if what == "json" else "form")
        elif kind in ("add", "drop"):
            _change(form, draft, kind, what)
        return await _page(request, task, draft)
    made = await _triggered(request, task, draft)
    if made is not None:
        return go(request, f"/runs/{made}")
    return await _page(request, task, draft, 422)


def _read(task: Task, fields: ImmutableMultiDict[str, str]) -> Draft:
    options = {name: fields.get(f"o.{name}", "").strip() for name in BY_NAME}
    draft = Draft("json" if fields.get("view") == "json" else "form", Given(), options=options)
    if task.parameters == "none":
        return draft
    if draft.view == "form":
        has, as_json = set(fields.getlist("has")), set(fields.getlist("json"))
        draft.given = _form_of(task).read(fields, has, as_json)
        return draft
    draft.text = fields.get("payload", "")
    if draft.text.strip():
        try:
            draft.given.value = msgspec.json.decode(draft.text)
        except (msgspec.DecodeError, RecursionError) as error:
            draft.given.problems.append({"path": "", "message": f"is not JSON: {error}"})
    return draft


def _turn(draft: Draft, to: View) -> None:
    """Show the other view, unless something can't be read: that is to be mended where it was written."""
    if draft.view == to or draft.given.problems:
        return
    draft.view, draft.text = to, _pretty(draft.given.value)
    draft.given = Given(draft.given.value)
    if to == "form" and len(draft.text) > LARGE_CHARS:
        draft.view = "json"
        draft.general.append("This payload is too large for a form.")


def _change(form: PayloadForm, draft: Draft, kind: str, pointer: str) -> None:
    try:
        if kind == "add":
            draft.given.value, draft.added = form.add(draft.given.value, pointer)
        else:
            draft.given.value = form.drop(draft.given.value, pointer)
    except (KeyError, IndexError, ValueError, TypeError, AttributeError):
        raise Refused(400, f"there is nothing at {pointer[:80]!r} in this payload") from None


def _pretty(value: Any) -> str:
    return "" if value is UNSET else msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


# -- trigger ----------------------------------------------------------------------------------------------------------


async def _triggered(request: Request, task: Task, draft: Draft) -> str | None:
    """The run; None: the draft says what is wrong. Payload and options are both looked at, so that all of it is told at once."""
    here, environment = hub(request), auth.environment(request)
    now = here.clock.now()
    payload = None
    if draft.given.value is not UNSET:
        payload = draft.text if draft.view == "json" else msgspec.json.encode(draft.given.value).decode()
    options = _options(task, draft, here)
    if not draft.given.problems and not draft.options.get("lockToVersion"):
        fit = await fitted(task, payload)
        if isinstance(fit, PayloadMisfit):
            draft.given.problems += fit.problems
    if draft.problems or draft.given.problems:
        return None
    asked = trigger_request(task.id, payload, options, run_id=ids.new("run"))
    asked = await offload.stow_payload(here, environment.id, asked)
    try:
        async with here.database.transaction() as tx:
            outcome = await engine.trigger(tx, environment.id, asked, now=now)
            if isinstance(outcome, PayloadMisfit):
                draft.given.problems += outcome.problems
                return None
            return triggered(task.id, outcome).run_id
    except Refused as refusal:
        if named := _NAMED.fullmatch(refusal.message):
            draft.problems[named[1]] = named[2]
        else:
            draft.general.append(refusal.message)
        return None


def _options(task: Task, draft: Draft, here: Hub) -> TriggerOptions:
    """As the API reads them; each that it refuses is left out, and told."""
    given: dict[str, Any] = {}
    for name, text in draft.options.items():
        if text:
            try:
                given[name] = _value(BY_NAME[name].kind, text)
            except ValueError as error:
                draft.problems[name] = str(error)
    while True:
        try:
            return read_options(given, here.settings, now=here.clock.now())
        except Refused as refusal:
            named = _NAMED.fullmatch(refusal.message)
            if named is None or named[1] not in given:
                raise
            draft.problems[named[1]] = named[2]
            del given[named[1]]


def _value(kind: str, text: str) -> Any:
    """What was typed, as the API takes it.

    Raises:
        ValueError: it can't be read.
    """
    match kind:
        case "list":
            return [each for part in text.split(",") if (each := part.strip())]
        case "seconds":
            return float(text) if re.fullmatch(r"-?[\d.]+", text) else parse_duration(text).total_seconds()
        case "whole":
            if not re.fullmatch(r"-?\d+", text):
                raise ValueError(f"it must be a whole number, not {text[:40]!r}")
            return int(text)
        case "json":
            try:
                return msgspec.json.decode(text)
            except (msgspec.DecodeError, RecursionError) as error:
                raise ValueError(f"this is not JSON: {error}") from None
        case "flag":
            return True
        case _:
            return text


# -- the page ---------------------------------------------------------------------------------------------------------


async def _page(request: Request, task: Task, draft: Draft, status: int = 200) -> Response:
    here, environment_id = hub(request), auth.environment(request).id
    async with here.database.transaction() as tx:
        names = {
            "queues": await read.queue_names(tx, environment_id),
            "machines": await read_tasks.preset_names(tx, environment_id),
            "versions": [each.version for each in await read_tasks.task_versions(tx, environment_id, task.id)],
        }
        queue = await read.queue(tx, environment_id, name=task.queue or f"task/{task.id}")
        recent = await read.runs(tx, environment_id, RunFilter(task_ids=[task.id]), Page(3 * RECENT))
    top: Field | None = None
    rest: list[str] = []
    if task.parameters != "none" and draft.view == "form":
        top, rest = _form_of(task).show(draft.given)
    else:
        rest = [f"{one['path']} {one['message']}".strip() for one in draft.given.problems]
    values: Mapping[str, Any] = {
        "task": task,
        "draft": draft,
        "top": top,
        "problems": [*draft.general, *rest],
        "count": len(draft.problems) + len(draft.given.problems) + len(draft.general),
        "first": _first(top, draft),
        "groups": OPTIONS,
        "names": names,
        "own": _own(task),
        "paused": queue.queue if queue is not None and queue.queue.is_paused else None,
        "recent": _distinct(recent.items),
        "begun_from": request.query_params.get("from"),
    }
    return render(request, "trial.html", block="form" if part(request) == "trial" else None, status=status, **values)


def _own(task: Task) -> dict[str, str]:
    """What counts where an option is left empty."""
    longest = write_duration(task.max_duration_s) if task.max_duration_s else "any"
    return {"maxAttempts": str(task.retry.get("max_attempts", 1)), "maxDuration": longest}


def _first(top: Field | None, draft: Draft) -> str | None:
    """Where the cursor goes: to what is new, else to the first that is wrong."""
    fields = [each for each in top.all() if each.kind not in ("group", "list")] if top else []
    if (new := draft.added) is not None:
        return next((f"f{each.pointer}" for each in fields if f"{each.pointer}/".startswith(f"{new}/")), None)
    wrong = next((f"f{each.pointer}" for each in fields if each.problems), None)
    return wrong or (f"o.{next(iter(draft.problems))}" if draft.problems else None)


def _distinct(runs: list[Run]) -> list[Run]:
    """Runs of different payloads, the newest of each; what is kept as an object is too large to begin from."""
    found: dict[str, Run] = {}
    for run in runs:
        if run.payload is not None:
            found.setdefault(run.payload, run)
    return [*found.values()][:RECENT]
