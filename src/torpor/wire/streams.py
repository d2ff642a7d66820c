"""What a stream may be called and how large a part may be: once for the SDK, which refuses at the call, and for the server."""

MAX_PART_BYTES = 512 * 1024
"""Of output, as JSON."""
MAX_KEY_CHARS = 256
KEYS = f"1 to {MAX_KEY_CHARS} printable characters, and does not begin with input/"
"""For messages: what a key has."""


def is_key(text: str) -> bool:
    """Whether a stream may be called so. A slash is fine, but for a beginning that is an address of its own.

    >>> is_key("answers/7"), is_key("input/chat"), is_key("")
    (True, False, False)
    """
    return 0 < len(text) <= MAX_KEY_CHARS and text.isprintable() and not text.startswith("input/")
