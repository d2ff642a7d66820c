"""The server's master keys, and what they are for: to wrap the data keys that images are sealed with, to seal the secret
keys that clients sign public tokens with and the values of environment variables, and to sign public tokens ourselves.

    TORPOR_ENCRYPTION_KEYS      the first wraps, the others only unwrap: a new one goes in front, and at the next start all
                                keys are wrapped anew
    <data directory>/server.key otherwise: made at first use, for its owner only

A data key leaves the database only unwrapped, for workers that bring the worker token; they keep it in memory. Whoever has
the database, or the object store, or both, can read no image and ask the API for nothing without a master key.
"""

import base64
import binascii
import contextlib
import hashlib
import hmac
import logging
import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from torpor import engine, ids
from torpor.config import Settings
from torpor.engine import NewKey
from torpor.errors import ConfigError
from torpor.store.database import Database, Transaction
from torpor.store.records import ApiKey, DataKey, EnvVar

log = logging.getLogger("torpor.server")

KEY_BYTES = 32
NONCE_BYTES = 12


@dataclass(frozen=True)
class MasterKey:
    """One of them."""

    secret: bytes

    @property
    def fingerprint(self) -> str:
        """Which one it is, telling nothing of what it is."""
        return hashlib.sha256(b"torpor master key" + self.secret).hexdigest()[:16]


class MasterKeys:
    """Those of this server, the one that wraps first."""

    def __init__(self, keys: list[MasterKey]) -> None:
        self._keys = keys

    @classmethod
    def of(cls, settings: Settings) -> "MasterKeys":
        """Read, or made at first use.

        Raises:
            ConfigError: the setting or the file can't be used.
        """
        if settings.encryption_keys:
            parts = [part.strip() for part in settings.encryption_keys.split(",") if part.strip()]
            return cls([MasterKey(_decoded(part, "TORPOR_ENCRYPTION_KEYS")) for part in parts])
        return cls([MasterKey(_kept_in(settings.data_dir / "server.key"))])

    @property
    def first(self) -> MasterKey:
        return self._keys[0]

    def wrap(self, key_id: str, secret: bytes) -> NewKey:
        nonce = os.urandom(NONCE_BYTES)
        sealed = AESGCM(self.first.secret).encrypt(nonce, secret, key_id.encode())
        return NewKey(key_id, nonce + sealed, self.first.fingerprint)

    def make(self) -> NewKey:
        """A fresh data key, wrapped."""
        return self.wrap(ids.new("key"), os.urandom(KEY_BYTES))

    def unwrap(self, key: DataKey) -> bytes:
        """The data key itself.

        Raises:
            ConfigError: none of ours wraps it.
        """
        return self._opened(f"data key {key.id}", key.id, key.wrapped, key.master, "no checkpoint can be read")

    def open(self, key: ApiKey) -> str:
        """A secret key itself, which a client may have signed with.

        Raises:
            ConfigError: none of ours seals it.
        """
        assert key.sealed is not None
        assert key.master is not None
        cost = "no public token that a client has signed with it is accepted"
        return self._opened(f"secret key {key.id}", _bound(key.key_hash), key.sealed, key.master, cost).decode()

    def seal(self, key_hash: bytes, text: str) -> NewKey:
        """A secret key, to be kept beside its hash."""
        return self.wrap(_bound(key_hash), text.encode())

    def open_variable(self, variable: EnvVar) -> str:
        """Its value.

        Raises:
            ConfigError: none of ours seals it.
        """
        bound_to, what = _place(variable.environment_id, variable.name), f"variable {variable.name}"
        cost = "it has no value, and no run can start"
        return self._opened(what, bound_to, variable.sealed, variable.master, cost).decode()

    def seal_variable(self, environment_id: str, name: str, value: str) -> NewKey:
        """A value, to be kept under this name in this environment, and nowhere else."""
        return self.wrap(_place(environment_id, name), value.encode())

    def _opened(self, what: str, bound_to: str, wrapped: bytes, by: str, cost: str) -> bytes:
        for master in self._keys:
            if master.fingerprint == by:
                with contextlib.suppress(InvalidTag):
                    nonce, sealed = wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:]
                    return AESGCM(master.secret).decrypt(nonce, sealed, bound_to.encode())
        raise ConfigError(
            f"the {what} is wrapped by a master key ({by}) that this server doesn't have: "
            f"add it to TORPOR_ENCRYPTION_KEYS, behind the one to use from now on. Without it {cost}."
        )

    def derive(self, purpose: str) -> list[bytes]:
        """Secrets for this purpose: the first to sign with, all to verify with. Nothing is stored: servers that share
        master keys derive the same."""
        return [hmac.new(master.secret, purpose.encode(), hashlib.sha256).digest() for master in self._keys]


async def ready(database: Database, masters: MasterKeys, environment_id: str, *, now: datetime) -> None:
    """The environment has a data key, and all keys are wrapped by the first master key. For server start-up.

    Raises:
        ConfigError: a data key or a variable is wrapped by a master key that isn't here.
    """
    async with database.transaction() as tx:
        for key in await engine.api_keys_to_reseal(tx, masters.first.fingerprint):
            try:
                new = masters.seal(key.key_hash, masters.open(key))
            except ConfigError as error:
                log.warning("%s", error)  # all else that it is good for needs only its hash
                continue
            await engine.reseal(tx, key.id, new.wrapped, new.master)
        for variable in await engine.variables_to_reseal(tx, masters.first.fingerprint):
            environment, name = variable.environment_id, variable.name
            new = masters.seal_variable(environment, name, masters.open_variable(variable))
            await engine.reseal_variable(tx, environment, name, new.wrapped, new.master)
        for key in await engine.keys_to_rewrap(tx, masters.first.fingerprint):
            await engine.rewrap(tx, masters.wrap(key.id, masters.unwrap(key)))
        await ensure_key(tx, masters, environment_id, now=now)


async def ensure_key(tx: Transaction, masters: MasterKeys, environment_id: str, *, now: datetime) -> None:
    if await engine.current_key(tx, environment_id) is None:
        await engine.make_key(tx, environment_id, masters.make(), now=now)


def _bound(key_hash: bytes) -> str:
    return f"secret key {key_hash.hex()}"


def _place(environment_id: str, name: str) -> str:
    return f"variable {name} of {environment_id}"


def _decoded(text: str, where: str) -> bytes:
    try:
        secret = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        secret = b""
    if len(secret) != KEY_BYTES:
        raise ConfigError(
            f"{where}: a key is 32 bytes in base64, such as `openssl rand -base64 32` makes; several are separated by commas"
        )
    return secret


def _kept_in(file: Path) -> bytes:
    """The key in that file; made if it is missing, whole or not at all, and by one of several servers."""
    with contextlib.suppress(FileNotFoundError):
        return _decoded(file.read_text(encoding="ascii").strip(), str(file))
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f"{file.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w", encoding="ascii") as out:
        out.write(base64.b64encode(os.urandom(KEY_BYTES)).decode() + "\n")
        out.flush()
        os.fsync(out.fileno())
    with contextlib.suppress(FileExistsError):  # another server was quicker: its key it is
        os.link(draft, file)
    draft.unlink()
    return _decoded(file.read_text(encoding="ascii").strip(), str(file))
