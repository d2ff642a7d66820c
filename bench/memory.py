"""What the idle stack holds in memory, and what each suspended run adds. `python bench/memory.py [RUNS]`."""

import sys

from measured import postgres_pids, resident_mb, stack
from stack import Stack, eventually

from torpor.store.embedded import EmbeddedPostgres


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    with stack() as (made, postgres):
        groups = {
            "server": made.server_pids(),
            "worker (with zygote)": made.worker_pids(),
            "Postgres": postgres_pids(postgres),
        }
        for name, pids in groups.items():
            print(f"{name:<24} {resident_mb(pids):7.1f} MB in {len(pids)} processes")
        print(f"{'all, idle':<24} {everything(made, postgres):7.1f} MB")
        suspend(made, count // 2)  # so that caches are full
        warm = everything(made, postgres)
        print(f"{f'with {count // 2} suspended runs':<24} {warm:7.1f} MB")
        runs = suspend(made, count)
        after = everything(made, postgres)
        print(
            f"{f'with {count} more':<24} {after:7.1f} MB: {(after - warm) / count * 1024:.0f} KB for each, 0 processes"
        )
        disk = sum(made.events(run_id, "run.suspended")[0]["size_bytes"] for run_id in runs) / count / 1e6
        print(f"{'on disk':<24} {disk:7.1f} MB for each")


def suspend(made: Stack, count: int) -> list[str]:
    token = made.client.create_token()["id"]
    runs = [made.trigger("waits_for_token", token) for _ in range(count)]
    for run_id in runs:
        made.await_event(run_id, "run.suspended")
    eventually(lambda: not made.processes(naming="torpor run"), what="all are out of memory")
    return runs


def everything(made: Stack, postgres: EmbeddedPostgres) -> float:
    return resident_mb(made.server_pids() + made.worker_pids() + postgres_pids(postgres))


if __name__ == "__main__":
    main()
