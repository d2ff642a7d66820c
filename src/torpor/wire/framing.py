"""A message on a socket: four bytes of length (big endian), then that many bytes of JSON.

A stream socket with lengths, not SOCK_SEQPACKET: macOS has no such thing, and a payload may be larger than a packet.
"""

import struct

LENGTH = struct.Struct(">I")
MAX_MESSAGE_BYTES = 64 << 20  # a larger length is not a message but somebody's garbage


class FramingError(ValueError):
    """The bytes on the socket are not ours: the length is out of bounds."""


def frame(body: bytes) -> bytes:
    """The message as it goes on the socket."""
    return LENGTH.pack(len(body)) + body


class Unframer:
    """Bytes as they arrive in, whole messages out.

    >>> unframer = Unframer()
    >>> list(unframer.feed(frame(b"{}")[:3])), list(unframer.feed(frame(b"{}")[3:]))
    ([], [b'{}'])

    Attributes:
        largest: more bytes than this are no message.
    """

    def __init__(self) -> None:
        self.largest = MAX_MESSAGE_BYTES
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Take in what was read and return the messages that are complete now.

        Raises:
            FramingError: the peer does not speak this protocol; close the socket.
        """
        self._buffer += data
        messages: list[bytes] = []
        while len(self._buffer) >= LENGTH.size:
            (length,) = LENGTH.unpack_from(self._buffer)
            if length > self.largest:
                raise FramingError(f"a message of {length} bytes was announced; at most {self.largest} are allowed")
            end = LENGTH.size + length
            if len(self._buffer) < end:
                break
            messages.append(bytes(self._buffer[LENGTH.size : end]))
            del self._buffer[:end]
        return messages
