"""What can't be frozen, or does not come back as it was. docs/limits.md is about these; test_limits.py has what is told."""

import asyncio
import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import socket
import sqlite3
import struct
import subprocess
import threading
import time
from pathlib import Path

from freezing import Outside, freeze, program

# -- held in memory ---------------------------------------------------------------------------------------------------


@program
async def a_sleep_beside_a_wait() -> None:
    nap = asyncio.create_task(asyncio.sleep(3600), name="nap")
    await freeze()
    nap.cancel()


@program
async def a_thread_that_waits_for_a_time() -> None:
    """Blocked until an event or a time: it would wake by itself."""
    over = threading.Event()
    thread = threading.Thread(target=over.wait, args=(3600,), name="patient")
    thread.start()
    await freeze()
    over.set()
    thread.join()


@program
async def a_unix_socket_to_another_process(outside: Outside) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(outside["unix"])
        await freeze()


@program
async def a_lock_on_a_file_elsewhere(outside: Outside) -> None:
    with open(Path(outside["directory"], "locked"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        await freeze()


@program
async def an_sqlite_transaction_elsewhere(outside: Outside) -> None:
    with contextlib.closing(sqlite3.connect(Path(outside["directory"], "rows.db"))) as db:
        db.execute("create table rows (n int)")
        db.execute("insert into rows values (1)")
        await freeze()
        db.commit()


@program
async def a_file_elsewhere_mapped_for_writing(outside: Outside) -> None:
    path = Path(outside["directory"], "mapped")
    path.write_bytes(b"x" * 4096)
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        await freeze()
        mapped[:1] = b"y"


@program
async def a_device(outside: Outside) -> None:
    with open(outside["device"], "r+b", buffering=0):
        await freeze()


@program
async def a_large_deleted_file(outside: Outside) -> None:
    path = Path(outside["directory"], "large")  # in the working directory there is not so much room
    with open(path, "wb") as file:
        path.unlink()
        os.posix_fallocate(file.fileno(), 0, (1 << 30) + 4096)
        await freeze()


@program
async def a_websocket_that_pings(outside: Outside) -> None:
    from websockets.asyncio.client import connect

    async with connect(outside["websocket"]):
        await freeze()


@program
async def a_database_transaction(outside: Outside) -> None:
    import asyncpg

    connection = await asyncpg.connect(outside["postgres"])
    async with connection.transaction():
        await connection.execute("create temporary table rows (n int)")
        await freeze()
        assert await connection.fetchval("select count(*) from rows") == 0
    await connection.close()


# -- not allowed in a room ---------------------------------------------------------------------------------------------


@program
async def a_child_with_mounts_of_its_own() -> None:
    done = subprocess.run(["unshare", "--mount", "true"], capture_output=True, text=True, check=False)
    assert "Operation not permitted" in done.stderr


@program
async def a_child_with_a_network_of_its_own() -> None:
    done = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True, check=False)
    assert "Operation not permitted" in done.stderr


@program
async def a_perf_event() -> None:
    software, size, cpu_clock = 1, 112, 0
    attributes = ctypes.create_string_buffer(struct.pack("IIQ", software, size, cpu_clock).ljust(size, b"\0"))
    perf_event_open = 241 if os.uname().machine == "aarch64" else 298
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.syscall(perf_event_open, attributes, 0, -1, -1, 0) == -1
    assert ctypes.get_errno() == errno.EPERM


# -- frozen, and not as it was ----------------------------------------------------------------------------------------


@program
async def a_file_elsewhere_that_is_deleted(outside: Outside) -> None:
    path = Path(outside["directory"], "deleted")
    path.write_text("first\nsecond\n")
    with open(path, "r+") as file:
        assert file.readline() == "first\n"
        file.seek(6)
        await freeze()
        assert file.read() == ""  # nothing to read, and what is written goes nowhere
        file.write("lost")
        file.flush()
    assert not path.exists()


@program
async def a_file_elsewhere_that_is_replaced(outside: Outside) -> None:
    path = Path(outside["directory"], "replaced")
    path.write_text("first\nsecond\n")
    number = os.open(path, os.O_RDONLY)
    assert os.read(number, 6) == b"first\n"
    await freeze()
    assert os.read(number, 100) == b" place!\n"  # at the old offset of the new file


@program
async def a_file_elsewhere_that_is_cut_short(outside: Outside) -> None:
    path = Path(outside["directory"], "short")
    path.write_text("first\nsecond\n")
    number = os.open(path, os.O_RDONLY)
    assert os.read(number, 6) == b"first\n"
    await freeze()
    assert os.read(number, 100) == b""


@program
async def a_mapped_file_elsewhere_that_grows(outside: Outside) -> None:
    path = Path(outside["directory"], "weights")
    path.write_bytes(b"x" * 4096)
    with open(path, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    assert mapped[:1] == b"x"
    await freeze()


@program
async def the_cpu_clock() -> None:
    """The time for which a process has had a CPU is counted anew after each thaw."""
    until = time.process_time() + 0.5
    while time.process_time() < until:
        pass
    before = time.process_time(), os.times().user
    await freeze()
    assert time.process_time() < before[0]
    assert os.times().user < before[1]


@program
async def a_connection_to_a_server_of_the_run() -> None:
    """A run that listens: a caller from elsewhere is cut off, and can call again."""
    listening = socket.create_server(("127.0.0.1", 0))
    caller = subprocess.Popen(
        ["python3", "-c", f"import socket; socket.create_connection({listening.getsockname()!r}).recv(1)"]
    )
    connection, _ = listening.accept()
    await freeze()
    connection.settimeout(5)
    with contextlib.suppress(OSError):
        assert connection.recv(100) == b""
    assert caller.wait(60) in (0, 1)
    with socket.create_connection(listening.getsockname()):
        listening.accept()[0].close()
