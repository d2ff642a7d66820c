"""Let a restored tree run before its memory is there: pages come as it touches them, and the others behind its back.

    CRIU's restorer           this process                                    the tree
    connects to us
    one descriptor for each   one thread reads the events, and puts
      process                   pages; two read the pages images
    "restore is finished"     ... everything that is missing, block by block   runs; waits for the pages that it touches
                              all in: the descriptors are closed               an ordinary process

We stand in for CRIU's own lazy-pages daemon, because that reads CRIU's images from a directory, while ours are in packs; and
because a process whose daemon dies reads zeros where its memory was, and works on with them. Nobody may ever see that. So the
descriptors are closed when all is in or when the tree is dead, whatever fails; and a guard, a small process of its own, holds
them too, and kills the tree should this process end before.

It speaks the protocol of CRIU's restorer (criu/uffd.c): for each process its pid as an int and a descriptor, or -pid for a
zombie; in the end a magic number.
"""

import asyncio
import ctypes
import errno
import logging
import os
import select
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from torpor.errors import ImageDamaged, MemoryLost
from torpor.worker.missing import BLOCK, Missing, Piece, pieces
from torpor.worker.userfaults import PAGE, Ahead, Dropped, Forked, Gone, Moved, Touched, UserFaults

log = logging.getLogger(__name__)

SOCKET = "lazy-pages.socket"

_FINISHED = 0x52535446
_READERS = 2
_LARGE_MAPPING = 32 << 20
_READ_AHEAD = 16  # blocks that were read and not put yet


class Later(Protocol):
    """The memory of one process of an image, of which CRIU's restorer can do without a part at first."""

    @property
    def pid(self) -> int:
        """In the image."""
        ...

    @property
    def size(self) -> int:
        """Bytes of the pages image."""
        ...

    @property
    def runs(self) -> Sequence[tuple[int, int, int]]:
        """What can come later: address, offset in the pages image, bytes."""
        ...

    def read(self, offset: int, size: int, *, hurry: bool) -> bytes:
        """Verified contents of the pages image, for which somebody waits or nobody. Called from several threads."""
        ...


Block = tuple[int, int]
"""A process of the image, and the number of a block of its pages image."""


class _Space:
    """One address space of the tree."""

    def __init__(self, faults: UserFaults, pid: int, missing: Missing, *, is_forked: bool = False) -> None:
        self.faults = faults
        self.pid = pid
        self.missing = missing
        self.is_forked = is_forked
        self.zeros: set[int] = set()
        """pages that were touched and have no contents"""


class LazyMemory:
    """The memory of a tree that is about to be restored.

    Args:
        later: of every process of the tree.

    Attributes:
        whole: done when every page is in, or no process is left that wants one. When it fails, with `ImageDamaged` or with
            `MemoryLost`, kill the tree, and then `close`.
    """

    def __init__(self, later: Sequence[Later]) -> None:
        self._later = {each.pid: each for each in later}
        self._loop = asyncio.get_running_loop()
        self.whole: asyncio.Future[None] = self._loop.create_future()
        self.whole.add_done_callback(lambda future: future.cancelled() or future.exception())  # who cares, awaits it
        # Between the threads.
        self._turn = threading.Condition()
        self._stopped = False
        self._failure: Exception | None = None
        self._urgent: deque[Block] = deque()
        self._rest: deque[Block] = deque(self._order())
        self._asked: set[Block] = set()
        self._read_now: deque[tuple[Block, bytes]] = deque()
        self._held = 0  # blocks that were read and not put yet
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._putting: threading.Thread | None = None
        # Of the thread that puts.
        self._spaces: list[_Space] = []
        self._have: dict[Block, bytes] = {}
        self._wanted: set[Block] = set()
        self._poll = select.poll()
        self._is_restored = False
        self._listener: socket.socket | None = None
        self._restorer: socket.socket | None = None
        self._guard: _Guard | None = None

    def _order(self) -> list[Block]:
        """Every block that has something lazy: small mappings first, since code that wakes up touches many of them."""
        smallest: dict[Block, int] = {}
        for pid, later in self._later.items():
            for run in later.runs:
                for piece in pieces([run]):
                    block = (pid, piece.block)
                    smallest[block] = min(smallest.get(block, run[2]), run[2])
        return sorted(smallest, key=lambda block: (smallest[block] > _LARGE_MAPPING, block))

    @property
    def failure(self) -> BaseException | None:
        """Why the tree can't have the rest of its memory, if so."""
        return self.whole.exception() if self.whole.done() and not self.whole.cancelled() else None

    # -- from the event loop ------------------------------------------------------------------------------------------

    def listen(self, directory: Path) -> None:
        """Be there for CRIU's restorer, which looks for its daemon in its working directory."""
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        (directory / SOCKET).unlink(missing_ok=True)
        number = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._listener.bind(f"/proc/self/fd/{number}/{SOCKET}")  # the whole path may be too long for a socket
        finally:
            os.close(number)
        self._listener.listen(1)
        self._guard = _Guard()
        self._putting = threading.Thread(target=self._put_all, name="lazy-memory", daemon=True)
        self._putting.start()
        for only_urgent in (True, *[False] * _READERS):
            threading.Thread(target=self._read_all, args=(only_urgent,), name="lazy-memory-reader", daemon=True).start()

    def protect(self, pid: int) -> None:
        """The tree's first process exists: should we end before its memory is whole, it is killed."""
        assert self._guard is not None
        self._guard.kill_at_end(pid)

    async def close(self) -> None:
        """End it. Unless all is in, the tree must be dead by now: what it had not got would read as zeros."""
        self._stop()
        if self._putting is not None:
            await asyncio.to_thread(self._putting.join)
        if self._guard is not None:
            await asyncio.to_thread(self._guard.dismiss)
        for space in self._spaces:
            space.faults.close()
        for held in (self._listener, self._restorer):
            if held is not None:
                held.close()
        with self._turn:
            if self._bell >= 0:
                os.close(self._bell)
                self._bell = -1
        self.whole.cancel()

    def _stop(self) -> None:
        with self._turn:
            self._stopped = True
            self._turn.notify_all()
            self._ring()

    def _ring(self) -> None:
        """Call the thread that puts. Under the lock: one that reads may come late, and find the bell gone."""
        if self._bell >= 0:
            os.eventfd_write(self._bell, 1)

    # -- the threads that read ----------------------------------------------------------------------------------------

    def _read_all(self, only_urgent: bool) -> None:
        """One of us does nothing but what somebody waits for: the store may be slow with the rest."""
        while (found := self._next_to_read(only_urgent)) is not None:
            (pid, number), hurry = found
            later, at = self._later[pid], number * BLOCK
            try:
                data = later.read(at, min(BLOCK, later.size - at), hurry=hurry)
            except Exception as error:  # noqa: BLE001  # whatever it is, the tree can't have its memory
                with self._turn:
                    self._failure = error
                    self._ring()
            else:
                with self._turn:
                    self._held += 1
                    self._read_now.append(((pid, number), data))
                    self._ring()

    def _next_to_read(self, only_urgent: bool) -> tuple[Block, bool] | None:
        """What a thread of the tree waits for (true), else the next one of the others."""
        with self._turn:
            while not self._stopped and self._failure is None:
                if self._urgent:
                    return self._urgent.popleft(), True
                while self._rest and self._rest[0] in self._asked:
                    self._rest.popleft()
                if self._rest and self._held < _READ_AHEAD and not only_urgent:
                    self._asked.add(self._rest[0])
                    return self._rest.popleft(), False
                self._turn.wait()
            return None

    def _ask_for(self, block: Block) -> None:
        """Somebody waits for it. It may be read twice then, as the one who reads ahead may have to wait for much more."""
        if block not in self._wanted:
            self._wanted.add(block)
            if block not in self._have:
                with self._turn:
                    self._asked.add(block)
                    self._urgent.append(block)
                    self._turn.notify_all()

    # -- the thread that puts -----------------------------------------------------------------------------------------

    def _put_all(self) -> None:
        try:
            self._serve()
        except Exception as error:  # noqa: BLE001  # as above
            self._tell(error if isinstance(error, MemoryLost | ImageDamaged) else MemoryLost(str(error)))
        else:
            if not self._stopped:
                self._let_go()
                self._tell(None)
        with self._turn:
            self._stopped = True
            self._turn.notify_all()

    def _serve(self) -> None:
        """Until every page is in. Events come first, always: they say where pages belong."""
        assert self._listener is not None
        self._poll.register(self._bell, select.POLLIN)
        self._poll.register(self._listener, select.POLLIN)
        while not self._stopped:
            for space in [*self._spaces]:
                self._heed(space)
            self._take_what_was_read()
            if self._is_restored and not any(space.missing for space in self._spaces):
                return
            block = self._next_to_put()
            for fd, _ in self._poll.poll(None if block is None else 0):
                if fd == self._bell:
                    os.eventfd_read(self._bell)
                elif fd == self._listener.fileno():
                    self._restorer, _ = self._listener.accept()
                    self._poll.unregister(self._listener)
                    self._poll.register(self._restorer, select.POLLIN)
                elif self._restorer is not None and fd == self._restorer.fileno():
                    self._hear(self._restorer)
            if block is not None:
                self._put_block(block)

    def _take_what_was_read(self) -> None:
        with self._turn:
            if self._failure is not None:
                raise self._failure
            while self._read_now:
                block, data = self._read_now.popleft()
                if block in self._have:
                    self._held -= 1
                self._have[block] = data

    def _next_to_put(self) -> Block | None:
        """Until the tree is restored, only what is waited for: other mappings may not be ready yet."""
        for block in self._wanted:
            if block in self._have:
                return block
        return next(iter(self._have), None) if self._is_restored else None

    def _hear(self, restorer: socket.socket) -> None:
        """Take the next process, or hear that there are no more and that the tree is restored."""
        word = int.from_bytes(restorer.recv(4), "little", signed=True)
        if word == 0:
            raise MemoryLost("the restore has ended early")
        if word == _FINISHED:
            self._is_restored = True
            self._poll.unregister(restorer)
        elif word > 0:
            _, fds, _, _ = socket.recv_fds(restorer, 1, 1)
            self._add(_Space(UserFaults(fds[0]), word, Missing(pieces(self._later[word].runs))))

    def _add(self, space: _Space) -> None:
        assert self._guard is not None
        self._guard.hold(space.faults.fd)
        self._spaces.append(space)
        self._poll.register(space.faults.fd, select.POLLIN)

    def _forget(self, space: _Space) -> None:
        self._poll.unregister(space.faults.fd)
        self._spaces.remove(space)
        space.faults.close()

    def _heed(self, space: _Space) -> None:
        """Keep account of what the process has done, and see to the pages that it waits for."""
        for event in space.faults.events():
            match event:
                case Touched(address):
                    piece = space.missing.at(address)
                    if piece is None:
                        space.zeros.add(address & -PAGE)
                    else:
                        self._ask_for((space.pid, piece.block))
                case Forked(fd):
                    self._add(_Space(UserFaults(fd), space.pid, space.missing.copy(), is_forked=True))
                case Moved(start, to, length):
                    space.missing.move(start, to, length)
                    space.faults.wake(start, length)  # a thread may have waited there
                case Dropped(start, end):
                    space.missing.drop(start, end)
                    space.faults.wake(start, end - start)
        try:
            for page in [*space.zeros]:
                space.faults.zero(page)
                space.zeros.discard(page)
        except Gone:
            self._forget(space)
        except Ahead:
            pass  # after the events that are to be read first

    def _put_block(self, block: Block) -> None:
        pid, number = block
        data = self._have[block]
        source = ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value or 0
        for space in [space for space in self._spaces if space.pid == pid]:
            try:
                for piece in space.missing.of_block(number):
                    self._put_piece(space, piece, source + piece.offset - number * BLOCK)
            except Gone:
                self._forget(space)
            except Ahead:
                return  # the rest of it after the events that we have to read first
        del self._have[block]
        self._wanted.discard(block)
        with self._turn:
            self._held -= 1
            self._turn.notify_all()

    def _put_piece(self, space: _Space, piece: Piece, source: int) -> None:
        at, step = piece.start, piece.end - piece.start
        try:
            while at < piece.end:
                done, error = space.faults.put(at, source + at - piece.start, step)
                at += done
                if error == errno.ENOENT and step > PAGE:
                    step = max(PAGE, step // 2 & -PAGE)  # it may span mappings
                    continue
                if error == errno.ENOENT and not space.is_forked:
                    raise MemoryLost(f"the page at {at:#x} has no place to go")
                if error:  # there is one already, or a child was not given this mapping
                    space.faults.wake(at, PAGE)
                    at += PAGE
                step = piece.end - at
        finally:
            space.missing.drop(piece.start, at)

    def _let_go(self) -> None:
        """All is in. The guard lets go first: until then the tree can tell events, and waits for somebody who reads them."""
        assert self._guard is not None
        self._guard.dismiss()
        for space in self._spaces:
            space.faults.close()
        self._spaces.clear()

    def _tell(self, error: Exception | None) -> None:
        def settle() -> None:
            if not self.whole.done():
                if error is None:
                    self.whole.set_result(None)
                else:
                    self.whole.set_exception(error)

        self._loop.call_soon_threadsafe(settle)


_GUARD = """
import os, select, signal, socket, sys
channel = socket.socket(fileno=int(sys.argv[1]))
root = None
while True:
    try:
        word, held, _, _ = socket.recv_fds(channel, 1, 1)
    except OSError:
        word = b""
    if word == b"r":
        root = held[0]
    elif word == b"d":
        os._exit(0)
    elif not word:
        break
if root is not None:
    try:
        signal.pidfd_send_signal(root, signal.SIGKILL)
    except ProcessLookupError:
        pass
    poll = select.poll()
    poll.register(root, select.POLLIN)
    poll.poll()
"""


class _Guard:
    """Holds what the memory of the tree depends on; if we die before it is dismissed, it kills the tree and lets go then."""

    def __init__(self) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _GUARD, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # a signal to our group must not end it together with us
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )

    def kill_at_end(self, pid: int) -> None:
        root = os.pidfd_open(pid)
        try:
            socket.send_fds(self._channel, [b"r"], [root])
        finally:
            os.close(root)

    def hold(self, fd: int) -> None:
        socket.send_fds(self._channel, [b"h"], [fd])

    def dismiss(self) -> None:
        if self._channel.fileno() >= 0:
            try:
                self._channel.send(b"d")
            except OSError:
                pass  # it was killed
            self._process.wait()
            self._channel.close()
