"""`python -m tests.simulation --seeds 0:10000 --jobs 2`: play many seeds, and say which have failed and how.

`--seed 17` plays one and prints all that happens in it.
"""

import argparse
import asyncio
import sys
import time
from concurrent.futures import ProcessPoolExecutor

import uvloop

from .postgres import Store, served
from .seed import Report, play

TAIL = 25


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", default="0:300", help="from:to, the end not included")
    parser.add_argument("--seed", type=int, help="one seed, with its whole story")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--most", type=int, default=10, help="stop after so many failures")
    given = parser.parse_args()
    return uvloop.run(_one(given.seed) if given.seed is not None else _many(given))


async def _one(seed: int) -> int:
    async with served() as (url,):
        store = await Store.connect(url)
        report = await play(seed, store)
        await store.close()
    print("\n".join(report.trace))
    print(f"seed {seed}: {report.runs} runs, {report.verbs} verbs, fingerprint {report.fingerprint}")
    for failure in report.failures:
        print(f"FAILED: {failure}")
    return bool(report.failures)


async def _many(given: argparse.Namespace) -> int:
    first, last = (int(part) for part in given.seeds.split(":"))
    began = time.monotonic()
    failed: list[Report] = []
    runs = verbs = played = 0
    async with served(given.jobs) as urls:
        loop = asyncio.get_running_loop()
        with ProcessPoolExecutor(given.jobs) as pool:
            shares = [
                loop.run_in_executor(pool, share, url, range(first + nth, last, given.jobs), given.most)
                for nth, url in enumerate(urls)
            ]
            for done in asyncio.as_completed(shares):
                counted, reports = await done
                played, runs, verbs = played + counted[0], runs + counted[1], verbs + counted[2]
                failed += reports
    took_s = time.monotonic() - began
    for report in sorted(failed, key=lambda each: each.seed):
        print(f"\nseed {report.seed} FAILED (replay: python -m tests.simulation --seed {report.seed})")
        print("\n".join(f"  {failure}" for failure in report.failures[:5]))
        print("\n".join(f"    {line}" for line in report.trace[-TAIL:]))
    print(
        f"{played} seeds in {took_s:.1f} s ({played / took_s:.1f} per second), {runs} runs, {verbs} verbs, {len(failed)} failed"
    )
    return bool(failed)


def share(url: str, seeds: range, most: int) -> tuple[tuple[int, int, int], list[Report]]:
    """The seeds of one process."""
    return uvloop.run(_share(url, seeds, most))


async def _share(url: str, seeds: range, most: int) -> tuple[tuple[int, int, int], list[Report]]:
    store = await Store.connect(url)
    failed: list[Report] = []
    played = runs = verbs = 0
    for seed in seeds:
        report = await play(seed, store)
        played, runs, verbs = played + 1, runs + report.runs, verbs + report.verbs
        if report.failures:
            failed.append(report)
            print(f"seed {seed}: {report.failures[0][:160]}", file=sys.stderr, flush=True)
            if len(failed) >= most:
                break
    await store.close()
    return (played, runs, verbs), failed


if __name__ == "__main__":
    sys.exit(main())
