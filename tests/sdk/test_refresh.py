"""What a restored process must not repeat, and what it must not go on believing."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from fake_supervisor import Supervisor

from torpor import task
from torpor.sdk import refresh
from torpor.sync import wait
from torpor.wire.runner import Answer


def in_child(code: str) -> str:
    """Run a program that sees no trace of other tests."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_random_gets_new_seeds_unless_user_code_has_given_it_one() -> None:
    code = """
from torpor.sdk import refresh
refresh.before_user_code()
import random
from random import seed  # by name, at import
import numpy as np

def repeats():
    state, numpy_state = random.getstate(), np.random.get_state()
    refresh.reseed_unseeded()
    now = np.random.get_state()
    return state == random.getstate(), numpy_state[2] == now[2] and (numpy_state[1] == now[1]).all()

refresh.reseed_all()
print(*repeats(), *repeats())
random.random(), np.random.rand()
print(*repeats())
seed(7)
np.random.seed(7)
print(*repeats())
random.random(), np.random.rand()
print(*repeats())
random.seed()
print(repeats()[0])
random.setstate(random.getstate())
print(repeats()[0])
"""
    assert in_child(code).split("\n") == [
        "False False False False",
        "False False",
        "True True",
        "True True",
        "False",
        "True",
        "",
    ]


def test_what_watches_random_is_not_to_be_seen() -> None:
    code = """
from torpor.sdk import refresh
refresh.before_user_code()
refresh.before_user_code()
import random
random.seed(3)
first = random.random()
random.seed(3)
print(random.random() == first == random.Random(3).random(), random.seed.__name__, random.seed.__doc__ is not None)
"""
    assert in_child(code) == "True seed True\n"


def test_variables_follow_the_worker_but_for_those_of_user_code(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SAME", "CHANGED", "GONE", "OWN", "OWN_GONE", "DELETED"):
        monkeypatch.setenv(name, "old")
    monkeypatch.delenv("NEW", raising=False)
    monkeypatch.delenv("NEW_OWN", raising=False)
    monkeypatch.setattr(refresh, "_at_birth", None)
    old: dict[str, str] = dict.fromkeys(("SAME", "CHANGED", "GONE", "OWN", "OWN_GONE", "DELETED"), "old")
    environment = refresh.Environment({}, old)
    before = dict(os.environ)
    os.environ.update(OWN="mine", OWN_GONE="mine", NEW_OWN="mine")
    del os.environ["DELETED"]
    new = {"SAME": "old", "CHANGED": "new", "OWN": "new", "DELETED": "new", "NEW": "new", "NEW_OWN": "new"}
    environment.update({}, new)
    now = {name: os.environ.get(name) for name in (*old, "NEW", "NEW_OWN")}
    assert now == {
        "SAME": "old",
        "CHANGED": "new",
        "GONE": None,
        "OWN": "mine",
        "OWN_GONE": "mine",
        "DELETED": None,
        "NEW": "new",
        "NEW_OWN": "mine",
    }
    environment.update({"SAME": "told"}, None)  # nothing is known of the others
    assert os.environ["SAME"] == "told"
    assert os.environ["CHANGED"] == "new"
    untouched = before.keys() - old.keys()
    assert {name: os.environ[name] for name in untouched} == {name: before[name] for name in untouched}
    monkeypatch.delenv("NEW")
    monkeypatch.delenv("NEW_OWN")


def test_a_variable_of_the_server_counts_when_it_has_changed_there_whatever_the_run_made_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = ("SAME", "OWN", "CHANGED", "CHANGED_OWN", "GONE", "GONE_OWN", "WORKERS", "NEW")
    for name in names:
        monkeypatch.setenv(name, "theirs")
        monkeypatch.delenv(name)
    monkeypatch.setattr(refresh, "_at_birth", None)
    of_worker = {"WORKERS": "the worker's"}
    old: dict[str, str] = dict.fromkeys(names[:-1], "old")
    environment = refresh.Environment(old, of_worker | old)
    assert {name: os.environ.get(name) for name in old} == old, "also over what the worker has"
    os.environ.update(OWN="mine", CHANGED_OWN="mine", GONE_OWN="mine")
    new = {"SAME": "old", "OWN": "old", "CHANGED": "new", "CHANGED_OWN": "new", "NEW": "new"}
    environment.update(new, of_worker | new)
    assert {name: os.environ.get(name) for name in names} == {
        "SAME": "old",
        "OWN": "mine",
        "CHANGED": "new",
        "CHANGED_OWN": "new",
        "GONE": None,
        "GONE_OWN": None,
        "WORKERS": "the worker's",
        "NEW": "new",
    }
    environment.update(None, None)  # nothing is known: as after a freeze that was given up
    assert os.environ["CHANGED"] == "new"


def test_what_an_import_has_set_is_user_codes() -> None:
    """The zygote notes the variables before it imports anything."""
    code = """
import os
from torpor.sdk import refresh
os.environ["SET"] = os.environ["LEFT"] = os.environ["GONE"] = "the worker's"
refresh.before_user_code()
os.environ["SET"] = "the import's"
refresh.Environment({}, {"SET": "another worker's", "LEFT": "another worker's"})
print([os.environ.get(name) for name in ("SET", "LEFT", "GONE")])
"""
    assert in_child(code) == '["the import\'s", "another worker\'s", None]\n'


def test_a_restored_run_has_its_workers_variables_and_time_zone(supervisor: Supervisor) -> None:
    @task
    def nap() -> list[Any]:
        os.environ["OWN"] = "mine"
        before = time.localtime(0).tm_hour
        wait.for_(hours=1)
        return [before, time.localtime(0).tm_hour, os.environ.get("OWN"), os.environ.get("SECRET")]

    supervisor.start(nap, begin={"env_all": {"TZ": "UTC", "SECRET": "old"}})
    (new,) = supervisor.expect_idle().waits
    supervisor.suspend()
    everything = {"TZ": "Asia/Tokyo", "SECRET": "new", "OWN": "the worker's"}
    supervisor.wake(Answer(new.wait_id, "completed"), env_all=everything)
    assert supervisor.output_of_run() == [0, 9, "mine", "new"]


def test_glibc_reads_resolv_conf_anew_by_itself(tmp_path: Path) -> None:
    """Why nothing is done for names of hosts. In a mount namespace of its own, with a nameserver that notes who asks."""
    code = f"""
import ctypes, os, socket, threading
libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, MS_REC, MS_PRIVATE, MS_BIND = 0x20000, 0x4000, 0x40000, 0x1000
if libc.unshare(CLONE_NEWNS) or libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None):
    print("no rights"); raise SystemExit
open({str(tmp_path / "resolv.conf")!r}, "w").close()
open({str(tmp_path / "nsswitch.conf")!r}, "w").write("hosts: dns\\n")
for name in ("resolv.conf", "nsswitch.conf"):
    if libc.mount(f"{tmp_path}/{{name}}".encode(), f"/etc/{{name}}".encode(), None, MS_BIND, None):
        print("no rights"); raise SystemExit
asked = []
def nameserver(address):
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((address, 53))
    def serve():
        while True:
            query, peer = server.recvfrom(512)
            asked.append(address)
            server.sendto(query[:2] + b"\\x81\\x83" + query[4:6] + bytes(6) + query[12:], peer)  # NXDOMAIN
    threading.Thread(target=serve, daemon=True).start()
try:
    nameserver("127.0.0.71"); nameserver("127.0.0.72")
except OSError:
    print("no rights"); raise SystemExit
for address in ("127.0.0.71", "127.0.0.72"):
    with open("/etc/resolv.conf", "w") as file:
        file.write(f"nameserver {{address}}\\noptions timeout:30 attempts:1\\n")
    try:
        socket.getaddrinfo("example.test", 80)
    except socket.gaierror:
        pass
print(*dict.fromkeys(asked))
"""
    told = in_child(code).strip()
    if told == "no rights":
        pytest.skip("needs root, for mounts and port 53")
    assert told == "127.0.0.71 127.0.0.72"
