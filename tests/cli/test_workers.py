"""What `torpor workers show` tells."""

from torpor.cli.workers import lines

WORKER = {
    "id": "worker_1",
    "host": "box",
    "slots": 20,
    "running": 3,
    "held": 2,
    "isolation": {
        "level": "partial",
        "missing": [{"what": "a limit on its memory", "why": "Read-only file system", "fix": "mount it read-write"}],
    },
    "capacity": {"cpu": 16.0, "memoryBytes": 8 << 30},
    "labels": {"gpu": "a100"},
    "trust": "own",
    "networks": ["host", "none"],
    "canFreeze": False,
    "noFreezeReason": "CRIU is not installed",
    "isAlive": True,
    "startedAt": "2026-03-01T12:00:00Z",
    "seenAt": "2026-03-01T12:00:00Z",
}


def told(worker: dict) -> str:
    return "\n".join(f"{name} {text}" for name, text in lines(worker))


def test_it_tells_what_is_missing_and_what_to_do() -> None:
    shown = told(WORKER)
    assert "3 of 20 slots in use, 2 held in memory" in shown
    assert "isolation partial" in shown
    assert "no a limit on its memory: Read-only file system" in shown
    assert "→ mount it read-write" in shown
    assert "freezes no: CRIU is not installed" in shown
    assert "gpu a100" in shown
    assert "16 CPUs and 8.0 GiB of memory to hand out" in shown
    assert "networks host, none" in shown


def test_an_older_worker_says_less() -> None:
    older = {name: value for name, value in WORKER.items() if name not in ("isolation", "labels", "noFreezeReason")}
    assert "isolation it does not say" in told(older)
    assert "gone since" in told({**older, "isAlive": False})
