"""A file as memory: compared and hashed where it lies, without a copy of it for Python."""

import ctypes
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

from torpor.images.pages import PAGE

_memcmp = ctypes.CDLL(None).memcmp  # Called without the interpreter's lock, so two threads compare at once.
_memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_memcmp.restype = ctypes.c_int

_NORESERVE = 0x4000
STEP = 16 * PAGE


class Mapped:
    """A whole file, mapped. It stays readable when the file is deleted."""

    def __init__(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            self.size = os.fstat(descriptor).st_size
            if self.size == 0:
                self.view, self.address = memoryview(b""), 0
                return
            # Private and writable, since ctypes tells no address of what can't be written; nobody writes.
            flags, prot = mmap.MAP_PRIVATE | _NORESERVE, mmap.PROT_READ | mmap.PROT_WRITE
            kept = mmap.mmap(descriptor, self.size, flags=flags, prot=prot)
        finally:
            os.close(descriptor)
        self.view = memoryview(kept).toreadonly()
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(kept))


def runs(ours: Mapped, at: int, theirs: Mapped, there: int, size: int) -> Iterator[tuple[bool, int, int]]:
    """Cut whole pages of ours into runs that are equal to theirs and runs that aren't: equal, offset in ours, bytes.

    Sixteen pages at a time, and one by one where those differ: a call costs as much as comparing a page.
    """
    here, beside = ours.address + at, theirs.address + there
    start, was, done = 0, True, 0
    while done < size:
        step = min(STEP, size - done)
        same = not _memcmp(here + done, beside + done, step)
        pages = (step,) if same else (PAGE,) * (step // PAGE)
        for page in pages:
            equal = same or not _memcmp(here + done, beside + done, page)
            if equal is not was:
                if done > start:
                    yield was, at + start, done - start
                start, was = done, equal
            done += page
    if done > start:
        yield was, at + start, done - start
