"""Idempotency keys: what a key is unique among, and how it is written on the wire.

On the wire a key is a hash over its text and its scope; the text goes along to be shown.
"""

import re
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal

from torpor.sdk import running

LONGEST = 2048
Scope = Literal["run", "attempt", "global"]
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Idempotency:
    """An idempotency key that says what it is unique among. The same key again, for the same task, is the same run.

    Args:
        key: any text of up to 2048 characters.
        scope: `"global"`: there is one such key in the environment. `"run"`: each run that triggers has its own, which it
            keeps over its attempts. `"attempt"`: each attempt has its own. Default, as for a bare text: that of the run
            inside a run, global outside.

    Raises:
        ValueError: an argument makes no sense.

    Example:
        >>> from torpor import Idempotency, task
        >>> @task
        ... async def charge(order: str) -> None:
        ...     print("charging", order)
        >>> async def pay(order: str) -> None:
        ...     key = Idempotency(f"charge-{order}", scope="global")  # once, whichever run asks for it
        ...     await charge.options(idempotency_key=key).trigger(order)
    """

    key: str | None
    scope: Scope | None = None

    def __post_init__(self) -> None:
        if self.key is not None and (not isinstance(self.key, str) or not 1 <= len(self.key) <= LONGEST):
            raise ValueError(f"Idempotency({self.key!r}): a text of 1 to {LONGEST} characters is needed")
        if self.scope not in (None, "run", "attempt", "global"):
            raise ValueError(f'Idempotency(scope={self.scope!r}): it is "run", "attempt" or "global"')

    @classmethod
    def of_payload(cls, scope: Scope | None = None) -> "Idempotency":
        """The payload itself is the key: equal arguments are the same run.

        Example:
            >>> from torpor import Idempotency, task
            >>> @task
            ... async def index(page: str) -> None:
            ...     print("indexing", page)
            >>> once = index.options(idempotency_key=Idempotency.of_payload("global"), idempotency_key_ttl="1h")
        """
        return cls(None, scope)


def resolved(options: dict[str, Any], payload: bytes | None) -> dict[str, Any]:
    """Options of a trigger with their key as the wire has it: hashed with its scope, and with this payload's hash.

    Raises:
        NotInRun: the scope is that of a run, and this isn't one.
    """
    given = options.get("idempotencyKey")
    if given is None or (isinstance(given, str) and _HASH.fullmatch(given)):
        return options
    asked = given if isinstance(given, Idempotency) else Idempotency(given)
    scope = asked.scope or ("run" if running.session is not None else "global")
    text = asked.key if asked.key is not None else f"payload-{_digest(payload)}"
    told = {"idempotencyKeyOptions": {"key": text, "scope": scope}}
    return {**told, **options, "idempotencyKey": hashed(text, scope)}


def hashed(key: str, scope: Scope = "global") -> str:
    """A key as the wire has it. One that has been hashed already stays as it is."""
    if _HASH.fullmatch(key):
        return key
    parts = [key]
    if scope != "global":
        context = running.required(f'Idempotency(scope="{scope}")').context
        parts += [context.run_id] if scope == "run" else [context.run_id, str(context.attempt)]
    return sha256("-".join(parts).encode()).hexdigest()


def _digest(payload: bytes | None) -> str:
    """Of what the payload says: the order of an object's fields doesn't matter."""
    import msgspec

    value = None if payload is None else msgspec.json.decode(payload)
    return sha256(msgspec.json.encode(value, order="sorted")).hexdigest()
