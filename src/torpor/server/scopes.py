"""Scopes: what a scoped key or a public token may do. `action`, `action:type` or `action:type:id`, as `read:runs:run_1`.

Only the first two colons divide, so that an id may hold more of them: `read:tags:env:prod`.
"""

from collections.abc import Collection, Iterable

from torpor.server.errors import Refused

ADMIN = "admin"
ACTIONS = ("read", "write", "trigger", "batchTrigger", "*")
MAX_SCOPES = 500
MAX_CHARS = 512


def grants(scopes: Collection[str], wanted: str) -> bool:
    """Whether one of these scopes covers what is wanted, which is written in the same way.

    >>> grants(["read:runs"], "read:runs:run_1"), grants(["read:runs:run_1"], "read:runs")
    (True, False)
    >>> grants(["write:all"], "write:queues:emails"), grants(["admin"], "write:queues"), grants(["read"], "read:runs")
    (True, True, False)
    """
    if ADMIN in scopes:
        return True
    action, kind, id = _parts(wanted)
    for scope in scopes:
        its_action, its_kind, its_id = _parts(scope)
        if its_action not in (action, "*"):
            continue
        if its_kind == "all" or (kind and its_kind == kind and its_id in (None, id)):
            return True
    return False


def grants_any(scopes: Collection[str], wanted: Iterable[str]) -> bool:
    return any(grants(scopes, one) for one in wanted)


def check(name: str, scopes: object) -> list[str]:
    """A list of scopes that somebody asks for; 400 when one of them could never grant anything."""
    if not isinstance(scopes, list) or not scopes:
        raise Refused(400, f"{name}: a list of one scope or more is needed, such as read:runs:run_1")
    if len(scopes) > MAX_SCOPES:
        raise Refused(
            400, f"{name}: at most {MAX_SCOPES} scopes, not {len(scopes)}", limit=MAX_SCOPES, value=len(scopes)
        )
    for scope in scopes:
        if not isinstance(scope, str) or not 0 < len(scope) <= MAX_CHARS or "\0" in scope:
            raise Refused(400, f"{name}: a scope is a text of at most {MAX_CHARS} characters")
        action, kind, id = _parts(scope)
        if scope != ADMIN and (action not in ACTIONS or not kind or id == ""):
            raise Refused(
                400, f"{name}: {scope!r} is no scope: action:type or action:type:id, with {', '.join(ACTIONS)}"
            )
    return list(dict.fromkeys(scopes))


def exceeding(scopes: Collection[str] | None, wanted: Iterable[str]) -> list[str]:
    """Of what is wanted, what these scopes (None: all there are) don't cover.

    >>> exceeding(["read:runs"], ["read:runs:run_1", "read:tags"]), exceeding(["read:all"], ["*:all", "admin"])
    (['read:tags'], ['*:all', 'admin'])
    """
    if scopes is None:
        return []
    return [one for one in wanted if not (grants(scopes, one) if one != ADMIN else ADMIN in scopes)]


def _parts(scope: str) -> tuple[str, str, str | None]:
    action, _, rest = scope.partition(":")
    kind, colon, id = rest.partition(":")
    return action, kind, id if colon else None
