"""How long it takes to give a restored run its /proc: as Linux does it since 6.18, and by a program, as before.

sudo python bench/own_proc.py [N]
"""

import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

from torpor.worker import namespaces


def asleep() -> int:
    """A process in a pid namespace of its own."""
    told, tell = os.pipe()
    middle = os.fork()
    if middle == 0:
        namespaces.unshare(namespaces.CLONE_NEWPID)
        child = os.fork()
        if child:
            os.write(tell, str(child).encode())
            os._exit(0)
        signal.pause()
    os.waitpid(middle, 0)
    return int(os.read(told, 20))


def measured(mount: Callable[[int, str], None], pid: int, place: str, count: int) -> str:
    took_ms: list[float] = []
    for _ in range(count):
        began = time.perf_counter()
        namespaces.elsewhere(lambda: mount(pid, place))
        took_ms.append((time.perf_counter() - began) * 1000)
        assert "2" not in os.listdir(place)
        namespaces.unmount(place)
    return f"{statistics.median(took_ms):.2f} ms ({min(took_ms):.2f}-{max(took_ms):.2f})"


def main() -> None:
    count = int(sys.argv[1]) if sys.argv[1:] else 60
    namespaces.unshare(namespaces.CLONE_NEWNS)
    namespaces.mount(None, "/", None, namespaces.MS_REC | namespaces.MS_PRIVATE)
    pid = asleep()
    with tempfile.TemporaryDirectory() as place:
        print("as this Linux can:", measured(namespaces.mount_proc_of, pid, place, count))
        print("by a program:     ", measured(namespaces.mount_proc_by_program, pid, place, count))
    os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
