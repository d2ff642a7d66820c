"""`torpor.tags`: labels that a run gives itself while it works, to be found by."""

from torpor.sdk import running
from torpor.sdk.plain import plain

LONGEST = 128
"""As for tags that a run is triggered with."""


class Tags:
    """The tags of the run that this code is part of.

    Example:
        >>> from torpor import tags, task
        >>> @task
        ... async def ship(order: str, customer: str) -> None:
        ...     tags.add(f"order_{order}", f"customer_{customer}")
    """

    def add(self, *names: str) -> None:
        """Add tags. Those that the run has already count once. Stored as metadata is: within a second, and before every wait.

        Outside of a run they are checked and nothing else happens.

        Raises:
            TypeError, ValueError: one is no text, or empty, or too long, or there would be more than 10 (as the server is set).

        Example:
            >>> tags.add("user_7")
        """
        chosen = [_checked(name) for name in names]
        if (session := running.listening("tags.add()")) is None:
            return
        there = session.tags
        new = [name for name in dict.fromkeys(chosen) if name not in there]
        most = running.limits().tags
        if new and len(there) + len(new) > most:
            raise ValueError(f"tags.add({', '.join(map(repr, new))}): a run has at most {most} tags; it has {there}")
        if new:
            session.change("self", tags=new)

    def current(self) -> list[str]:
        """The run's tags, with those that were just added; none outside of a run."""
        return [] if running.session is None else list(running.session.tags)


tags = Tags()


def _checked(name: str) -> str:
    what = f"tags.add({name!r:.60})"
    if not isinstance(name, str):
        raise TypeError(f"{what}: tags must be text")
    text = plain(str(name), what)
    if not text:
        raise ValueError(f"{what}: a tag can't be empty")
    if len(text) > LONGEST:
        raise ValueError(f"{what}: a tag has at most {LONGEST} characters; this has {len(text)}")
    return text
