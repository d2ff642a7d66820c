"""A file as memory: compared and hashed where it lies, without a copy of it for Python."""

import ctypes
import mmap
import os
from pathlib import Path

memcmp = ctypes.CDLL(None).memcmp  # Called without the interpreter's lock, so others go on meanwhile.
memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
memcmp.restype = ctypes.c_int

_NORESERVE = 0x4000


class Mapped:
    """A file, or a part of it, mapped. It stays readable when the file is deleted."""

    def __init__(self, path: Path, offset: int = 0, size: int | None = None) -> None:
        """Offsets are those of pages."""
        descriptor = os.open(path, os.O_RDONLY)
        try:
            self.size = os.fstat(descriptor).st_size - offset if size is None else size
            if self.size == 0:
                self.view, self.address = memoryview(b""), 0
                return
            # Private and writable, since ctypes tells no address of what can't be written; nobody writes.
            flags, prot = mmap.MAP_PRIVATE | _NORESERVE, mmap.PROT_READ | mmap.PROT_WRITE
            kept = mmap.mmap(descriptor, self.size, flags=flags, prot=prot, offset=offset)
        finally:
            os.close(descriptor)
        self.view = memoryview(kept).toreadonly()
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(kept))
