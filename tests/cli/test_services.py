"""One service of `torpor dev`: it may take its time to end, and no more than that."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from torpor.cli.services import Service

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc"),
]

LEAVES_SLOWLY = """
import signal, sys, time

def leave(*_):
    time.sleep(float(sys.argv[1]))
    print("its runs are moved", flush=True)
    sys.exit(0)

signal.signal(signal.SIGTERM, leave)
print("up", flush=True)
while True:
    signal.pause()
"""


@pytest.mark.parametrize(
    ("takes_s", "stop_s", "told"), [(0.5, 60.0, ["up", "its runs are moved"]), (3600.0, 0.2, ["up"])]
)
async def test_a_service_has_as_long_to_end_as_was_said(
    tmp_path: Path, takes_s: float, stop_s: float, told: list[str]
) -> None:
    package = tmp_path / "torpor"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(LEAVES_SLOWLY)
    said: list[str] = []
    is_up = asyncio.Event()

    def say(line: str) -> None:
        said.append(line)
        is_up.set()

    service = Service(
        "worker",
        [str(takes_s)],
        {**os.environ, "PYTHONPATH": str(tmp_path)},
        stop_s=stop_s,
        say=say,
        notice=said.append,
        changed=lambda: None,
    )
    keeping = asyncio.create_task(service.keep_alive())
    await asyncio.wait_for(is_up.wait(), 60)
    pid = service.pid
    await service.stop()
    await keeping
    assert said == told
    assert not Path(f"/proc/{pid}").exists()
