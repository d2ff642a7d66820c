"""Versions that start by thaw: on a worker that has never seen them, and where a fork would lose their threads."""

from pathlib import Path

import pytest
from stack import Stack, StackMaker, eventually

from torpor.worker import cpu

pytestmark = pytest.mark.criu

GATED = """
import random, ssl, time
from pathlib import Path
from torpor import current, task, wait

HERE = Path(__file__).parent
while (HERE / "no-imports").exists():
    time.sleep(0.01)
with open(HERE / "imports", "a") as imports:
    imports.write("imported\\n")

@task
async def draws(token_id: str | None = None):
    drawn = [random.random(), ssl.RAND_bytes(8).hex()]
    if token_id is not None:
        await wait.for_token(token_id)
    return drawn
"""
"""No worker gets through the import while the file `no-imports` is there."""

THREADED = """
import threading, time
from torpor import task, wait

beats = 0

def beat():
    global beats
    while True:
        beats += 1
        time.sleep(0.001)

threading.Thread(target=beat, name="beat", daemon=True).start()

@task
async def lives(token_id: str):
    before = beats
    await wait.for_token(token_id)
    frozen = beats
    end = time.monotonic() + 20
    while beats < frozen + 3 and time.monotonic() < end:
        time.sleep(0.005)
    return {"counted": before > 0, "goes_on": beats >= frozen + 3, "threads": len(threading.enumerate())}
"""


BASELINE = """
import ctypes
import numpy, threadpoolctl
import numpy._core._multiarray_umath as umath
from torpor import task

@task
def chosen():
    memcpy = ctypes.string_at(ctypes.cast(ctypes.CDLL(None).memcpy, ctypes.c_void_p).value, 256)
    return {
        "numpy": [name for name in umath.__cpu_dispatch__ if umath.__cpu_features__[name]],
        "openblas": [each["architecture"] for each in threadpoolctl.threadpool_info()],
        "memcpy": [memcpy.count(b"\\x62"), memcpy.count(b"\\xc5")],
    }
"""
"""`memcpy`: how often the first bytes of AVX-512 and of AVX instructions are at its beginning."""


def project(directory: Path, source: str) -> Path:
    root = directory / "project"
    root.mkdir()
    (root / "tasks.py").write_text(source)
    return root


def imports(root: Path) -> int:
    return len((root / "imports").read_text().splitlines())


def first_worker(make_stack: StackMaker, root: Path, store: Path) -> Stack:
    """Server and a worker, which has imported the version and stored its warm image."""
    stack = make_stack(root, TORPOR_OBJECT_STORE=f"file://{store}")
    stack.start()
    eventually(lambda: "warm image of dev-" in stack.worker_log(), what="the version is warm")
    return stack


def second_worker(make_stack: StackMaker, root: Path, store: Path, first: Stack) -> Stack:
    """Another worker of the same server, with directories of its own and the same store."""
    url = f"http://127.0.0.1:{first.port}"
    return make_stack(root, TORPOR_OBJECT_STORE=f"file://{store}", TORPOR_API_URL=url)


def test_a_worker_that_never_saw_the_version_starts_runs_without_an_import(
    make_stack: StackMaker, tmp_path: Path
) -> None:
    root, store = project(tmp_path, GATED), tmp_path / "store"
    first = first_worker(make_stack, root, store)
    first.stop_worker()
    assert imports(root) == 1
    (root / "no-imports").touch()
    second = second_worker(make_stack, root, store, first)
    second.start_worker()
    token = first.client.create_token()["id"]
    runs = [first.trigger("draws"), first.trigger("draws"), first.trigger("draws", token)]
    drawn = [first.output(run_id) for run_id in runs[:2]]
    first.await_event(runs[2], "run.suspended")
    first.client.complete_token(token)
    drawn.append(first.output(runs[2]))
    for values in zip(*drawn, strict=True):
        assert len(set(values)) == len(runs), "no two thaws draw the same"
    assert imports(root) == 1
    (root / "no-imports").unlink()
    eventually(lambda: imports(root) == 2, what="it imports the version in the background")
    eventually(lambda: "is imported here, too" in second.worker_log(), what="it is told")
    first.output(first.trigger("draws"))
    eventually(lambda: "warm image of dev-" in second.worker_log(), what="it has a warm image of its own")


def test_a_damaged_warm_image_is_no_obstacle(make_stack: StackMaker, tmp_path: Path) -> None:
    root, store = project(tmp_path, GATED), tmp_path / "store"
    first = first_worker(make_stack, root, store)
    first.stop_worker()
    for pack in (store / "packs").iterdir():
        data = bytearray(pack.read_bytes())
        data[len(data) // 2] ^= 1
        pack.write_bytes(data)
    second = second_worker(make_stack, root, store, first)
    second.start_worker()
    assert imports(root) == 2
    assert "is of no use here" in second.worker_log()
    run_id = first.trigger("draws")
    first.output(run_id)
    assert first.kinds(run_id).count("run.started") == 1
    assert "run.start_failed" not in first.kinds(run_id)


def test_a_version_whose_import_starts_a_thread_is_thawed_frozen_and_goes_on(
    make_stack: StackMaker, tmp_path: Path
) -> None:
    root, store = project(tmp_path, THREADED), tmp_path / "store"
    stack = first_worker(make_stack, root, store)
    run_id = ""
    for _ in range(2):  # the first may have been made ahead, before there was a warm image
        token = stack.client.create_token()["id"]
        run_id = stack.trigger("lives", token)
        stack.await_event(run_id, "run.suspended")
        stack.client.complete_token(token)
        assert stack.output(run_id) == {"counted": True, "goes_on": True, "threads": 2}
    [suspended] = stack.events(run_id, "run.suspended")
    assert suspended["shared_bytes"] > suspended["new_bytes"], "its image shares most of its memory with the warm one"


@pytest.mark.skipif("avx512f" not in cpu.here(), reason="this CPU has no AVX-512 that could be used")
def test_runs_keep_to_the_cpu_baseline_of_their_worker(make_stack: StackMaker, tmp_path: Path) -> None:
    stack = make_stack(project(tmp_path, BASELINE), TORPOR_CPU_BASELINE="x86-64-v3")
    stack.start()
    chosen = stack.output(stack.trigger("chosen"))
    assert chosen["numpy"] == ["X86_V3"]
    assert chosen["openblas"] == ["Haswell"]
    assert chosen["memcpy"][0] == 0
    assert chosen["memcpy"][1] > 5
