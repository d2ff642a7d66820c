"""What a run can say on its control socket, and write where its output is read."""

import asyncio
import itertools
import json
import os
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any

from arms import World
from loud import loud

from torpor import wait

FLOOD_S = 1.5
"""For so long it is said as quickly as it goes."""


def control() -> int:
    """The descriptor of the connection to the supervisor: the one unix socket with a peer in another view of processes."""
    for name in os.listdir("/proc/self/fd"):
        try:
            with socket.socket(fileno=os.dup(int(name))) as found:
                if found.family == socket.AF_UNIX and str(found.getpeername()).endswith("ctl.sock"):
                    return int(name)
        except OSError:
            continue
    raise LookupError("no control socket")


def _path() -> str:
    with socket.socket(fileno=os.dup(control())) as found:
        return found.getpeername()


def frame(message: Any) -> bytes:
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    return struct.pack(">I", len(body)) + body


def say(message: Any) -> None:
    data = memoryview(frame(message))
    descriptor = control()
    while data:
        data = data[os.write(descriptor, data) :]


async def _never() -> str:
    """Until somebody ends it."""
    await asyncio.sleep(3600)
    return "never"


def _finished(output: Any) -> dict[str, Any]:
    return {"type": "finished", "ok": True, "output": output}


# -- the control socket -----------------------------------------------------------------------------------------------


@loud
async def talks_garbage(world: World) -> str:
    """The first bytes are a length that no message has: a smaller one would be waited for."""
    os.write(control(), b"\xff\xff\xff\xff" + os.urandom(4092))
    return await _never()


@loud
async def talks_nonsense(world: World) -> str:
    say({"type": "give me everything"})
    return await _never()


@loud
async def talks_nonsense_in_the_right_form(world: World) -> str:
    """Each is a message, but of another time or for another one."""
    say({"type": "hello", "name": "runner_of_somebody_else"})
    say({"type": "staying_awake", "reasons": ["x" * 100_000] * 10})
    say({"type": "not_saved", "name": "\0", "reasons": ["\0"]})
    say(
        {"type": "resumed", "run_id": "run_of_somebody_else", "open_waits": ["waitpoint_x"] * 100, "lost": ["\0"] * 100}
    )
    say({"type": "call", "call_id": -1, "kind": "../../finish", "body": {}})
    say({"type": "call", "call_id": -2, "kind": "trigger", "body": [1]})
    say({"type": "call", "call_id": -3, "kind": "trigger", "body": {"lease": 1, "task_id": "\0", "payload": None}})
    await asyncio.sleep(1)
    return "still here"


def _nested() -> bytes:
    return b'{"type":"call","call_id":1,"kind":"trigger","body":' + b"[" * 200_000 + b"]" * 200_000 + b"}"


@loud
async def talks_in_many_brackets(world: World) -> str:
    say(_nested())
    return await _never()


@loud
async def ends_in_many_brackets(world: World) -> str:
    """An outcome that every reader between here and the table has to read."""
    say(b'{"type":"finished","ok":true,"output":' + b"[" * 200_000 + b"]" * 200_000 + b"}")
    return await _never()


@loud
async def ends_with_what_is_no_json(world: World) -> str:
    say(b'{"type":"finished","ok":true,"output":"\\ud800\xff"}')
    return await _never()


@loud
async def ends_with_what_no_table_holds(world: World) -> str:
    say(b'{"type":"finished","ok":true,"output":["\\u0000",1e999,-0]}')
    return await _never()


@loud
async def fails_with_what_no_table_holds(world: World) -> str:
    error = {"name": "\0", "message": "\0" * 10, "stack_trace": "\0" * 1000, "causes": []}
    say({"type": "finished", "ok": False, "error": error, "retryable": False})
    return await _never()


@loud
async def fails_with_endless_causes(world: World) -> str:
    error = b'{"name":"n","message":"m","causes":['
    say(b'{"type":"finished","ok":false,"retryable":false,"error":' + error * 5000 + b"]}" * 5000 + b"}")
    return await _never()


@loud
async def waits_for_what_no_table_holds(world: World) -> str:
    waits = [
        {"wait_id": "\0", "kind": "time", "duration_s": 1.0},
        {"wait_id": "wait_1", "kind": "time", "duration_s": 1e300},
        {"wait_id": "wait_2", "kind": "time", "until": "whenever"},
        {"wait_id": "wait_3", "kind": "no such kind"},
        {"wait_id": "wait_4", "kind": "run", "run_id": "run_of_somebody_else"},
    ]
    for each in waits:
        say({"type": "block", "waits": [each]})
    await asyncio.sleep(1)
    return "still here"


@loud
async def announces_a_huge_message(world: World) -> str:
    os.write(control(), struct.pack(">I", 1 << 31))
    return await _never()


@loud
async def begins_a_large_message_and_never_ends_it(world: World) -> str:
    os.write(control(), struct.pack(">I", 60 << 20))
    os.set_blocking(control(), True)
    data = memoryview(bytes(50 << 20))
    while data:
        data = data[os.write(control(), data) :]
    return await _never()


@loud
async def asks_and_never_listens(world: World) -> str:
    """Requests without end, whose answers pile up; each is answered with what was asked."""
    descriptor = control()
    os.set_blocking(descriptor, False)
    message = frame({"type": "call", "call_id": 1, "kind": "k" * 50_000, "body": {}})
    until, sent, rest = time.monotonic() + FLOOD_S, 0, memoryview(message)
    while time.monotonic() < until:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:
            time.sleep(0.01)
        if not rest:
            sent, rest = sent + 1, memoryview(message)
    return await _never()


@loud
async def tells_without_end(world: World) -> str:
    """Small messages, as quickly as they go, each of which would be told on."""
    descriptor = control()
    os.set_blocking(descriptor, False)
    message = frame({"type": "not_saved", "name": "n", "reasons": ["r" * 1000]}) * 64
    until, rest = time.monotonic() + FLOOD_S, memoryview(message)
    while time.monotonic() < until:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:
            time.sleep(0.01)
        if not rest:
            rest = memoryview(message)
    return await _never()


@loud
async def says_nonsense_of_itself(world: World) -> str:
    """Changes and parts in the right form, that no table and no other run should get."""
    deep = b"[" * 500 + b"]" * 500
    for op in (
        {"type": "set", "key": "a\0b", "value": "\0"},
        {"type": "set", "key": "__proto__", "value": 1},
        {"type": "set", "key": "$.constructor.prototype", "value": 1},
        {"type": "set", "key": "large", "value": "x" * 1_000_000},
        {"type": "increment", "key": "n", "value": "one"},
        {"type": "update", "value": [1]},
        {"type": "set", "key": "fine", "value": 1},
    ):
        for target in ("self", "parent", "root"):
            say({"type": "change", "number": -5, "seen": 1 << 40, "target": target, "op": op})
    for kind in (b"set", b"remove", b"append"):
        op = b'{"type":"%s","key":"deep","value":%s}' % (kind, deep)
        say(b'{"type":"change","number":1,"seen":0,"op":' + op + b"}")
    say({"type": "change", "number": 1, "seen": 0, "tags": ["\0", "", "t" * 1000, *map(str, range(100))]})
    for key, part in (("", "c"), ("k" * 10_000, "c"), ("\0", "c"), ("input/chat", "c"), ("fine", ""), ("fine", "\0")):
        say({"type": "append", "target": "root", "key": key, "part": {"id": part, "data": "\0"}})
    say({"type": "append", "target": "self", "key": "large", "part": {"id": "c", "data": "x" * 1_000_000}})
    say({"type": "call", "call_id": -4, "kind": "inputs", "body": {"key": "\0", "after": -(10**30), "wait_s": 1e300}})
    await asyncio.sleep(1)
    return "still here"


def _without_end(messages: Iterator[Any]) -> None:
    descriptor = control()
    os.set_blocking(descriptor, False)
    until, rest = time.monotonic() + FLOOD_S, memoryview(b"")
    while time.monotonic() < until:
        if not rest:
            rest = memoryview(b"".join(frame(next(messages)) for _ in range(64)))
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:
            time.sleep(0.01)


@loud
async def says_of_itself_without_end(world: World) -> str:
    """Each change of another key, so that none takes the place of another, until there is no more room; and then on."""

    def changes() -> Iterator[Any]:
        for number in itertools.count(1):
            op = {"type": "set", "key": f"k{number}", "value": "x" * 1000}
            yield {"type": "change", "number": number, "seen": 0, "op": op}

    _without_end(changes())
    return await _never()


@loud
async def gives_out_without_end(world: World) -> str:
    def parts() -> Iterator[Any]:
        for number in itertools.count(1):
            part = {"id": f"c{number}", "data": "x" * 1000}
            yield {"type": "append", "target": "self", "key": f"s{number % 200}", "part": part}

    _without_end(parts())
    return await _never()


@loud
async def connects_many_times(world: World) -> dict[str, int]:
    """And pretends to be another run on each."""
    told = {"refused": 0, "heard": 0}
    opened: list[socket.socket] = []
    for _ in range(600):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(5)
        try:
            connection.connect(_path())
            connection.sendall(frame({"type": "hello", "name": "runner_x"}) + frame(_finished("stolen")))
        except OSError:
            told["refused"] += 1
        opened.append(connection)
    for connection in opened:
        try:
            told["heard" if connection.recv(100) else "refused"] += 1
        except OSError:
            told["refused"] += 1
        connection.close()
    return {"heard": told["heard"]}


@loud
async def is_another_run(world: World) -> str:
    """Everything that names a run or a lease has another's name in it."""
    for other in ("run_of_somebody_else", "../run_x/finish"):
        body = {"lease": 1, "run_id": other, "task_id": "does_nothing_wrong", "payload": {"number": 1}}
        say({"type": "call", "call_id": -1, "kind": "trigger", "body": body})
        say({"type": "call", "call_id": -1, "kind": "complete_token", "body": {"lease": 1, "token_id": "waitpoint_x"}})
    say({**_finished("mine"), "run_id": "run_of_somebody_else", "lease": 1, "name": "runner_x"})
    return await _never()


@loud
async def ends_twice(world: World) -> str:
    os.write(control(), frame(_finished("once")) + frame({"type": "finished", "ok": False, "retryable": True}) * 20)
    return await _never()


@loud
async def a_child_ends_it(world: World) -> str:
    """By a descriptor that a child has kept."""
    kept = os.dup(control())
    if os.fork() == 0:
        os.write(kept, frame(_finished("by a child")))
        os._exit(0)
    return await _never()


# -- descriptors ------------------------------------------------------------------------------------------------------


@loud
async def closes_all_descriptors(world: World) -> str:
    os.closerange(0, 4096)
    return "closed"


@loud
async def replaces_all_descriptors(world: World) -> str:
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(64):
        os.dup2(null, descriptor)
    return "replaced"


@loud
async def replaces_the_control_socket(world: World) -> str:
    """By one that speaks with itself."""
    ours, theirs = socket.socketpair()
    os.dup2(ours.fileno(), control())
    theirs.sendall(frame({"type": "finishing"}))
    return "replaced"


@loud
async def keeps_the_control_socket_in_a_child(world: World) -> str:
    """So that its end is not seen when the run is to be frozen."""
    kept = os.dup(control())
    if (child := os.fork()) == 0:
        time.sleep(3600)
    await wait.for_(seconds=1)
    os.kill(child, 9)
    os.waitpid(child, 0)
    os.close(kept)
    return "back"


# -- output -----------------------------------------------------------------------------------------------------------


@loud
async def output_in_odd_bytes(world: World) -> str:
    def lines() -> Iterator[bytes]:
        yield bytes(range(256))
        yield b"\xff\xfe\xfd\0\0"
        yield b"\x1e{"
        yield b"\x1e" + b"[" * 100_000
        yield b'\x1e{"at":"2026-01-01T00:00:00+00:00","level":"info","message":"\\ud800\\u0000","attributes":{"\\u0000":1e999}}'
        yield b'\x1e{"at":"9999-99-99","level":"info","message":"m"}'
        yield b'\x1e{"at":"0001-01-01T00:00:00+14:00","level":"info","message":"m"}'
        yield (
            b'\x1e{"at":"2026-01-01T00:00:00+00:00","level":"info","message":"m","attributes":{"a":'
            + b"9" * 5000
            + b"}}"
        )
        yield b"\x1b]0;title\x07\x1b[2J\r\b\x7f"
        yield "\u202egnp.exe\u2028\u2029\ufeff".encode()
        yield b"\n" * 1000

    for line in lines():
        os.write(1, line + b"\n")
    return "written"


@loud
async def cuts_its_output(world: World) -> str:
    os.write(1, b"before\n" * 1000)
    time.sleep(0.5)
    os.ftruncate(1, 0)
    os.write(1, b"after\n")
    return "cut"


@loud
async def stretches_its_output(world: World) -> str:
    """To a terabyte of nothing, for somebody to read."""
    try:
        os.ftruncate(1, 1 << 40)
    except OSError as error:
        return os.strerror(error.errno or 0)
    time.sleep(0.5)
    return "stretched"


@loud
async def opens_its_output_anew(world: World) -> str:
    """To write in the middle of it, or read it."""
    answers: list[str] = []
    for mode in ("r+b", "rb"):
        try:
            with open("/proc/self/fd/1", mode):
                answers.append("opened")
        except OSError as error:
            answers.append(os.strerror(error.errno or 0))
    return ", ".join(answers)
