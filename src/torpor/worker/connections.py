"""TCP connections of a process tree with others: what a freeze at any moment would cut. Read from /proc, nothing is touched."""

import contextlib
import ipaddress
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_ESTABLISHED = "01"


@dataclass(frozen=True)
class _Row:
    local: str
    remote: str
    inode: str


def outside(pids: Iterable[int]) -> list[str]:
    """The addresses that these processes are connected with; connections among themselves are not counted."""
    pids = list(pids)
    theirs = _sockets(pids)
    rows = [row for row in _rows(pids[0]) if row.inode in theirs] if pids else []
    inside = {(row.local, row.remote) for row in rows}
    return sorted({_told(row.remote) for row in rows if (row.remote, row.local) not in inside})


def _sockets(pids: Iterable[int]) -> set[str]:
    found: set[str] = set()
    for pid in pids:
        with contextlib.suppress(OSError):  # it has just ended
            for descriptor in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    name = os.readlink(f"/proc/{pid}/fd/{descriptor}")
                    if name.startswith("socket:["):
                        found.add(name[8:-1])
    return found


def _rows(pid: int) -> Iterable[_Row]:
    """Established connections of that process's network namespace."""
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _ESTABLISHED:
                    yield _Row(fields[1], fields[2], fields[9])


def _told(address: str) -> str:
    """An address as the kernel writes it, as people do.

    >>> _told("0100007F:1F90"), _told("0000000000000000FFFF00000100007F:0050")
    ('127.0.0.1:8080', '127.0.0.1:80')
    """
    host, _, port = address.partition(":")
    words = [bytes.fromhex(host[at : at + 8])[::-1] for at in range(0, len(host), 8)]
    found = ipaddress.ip_address(b"".join(words))
    mapped = getattr(found, "ipv4_mapped", None) or found
    shown = f"[{mapped}]" if mapped.version == 6 else str(mapped)
    return f"{shown}:{int(port, 16)}"
