"""What belongs to the process as a whole: objects, signals, limits, settings of C libraries, standard streams."""

import asyncio
import atexit
import contextlib
import ctypes
import ctypes.util
import faulthandler
import gc
import io
import itertools
import locale
import os
import resource
import signal
import struct
import sys
import time
import weakref
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from freezing import freeze, freeze_blocking, program


@program
async def plain_objects() -> None:
    held: dict[str, Any] = {"list": [1, 2, 3], "self": None, "set": {1, 2}, "bytes": os.urandom(1 << 20)}
    held["self"] = held
    twin = held["bytes"]
    counter = itertools.count(5)
    for n in range(2):
        await freeze()
        assert held["self"] is held
        assert held["bytes"] is twin
        assert next(counter) == n + 5


@program
async def weak_references_and_finalizers() -> None:
    class Thing:
        pass

    told: list[str] = []
    kept, dropped, cyclic = Thing(), Thing(), Thing()
    cyclic.self = cyclic  # pyright: ignore[reportAttributeAccessIssue]
    by_key = weakref.WeakKeyDictionary({kept: 1, dropped: 2})
    to_kept = weakref.ref(kept, lambda _: told.append("reference"))
    for thing, name in ((kept, "kept"), (dropped, "dropped"), (cyclic, "cyclic")):
        weakref.finalize(thing, told.append, name)
    del thing
    await freeze()
    assert told == []
    assert to_kept() is kept
    assert len(by_key) == 2
    del dropped, cyclic
    gc.collect()
    assert told == ["dropped", "cyclic"]
    await freeze()
    assert dict(by_key) == {kept: 1}
    del kept
    assert sorted(told) == ["cyclic", "dropped", "kept", "reference"]
    assert to_kept() is None


@program
async def context_managers() -> None:
    """Stacks that are open across freezes are left in the right order, also by an exception."""
    left: list[str] = []

    @contextlib.contextmanager
    def entered(name: str) -> Iterator[str]:
        try:
            yield name
        finally:
            left.append(name)

    @contextlib.asynccontextmanager
    async def entered_async(name: str) -> AsyncIterator[str]:
        try:
            yield name
        except LookupError:
            left.append(f"{name} saw it")
            raise

    with contextlib.suppress(LookupError):
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(entered("first"))
            await stack.enter_async_context(entered_async("second"))
            await freeze()
            stack.callback(left.append, "third")
            with entered("inner"):
                await freeze()
            raise LookupError
    assert left == ["inner", "third", "second saw it", "first"]


@program
async def signal_handlers_and_interval_timer() -> None:
    caught: list[int] = []
    signal.signal(signal.SIGUSR2, lambda number, _: caught.append(number))
    signal.signal(signal.SIGALRM, lambda number, _: caught.append(number))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.setitimer(signal.ITIMER_REAL, 1000, 500)
    for n in range(2):
        await freeze()
        os.kill(os.getpid(), signal.SIGUSR2)
        assert caught == [signal.SIGUSR2] * (n + 1)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        left, interval = signal.getitimer(signal.ITIMER_REAL)
        assert 900 < left < 1000
        assert interval == 500
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    while signal.SIGALRM not in caught:
        await asyncio.sleep(0.01)


@program
async def alarm_in_the_middle() -> None:
    """Due in little time: that time stands still while the run is frozen."""
    caught: list[float] = []
    signal.signal(signal.SIGALRM, lambda *_: caught.append(time.monotonic()))
    began = time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, 1.2)
    for _ in range(2):
        await freeze()
    while not caught:
        await asyncio.sleep(0.01)
    assert caught[0] - began >= 1.2


@program
async def fault_handler() -> None:
    """Its handlers, its file and its alternate stack."""
    file = open("faults", "w+")  # noqa: SIM115
    faulthandler.enable(file)
    faulthandler.register(signal.SIGUSR2, file, all_threads=True)
    for _ in range(2):
        await freeze()
        assert faulthandler.is_enabled()
        file.seek(0)
        file.truncate()
        os.kill(os.getpid(), signal.SIGUSR2)
        assert "in fault_handler" in Path("faults").read_text()
    child = os.fork()
    if child == 0:
        ctypes.string_at(0)
    assert os.waitpid(child, 0)[1] & 0x7F == signal.SIGSEGV
    assert "Segmentation fault" in Path("faults").read_text()


@program
async def c_library_state() -> None:
    """By ctypes: memory, a callback, errno, static buffers, and a library that was loaded."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.malloc.restype = ctypes.c_void_p
    block = libc.malloc(1 << 16)
    ctypes.memset(block, 0x5A, 1 << 16)
    libc.srand(7)
    expected = [libc.rand() for _ in range(4)]
    libc.srand(7)
    kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))
    compare = kind(lambda left, right: left[0] - right[0])
    libz = ctypes.CDLL("libz.so.1")
    for n in range(2):
        assert libc.rand() == expected[n]
        await freeze()
        assert ctypes.string_at(block, 1 << 16) == b"\x5a" * (1 << 16)
        numbers = (ctypes.c_int * 4)(3, 1, 2, 0)
        libc.qsort(numbers, 4, ctypes.sizeof(ctypes.c_int), compare)
        assert list(numbers) == [0, 1, 2, 3]
        assert libz.crc32(0, b"hello", 5) & 0xFFFFFFFF == 0x3610A686
    assert libc.rand() == expected[2]
    libc.free(ctypes.c_void_p(block))


@program
async def cffi_state() -> None:
    from cffi import FFI

    ffi = FFI()
    ffi.cdef(
        "typedef struct { int n; char *text; } pair; char *strtok(char *, const char *);"
        "void qsort(void *, size_t, size_t, int (*)(const void *, const void *));"
    )
    library: Any = ffi.dlopen(None)
    freed: list[str] = []
    text = ffi.new("char[]", b"one two three")
    pair: Any = ffi.new("pair *", {"n": 7, "text": text})
    handle = ffi.new_handle({"a": "python object"})
    watched = ffi.gc(ffi.new("int *"), lambda _: freed.append("freed"))

    @ffi.callback("int(const void *, const void *)")
    def compare(left: Any, right: Any) -> int:
        return ffi.cast("int *", left)[0] - ffi.cast("int *", right)[0]

    assert ffi.string(library.strtok(text, b" ")) == b"one"
    for word in (b"two", b"three"):  # strtok keeps its place in memory of the C library
        await freeze()
        assert ffi.string(library.strtok(ffi.NULL, b" ")) == word
        assert ffi.from_handle(handle) == {"a": "python object"}
        assert pair.n == 7
        numbers = ffi.new("int[3]", [3, 1, 2])
        library.qsort(numbers, 3, 4, compare)
        assert list(numbers) == [1, 2, 3]
    del watched
    gc.collect()
    assert freed == ["freed"]


@program
async def lxml_and_openssl_state() -> None:
    """Objects whose insides are C's: parsers that were fed half, digests, ciphers, compressors."""
    import hashlib
    import ssl
    import zlib

    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
    from lxml import etree  # pyright: ignore[reportAttributeAccessIssue] - it has no types

    parser = etree.XMLPullParser(events=("end",))
    tree = etree.fromstring("<a><b c='1'/><b c='2'/></a>")
    style = etree.XSLT(
        etree.fromstring(
            "<xsl:stylesheet version='1.0' xmlns:xsl='http://www.w3.org/1999/XSL/Transform'>"
            "<xsl:template match='/'><n><xsl:value-of select='count(//b)'/></n></xsl:template></xsl:stylesheet>"
        )
    )
    find = etree.XPath("//b[@c=$c]")
    digest, whole = hashlib.sha256(), hashlib.sha256()
    packing, parts = zlib.compressobj(), b""
    encryptor = Cipher(algorithms.AES(b"k" * 32), modes.CTR(b"n" * 16)).encryptor()
    secret = b""
    context = ssl.create_default_context()
    ciphers = context.get_ciphers()
    for n, text in enumerate(("<doc><one/>", "<two/>", "<three/></doc>")):
        parser.feed(text)
        digest.update(text.encode())
        whole.update(text.encode())
        parts += packing.compress(text.encode())
        secret += encryptor.update(text.encode())
        if n < 2:
            await freeze()
    assert [element.tag for _, element in parser.read_events()] == ["one", "two", "three", "doc"]
    assert len(find(tree, c="2")) == 1
    assert style(tree).getroot().text == "2"
    assert digest.digest() == hashlib.sha256(b"<doc><one/><two/><three/></doc>").digest()
    assert zlib.decompress(parts + packing.flush()) == b"<doc><one/><two/><three/></doc>"
    decryptor = Cipher(algorithms.AES(b"k" * 32), modes.CTR(b"n" * 16)).decryptor()
    assert decryptor.update(secret) == b"<doc><one/><two/><three/></doc>"
    assert context.get_ciphers() == ciphers


@program
def standard_streams_replaced() -> None:
    """In Python and below it: text in memory, a pipe under descriptor 1, a closed descriptor 0."""
    reading, writing = os.pipe()
    kept = os.dup(1)
    os.dup2(writing, 1)
    os.close(writing)
    os.close(0)
    captured = io.StringIO("typed\nmore\n"), io.StringIO()
    sys.stdin, sys.stdout = captured
    try:
        for n in range(2):
            print(f"printed {n}")
            os.write(1, b"written %d\n" % n)
            freeze_blocking()
            assert os.read(reading, 100) == b"written %d\n" % n
            assert input() == ("typed" if n == 0 else "more")
            try:
                os.fstat(0)
            except OSError:
                continue
            raise AssertionError("descriptor 0 was closed")
    finally:
        sys.stdin, sys.stdout = sys.__stdin__, sys.__stdout__
        os.dup2(kept, 1)
    assert captured[1].getvalue() == "printed 0\nprinted 1\n"
    print("and back")


@program
async def settings_of_the_process() -> None:
    """Locale, umask, working directory, environment, limits, niceness, name."""
    locale.setlocale(locale.LC_ALL, "C.UTF-8")
    os.umask(0o027)
    os.makedirs("below")
    os.chdir("below")
    os.environ["MINE"] = "1"
    os.environ.pop("LANG", None)
    os.environ["TZ"] = "Asia/Tokyo"
    time.tzset()
    resource.setrlimit(resource.RLIMIT_NOFILE, (777, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(3)
    before = os.getcwd(), os.getpriority(os.PRIO_PROCESS, 0), Path("/proc/self/comm").read_text()
    for _ in range(2):
        await freeze()
        assert locale.setlocale(locale.LC_ALL) == "C.UTF-8"
        assert os.umask(0o027) == 0o027
        assert (os.getcwd(), os.getpriority(os.PRIO_PROCESS, 0), Path("/proc/self/comm").read_text()) == before
        assert os.environ["MINE"] == "1"
        assert "LANG" not in os.environ
        assert time.localtime(0).tm_hour == 9
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 777
        assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)


@program
async def seccomp_is_still_enforced() -> None:
    """A filter of the run's own, and the worker's, which refuses an io_uring."""
    libc = ctypes.CDLL(None, use_errno=True)
    refused, setup = 146, 425  # sched_get_priority_max of x86-64, and io_uring_setup
    if os.uname().machine == "aarch64":
        refused = 125
    instructions = b"".join(
        struct.pack("HBBI", *each)
        for each in ((0x20, 0, 0, 0), (0x15, 0, 1, refused), (0x06, 0, 0, 0x00050000 | 85), (0x06, 0, 0, 0x7FFF0000))
    )
    code = ctypes.create_string_buffer(instructions, len(instructions))
    filtering = ctypes.create_string_buffer(struct.pack("HP", 4, ctypes.addressof(code)))

    def enforced() -> None:
        assert libc.syscall(refused, 0) == -1
        assert ctypes.get_errno() == 85
        assert libc.syscall(setup, 8, 0) == -1
        assert ctypes.get_errno() == 38  # ENOSYS

    assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    assert libc.prctl(22, 2, filtering, 0, 0) == 0
    for _ in range(2):
        enforced()
        await freeze()
        assert libc.prctl(39, 0, 0, 0, 0) == 1
    enforced()


@program
async def exit_functions() -> None:
    """Registered before and after; Python calls them in reverse. (A run ends without them: they are called here.)"""
    told: list[str] = []
    atexit.register(told.append, "first")
    await freeze()
    atexit.register(told.append, "second")
    await freeze()
    atexit._run_exitfuncs()
    assert told[-1] == "first"
    assert "second" in told


@program
async def a_run_that_ends_by_itself_prints_once() -> None:
    """Text that was printed before a freeze, with and without an end of line, comes out once."""
    print("one")
    print("two", end="", flush=False)
    await freeze()
    print(" and three")
    await freeze()
