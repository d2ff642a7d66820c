"""zstd, or nothing where it gains nothing."""

import sys
from typing import Any

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PLAIN, ZSTD = 0, 1

LEVEL = 1
"""3 saves a tenth of the bytes and takes twice the time."""

_WORTH_IT = 0.95


def squeezed(body: Any, level: int = LEVEL) -> tuple[int, Any]:
    """How it was compressed, and the result. What doesn't get smaller is left as it is: that is found out at 10 GB/s."""
    small = zstd.compress(body, level)
    return (ZSTD, small) if len(small) < len(body) * _WORTH_IT else (PLAIN, body)


def restored(method: int, body: Any, size: int) -> Any:
    """The content again; it must have been authenticated.

    Raises:
        ValueError: it doesn't have that size.
    """
    content = opened(body) if method == ZSTD else body
    if method not in (PLAIN, ZSTD) or len(content) != size:
        raise ValueError("content of another size")
    return content


def whole(body: bytes) -> bytes:
    """One compressed text."""
    return zstd.compress(body, 3)


def opened(body: bytes) -> bytes:
    """And back.

    Raises:
        ValueError: that is none.
    """
    try:
        return zstd.decompress(body)
    except zstd.ZstdError as error:
        raise ValueError(str(error)) from None
