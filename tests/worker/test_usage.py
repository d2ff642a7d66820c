"""What a run has used where there are no control groups: as /proc tells, and the kernel's accounts of an ended process."""

import os
import subprocess
import sys

import pytest

from torpor.wire.http import Usage
from torpor.worker import usage

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")

MB = 1 << 20
BUSY = """
import os, time
def busy(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
kept = bytearray(b"x") * (50 << 20)
if os.fork() == 0:
    busy(0.2)
    os._exit(0)
os.wait()
busy(0.1)
print("there", flush=True)
input()
"""


def test_a_process_is_measured_while_it_lives_and_when_it_has_ended() -> None:
    process = subprocess.Popen([sys.executable, "-c", BUSY], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.readline()
    living = usage.of_process(process.pid)
    assert usage.anonymous_bytes(process.pid) > 50 * MB
    process.stdin.close()
    _, _, accounts = os.wait4(process.pid, 0)
    process.returncode = 0
    ended = usage.of_ended(accounts)
    for each in (living, ended):
        assert 280 < each.cpu_ms < 3000, "its own time, and that of its child"
        assert each.peak_memory_bytes > 50 * MB
    assert (
        living.peak_memory_bytes < 100 * MB
    )  # the accounts of an ended one hold its parent's memory before exec as well


def test_nothing_is_known_of_a_process_that_is_gone() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    assert usage.of_process(process.pid) == Usage()
    assert usage.anonymous_bytes(process.pid) == 0


def test_what_was_measured_once_is_not_forgotten() -> None:
    assert usage.most(Usage(10.0, 5), Usage(3.0, 9), Usage()) == Usage(10.0, 9)
