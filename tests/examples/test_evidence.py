"""The demo's evidence: what /proc says about processes."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

_spec = importlib.util.spec_from_file_location(
    "evidence", Path(__file__).resolve().parents[2] / "examples" / "weather_report" / "evidence.py"
)
assert _spec is not None
assert _spec.loader is not None
evidence = importlib.util.module_from_spec(_spec)
sys.modules["evidence"] = evidence
_spec.loader.exec_module(evidence)


def test_a_process_is_found_by_its_title_with_its_memory_and_gone_when_dead() -> None:
    mark = "run_of_the_evidence_test"
    command = [sys.executable, "-c", "input(1)", mark]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(1)  # it is what it will be: right after its start it is still the interpreter's loader
        (found,) = evidence.find_processes(mark)
        assert found.pid == process.pid
        assert found.rss >= found.pss > 0
        assert found.pid in {one.pid for one in evidence.in_namespace(found.pid_namespace)}
        assert evidence.is_alive(process.pid)
        process.kill()
        process.wait()
    assert evidence.find_processes(mark) == []
    assert not evidence.is_alive(process.pid)
