"""Requests and answers of waits and tokens, in plain functions: what `wait` awaits and `torpor.sync` blocks for.

Each `Request` says what to tell the engine and how to read its answer, so that both doors are one line each.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, TypeVar

import msgspec

from torpor import ids
from torpor.durations import parse_duration, parse_instant
from torpor.errors import RunFailed, TokenTimeout, TorporError, WaitCycle, WaitTimeout
from torpor.sdk import running
from torpor.sdk.runs import Run
from torpor.wire.http import TokenCall, TokenReply
from torpor.wire.runner import Answer, NewWait

T = TypeVar("T")
Duration = str | float | timedelta
"""Text such as "2h30m" (units w, d, h, m, s), a number of seconds, or a timedelta."""


@dataclass(frozen=True)
class Request(Generic[T]):
    """A wait to enter, and how its answer becomes what user code gets."""

    new: NewWait
    read: Callable[[Answer], T]


@dataclass(frozen=True)
class Token:
    """A wait token: someone outside completes it, and the run that waits for it goes on.

    Attributes:
        id: give it to `wait.for_token`, or to `Client.complete_token`.
        url: a POST of JSON to it completes the token, without a key.
        is_cached: it was made before, with the same idempotency key.
        public_access_token: lets a browser or an app complete this token, and do nothing else, for a day.

    Example:
        >>> Token("waitpoint_1", "https://api.example.com/callback").id
        'waitpoint_1'
    """

    id: str
    url: str
    is_cached: bool = False
    public_access_token: str | None = None


@dataclass(frozen=True)
class Approval:
    """What a person said. It counts as true only when approved.

    Attributes:
        approved: False when it was rejected, or when nobody answered in time.
        by: who answered, as they or their tool said.
        comment: what they added.
        at: when it was answered or ran out, in UTC.
        timed_out: nobody answered in time.
        token_id: the token behind it.

    Example:
        >>> bool(Approval(False, timed_out=True))
        False
    """

    approved: bool
    by: str | None = None
    comment: str | None = None
    at: datetime | None = None
    timed_out: bool = False
    token_id: str | None = None

    def __bool__(self) -> bool:
        return self.approved


@dataclass(frozen=True)
class Key:
    """An idempotency key as it was given, and for how long it stands."""

    key: str | None = None
    ttl: Duration | None = None

    def hashed(self, kind: str) -> str | None:
        """What the engine goes by. In a run a key is the run's own; the same text for another kind of wait is another."""
        if self.key is None:
            if self.ttl is not None:
                raise TypeError("idempotency_key_ttl= without idempotency_key= means nothing")
            return None
        if not isinstance(self.key, str) or not self.key:
            raise TypeError(f"idempotency_key={self.key!r}: text is needed")
        if running.session is None:
            return self.key
        text = msgspec.json.encode([kind, self.key, running.session.context.run_id])
        return hashlib.sha256(text).hexdigest()

    @property
    def ttl_s(self) -> float | None:
        return None if self.ttl is None else parse_duration(self.ttl).total_seconds()


def for_(
    duration: Duration | None,
    weeks: float,
    days: float,
    hours: float,
    minutes: float,
    seconds: float,
    key: Key,
) -> Request[None]:
    named = timedelta(weeks=weeks, days=days, hours=hours, minutes=minutes, seconds=seconds)
    if duration is not None and named:
        raise TypeError("wait.for_() takes a duration such as '6h', or hours=, minutes= …: not both")
    if duration is None and not any((weeks, days, hours, minutes, seconds)):
        raise TypeError("wait.for_() needs a duration: wait.for_('6h') or wait.for_(hours=6)")
    length = parse_duration(named if duration is None else duration)
    return Request(_time(key, duration_s=length.total_seconds()), _nothing)


def until(instant: datetime, key: Key) -> Request[None]:
    if not isinstance(instant, datetime):
        raise TypeError(f"wait.until() takes a datetime, not {instant!r}; for a duration there is wait.for_()")
    return Request(_time(key, until=aware(instant, "wait.until()").isoformat()), _nothing)


def _time(key: Key, **when: Any) -> NewWait:
    hashed = key.hashed("time")
    return NewWait(ids.new("wait"), "time", **when, idempotency_key=hashed, idempotency_key_ttl_s=key.ttl_s)


def alarm(seconds: float) -> NewWait:
    """A wait of our own: the event loop has a timer that is due then."""
    return NewWait(ids.new("alarm"), "time", duration_s=seconds)


def for_token(token: Token | str, timeout: Duration | datetime | None = None) -> Request[Any]:
    token_id = token.id if isinstance(token, Token) else token
    if not isinstance(token_id, str) or not token_id:
        raise TypeError(f"wait.for_token() takes a Token or its id, not {token!r}")

    def read(answer: Answer) -> Any:
        match answer.status:
            case "completed":
                return msgspec.json.decode(answer.output)
            case "timed_out":
                raise TokenTimeout(token_id)
            case _:
                told = f"{answer.error.name}: {answer.error.message}" if answer.error else "no reason was recorded"
                raise TorporError(f"wait token {token_id} can't be completed ({told})")

    return Request(NewWait(ids.new("wait"), "token", waitpoint_id=token_id, timeout_s=_seconds(timeout)), read)


def for_approval(token: Token) -> Request[Approval]:
    def read(answer: Answer) -> Approval:
        at = parse_instant(answer.completed_at) if answer.completed_at else None
        if answer.status != "completed":
            return Approval(False, at=at, timed_out=answer.status == "timed_out", token_id=token.id)
        said = msgspec.json.decode(answer.output)
        if not isinstance(said, dict):
            said = {"approved": said}
        by, comment = said.get("by"), said.get("comment")
        return Approval(
            said.get("approved") is True,
            None if by is None else str(by),
            None if comment is None else str(comment),
            at,
            token_id=token.id,
        )

    return Request(NewWait(ids.new("wait"), "token", waitpoint_id=token.id), read)


def for_run(run_id: str, read_output: Callable[[bytes], T], timeout: Duration | datetime | None = None) -> Request[T]:
    def read(answer: Answer) -> T:
        if answer.status == "completed":
            return read_output(bytes(answer.output))
        if answer.status == "timed_out":
            raise WaitTimeout(f"run {run_id}")
        error = answer.error and {
            "name": answer.error.name,
            "message": answer.error.message,
            "stackTrace": answer.error.stack_trace,
        }
        raise RunFailed(answer.run_id or run_id, answer.run_status or "FAILED", error)

    return Request(NewWait(ids.new("wait"), "run", run_id=run_id, timeout_s=_seconds(timeout)), read)


def for_any_run(run: Run | str, timeout: Duration | datetime | None) -> Request[Any]:
    """A run of a task that this process knows gives what the task returns; any other gives plain JSON."""
    from torpor.sdk.task import registry

    run_id = run.id if isinstance(run, Run) else run
    if not isinstance(run_id, str) or not run_id:
        raise TypeError(f"wait.for_run() takes a Run or its id, not {run!r}")
    task = registry().get(run.task_id) if isinstance(run, Run) else None
    return for_run(run_id, task.signature.read_output if task else msgspec.json.decode, timeout)


def checked(answer: Answer) -> Answer:
    """An answer of the engine, unless it is that nobody could ever give one.

    Raises:
        WaitCycle: the runs would wait for each other for ever.
    """
    # A run that failed with such an error of its own has a status.
    if answer.error is not None and answer.error.name == "WaitCycle" and answer.run_status is None:
        raise WaitCycle(answer.error.message)
    return answer


def _seconds(timeout: Duration | datetime | None) -> float | None:
    if isinstance(timeout, datetime):
        return max((aware(timeout, "timeout=") - datetime.now(UTC)).total_seconds(), 0.0)
    return None if timeout is None else parse_duration(timeout).total_seconds()


def token_call(
    timeout: Duration | datetime | None,
    tags: str | Sequence[str] | None,
    key: Key,
    approval: dict[str, Any] | None = None,
) -> TokenCall:
    """A request to make a token."""
    call = TokenCall(ids.new("waitpoint"), tags=tag_list(tags), idempotency_key=key.hashed("token"), approval=approval)
    call.idempotency_key_ttl_s = key.ttl_s
    if isinstance(timeout, datetime):
        call.timeout_at = aware(timeout, "timeout=").isoformat()
    elif timeout is not None:
        call.timeout_s = parse_duration(timeout).total_seconds()
    return call


def approval_call(
    title: str, timeout: Duration | datetime | None, context: Any, tags: str | Sequence[str] | None, key: Key
) -> TokenCall:
    from pydantic_core import PydanticSerializationError, to_jsonable_python

    try:
        shown = to_jsonable_python(context)
    except PydanticSerializationError as error:
        raise TypeError(f"wait.for_approval(context=…) can't be shown as JSON: {error}") from None
    return token_call(timeout, tags, key, {"title": title, "context": shown})


def token(body: msgspec.Raw) -> Token:
    """The token that the server has made."""
    reply = msgspec.json.decode(body, type=TokenReply)
    return Token(reply.waitpoint_id, reply.url, reply.is_cached, reply.public_token)


def token_of_client(body: dict[str, Any]) -> Token:
    """The same, as the public API tells it."""
    return Token(body["id"], body["url"], body.get("isCached", False), body.get("publicAccessToken"))


def aware(instant: datetime, what: str) -> datetime:
    """An instant that says which zone it is in.

    Raises:
        ValueError: it doesn't, so it would mean something else on a machine elsewhere.
    """
    if instant.tzinfo is None or instant.utcoffset() is None:
        raise ValueError(f"{what} needs a datetime with a time zone, such as datetime.now(UTC); got {instant!r}")
    return instant


def tag_list(tags: str | Sequence[str] | None) -> list[str]:
    if tags is None:
        return []
    chosen = [tags] if isinstance(tags, str) else list(tags)
    if not all(isinstance(tag, str) for tag in chosen):
        raise TypeError(f"tags must be text, or a list of text: {tags!r}")
    return chosen


def _nothing(_: Answer) -> None:
    return None
