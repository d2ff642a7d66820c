"""Figures as people read them: sizes, durations, clock times."""

from datetime import UTC, datetime, timedelta


def size(count: float | None) -> str:
    """Bytes in the unit that suits them.

    >>> size(834), size(31_457_280), size(None)
    ('834 B', '30.0 MiB', '?')
    """
    if count is None:
        return "?"
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def duration(seconds: float | None) -> str:
    """A length of time with two units at most.

    >>> [duration(s) for s in (0.0412, 3.25, 75, 3600, 90_000, None)]
    ['41 ms', '3.2 s', '1m 15s', '1h', '1d 1h', '?']
    """
    if seconds is None:
        return "?"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    parts: list[str] = []
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)):
        amount, whole = divmod(whole, length)
        if amount or parts:
            parts.append(f"{amount}{unit}" if amount else "")
    return " ".join(part for part in parts[:2] if part)


def milliseconds(ms: float | None) -> str:
    """A measured time in milliseconds; short ones keep a digit.

    >>> milliseconds(4.26), milliseconds(83.2), milliseconds(2300)
    ('4.3 ms', '83 ms', '2.3 s')
    """
    if ms is not None and ms < 10:
        return f"{ms:.1f} ms"
    return duration(None if ms is None else ms / 1000)


def instant(text: str) -> datetime:
    """An ISO instant of the API as an aware datetime."""
    at = datetime.fromisoformat(text)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def clock(at: datetime, *, precise: bool = False) -> str:
    """The local time of day, with the date when it isn't near today."""
    local = at.astimezone()
    far = abs(datetime.now(UTC) - at) > timedelta(hours=20)
    text = local.strftime("%Y-%m-%d %H:%M:%S" if far else "%H:%M:%S")
    return text + f".{local.microsecond // 1000:03d}" if precise and not far else text


def ago(at: datetime, now: datetime | None = None) -> str:
    """How long ago, roughly."""
    passed = ((now or datetime.now(UTC)) - at).total_seconds()
    return (
        "just now" if passed < 1 else duration(passed).split(" ")[0] + " ago" if passed >= 60 else f"{passed:.0f}s ago"
    )
