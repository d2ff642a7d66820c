"""Where in a tar the larger files begin: cut there, a file is found again though those before it grew or went."""

from typing import Any

_SECTOR = 512
_LARGE = 64 << 10


def large_members(view: Any) -> list[int]:
    """Offsets of the contents of larger members, in order. What is no tar, or no longer one from somewhere on, has none there."""
    found: list[int] = []
    at = 0
    while at + _SECTOR <= len(view):
        head = bytes(view[at : at + _SECTOR])
        if head[257:262] != b"ustar":
            break
        size = _number(head[124:136])
        if size is None or size > len(view):
            break
        at += _SECTOR
        if size >= _LARGE:
            found.append(at)
        at += -(-size // _SECTOR) * _SECTOR
    return found


def _number(field: bytes) -> int | None:
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    try:
        return int(field.rstrip(b"\0 ") or b"0", 8)
    except ValueError:
        return None
