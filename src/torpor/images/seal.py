"""Keys, and what is sealed with them: a restored image is executed, so nothing that wasn't sealed here is ever believed.

    data key (32 bytes, of an environment, from the server; in memory only)
      ├── naming     pages and blocks are named by a hash under it: names tell nothing of contents to who lacks the key
      ├── packs      each pack has a key of its own, made of this and the pack's id, which is fresh and random: so the number of
      │              a frame is nonce enough
      └── manifests  each manifest has a key of its own, made of this and the random salt in front of it

AES-256-GCM throughout. What is sealed is bound to its kind, its name and its place: a frame of one pack is nothing in
another's place, and a manifest under another image's name doesn't open.
"""

import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from torpor.errors import ImageDamaged

_MAGIC = b"torpor image 1\n"
_SALT_BYTES = 16
_TAG_BYTES = 16
_NONCE_BYTES = 12


class Key:
    """One data key, ready for use."""

    def __init__(self, id: str, secret: bytes) -> None:
        if len(secret) != 32:
            raise ValueError(f"data key {id} has {len(secret)} bytes instead of 32")
        self.id = id
        self.naming = _derived(secret, "torpor images 2025: names of pages and blocks")
        self._packs = _derived(secret, "torpor images 2025: packs")
        self._manifests = _derived(secret, "torpor images 2025: manifests")

    def pack(self, pack_id: str) -> "PackSeal":
        return PackSeal(blake3(pack_id.encode(), key=self._packs).digest(), pack_id)

    def seal_manifest(self, image_id: str, body: bytes) -> bytes:
        """The manifest as it is stored. Its key id can be read by anyone (`key_id_of`), the rest by nobody else."""
        named = self.id.encode()
        head = _MAGIC + bytes([len(named)]) + named + os.urandom(_SALT_BYTES)
        return head + self._manifest(head).encrypt(bytes(_NONCE_BYTES), body, _manifest_bound_to(head, image_id))

    def open_manifest(self, image_id: str, sealed: bytes) -> bytes:
        """What was sealed.

        Raises:
            ImageDamaged: it was changed, is another image's, or was sealed with another key.
        """
        head = sealed[: len(_MAGIC) + 1 + len(self.id.encode()) + _SALT_BYTES]
        try:
            return self._manifest(head).decrypt(
                bytes(_NONCE_BYTES), sealed[len(head) :], _manifest_bound_to(head, image_id)
            )
        except (InvalidTag, ValueError):
            raise ImageDamaged(
                f"image {image_id}: its manifest was changed, or is another image's, or was sealed with another key"
            ) from None

    def _manifest(self, head: bytes) -> AESGCM:
        return AESGCM(blake3(head, key=self._manifests).digest())


class PackSeal:
    """Seals and opens the frames of one pack."""

    overhead = _TAG_BYTES

    def __init__(self, key: bytes, pack_id: str) -> None:
        self._aes = AESGCM(key)
        self._pack_id = pack_id

    def seal(self, number: int, body: Any, told: bytes) -> bytes:
        """`told` is what the manifest says of the frame (its size, how it is compressed): it must be the same at opening."""
        return self._aes.encrypt(number.to_bytes(_NONCE_BYTES, "big"), body, self._bound_to(told))

    def open(self, number: int, sealed: Any, told: bytes) -> bytes:
        """What was sealed.

        Raises:
            ImageDamaged: it was changed, is another frame, or was sealed with another key.
        """
        try:
            return self._aes.decrypt(number.to_bytes(_NONCE_BYTES, "big"), sealed, self._bound_to(told))
        except (InvalidTag, ValueError):
            raise ImageDamaged(f"pack {self._pack_id} was changed, cut short or swapped (frame {number})") from None

    def _bound_to(self, told: bytes) -> bytes:
        return b"pack " + self._pack_id.encode() + b" " + told


def key_id_of(image_id: str, sealed: bytes) -> str:
    """Which data key a manifest says it was sealed with; only opening it proves that.

    Raises:
        ImageDamaged: that is no manifest.
    """
    length = sealed[len(_MAGIC)] if len(sealed) > len(_MAGIC) else 0
    named = sealed[len(_MAGIC) + 1 :][:length]
    if not sealed.startswith(_MAGIC) or not named or len(named) < length:
        raise ImageDamaged(f"image {image_id}: its manifest can't be read")
    return named.decode(errors="replace")


class Keyring:
    """The data keys of one environment, asked for when they are wanted and kept in memory only.

    Example:
        >>> import asyncio
        >>> ring = Keyring({"key_1": bytes(32)}, "key_1")
        >>> asyncio.run(ring.current()).id
        'key_1'
    """

    def __init__(
        self,
        secrets: Mapping[str, bytes] | None = None,
        current: str = "",
        ask: Callable[[], Awaitable[tuple[Mapping[str, bytes], str]]] | None = None,
    ) -> None:
        """`ask` gets all keys of the environment, and which one is to be used from now on."""
        self._keys: dict[str, Key] = {}
        self._current = ""
        self._ask = ask
        self.update(secrets or {}, current)

    def update(self, secrets: Mapping[str, bytes], current: str) -> None:
        """Take what the server says. Keys that it no longer names stay at hand: reading with them does no harm."""
        for id, secret in secrets.items():
            if id not in self._keys:
                self._keys[id] = Key(id, secret)
        if current:
            self._current = current

    def announce(self, current: str) -> None:
        """The server has another current key: it is asked for at the next use."""
        self._current = current

    async def current(self) -> Key:
        """The key that is used from now on.

        Raises:
            ImageDamaged: the server gives none.
        """
        if self._current not in self._keys:
            await self._more()
        if self._current not in self._keys:
            raise ImageDamaged("the server gives no key to seal images with")
        return self._keys[self._current]

    async def find(self, id: str) -> Key:
        """The key of this id; unless it is at hand the server is asked once more.

        Raises:
            ImageDamaged: there is no such key for us.
        """
        if id not in self._keys:
            await self._more()
        if id not in self._keys:
            raise ImageDamaged(f"it was sealed with {id}, a key that the server doesn't give to this worker")
        return self._keys[id]

    async def _more(self) -> None:
        if self._ask is not None:
            self.update(*await self._ask())


def _derived(secret: bytes, purpose: str) -> bytes:
    return blake3(secret, derive_key_context=purpose).digest()


def _manifest_bound_to(head: bytes, image_id: str) -> bytes:
    return head + b"manifest " + image_id.encode()
