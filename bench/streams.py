"""What it costs a run to say something, through the whole stack: parts of streams, changes of metadata.

    python bench/streams.py [N] [PARTS]

Parts as fast as they go: as the code sees `append`, and until the database has them all. Then one by one: from `append` to a
reader of the stream (server-sent events).
"""

import json
import sys
import time
import urllib.request
from collections.abc import Iterator

from measured import row, stack
from stack import KEY, Stack

SIZES = (10, 1000, 100_000)
PAUSE_S = 0.1


def arrivals(made: Stack, run_id: str, name: str) -> Iterator[tuple[float, float]]:
    """Of each part, which is an instant: that, and the one at which it is here."""
    url = f"http://127.0.0.1:{made.port}/realtime/v1/streams/{run_id}/{name}"
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {KEY}"})
    with urllib.request.urlopen(request) as answer:
        for line in answer:
            now = time.time()
            if line.startswith(b"data:"):
                for record in json.loads(line[5:]).get("records", []):
                    yield json.loads(record["body"])["data"], now


def main() -> None:
    times = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    parts = int(sys.argv[2]) if len(sys.argv) > 2 else 20_000
    with stack() as (made, _):
        made.output(made.trigger("counts", 1))  # the first one warms up
        for size in SIZES:
            count = min(parts, 50_000_000 // size)
            took = [made.output(made.trigger("gives_out", {"count": count, "size": size})) for _ in range(times)]
            row(f"append of {size:,} characters, as the code sees it", [said / count * 1e6 for said, _ in took], "µs")
            row(f"parts of {size:,} characters until all are stored", [count / stored for _, stored in took], "/s")
        took = [made.output(made.trigger("counts", parts)) for _ in range(times)]
        row("metadata.increment, as the code sees it", [said / parts * 1e6 for said, _ in took], "µs")
        row("changes of metadata until all are stored", [parts / stored for _, stored in took], "/s")
        run_id = made.trigger("gives_out_slowly", {"count": 10 * times, "pause_s": PAUSE_S})
        late = [(here - said) * 1000 for said, here in arrivals(made, run_id, "clock")]
        row("one append at a time, as the code sees it", [took * 1e6 for took in made.output(run_id)[1:]], "µs")
        row("from append to a reader", late[1:])


if __name__ == "__main__":
    main()
