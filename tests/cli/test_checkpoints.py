"""What `torpor checkpoints show` tells."""

from torpor.cli.checkpoints import lines

FOUND = {
    "id": "checkpoint_1",
    "runId": "run_1",
    "number": 2,
    "kind": "named",
    "name": "epoch 3",
    "state": "usable",
    "attempt": 1,
    "workerId": "worker_1",
    "sizeBytes": 3_000_000,
    "newBytes": 300_000,
    "sharedBytes": 20_000_000,
    "filesBytes": 100,
    "rssBytes": 50_000_000,
    "dumpMs": 40.0,
    "durableMs": 90.0,
    "createdAt": "2026-03-01T12:00:00Z",
    "facts": {"criu": "4.2.1", "cpu": ["avx2"]},
    "waitingAt": [
        {"task": "main", "file": "tasks.py", "line": 12, "source": "    await checkpoint(name)"},
        {"thread": "reader", "file": "tasks.py", "line": 40},
    ],
    "waits": [{"id": "wait_1", "kind": "token", "status": "WAITING", "canBeAnswered": True}],
}


def test_it_tells_where_tasks_and_threads_stand_and_what_is_shared():
    text = "\n".join(line.plain for line in lines(FOUND))
    assert '"epoch 3"' in text
    assert "task main  tasks.py:12" in text
    assert "await checkpoint(name)" in text
    assert "thread reader  tasks.py:40" in text
    assert "waits for a token  wait_1" in text
    assert "293.0 KiB new, 19.1 MiB shared" in text
    assert "dumped in 40 ms, durable after 90 ms" in text
    assert "criu 4.2.1" in text
