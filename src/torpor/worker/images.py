"""Checkpoint images on this machine's disk: published whole or not at all, verified before use, deleted.

    <directory>/key                         32 random bytes, 0600: images are checksummed under it
    <directory>/<checkpoint id>/manifest.json   every file's size and keyed hash, and a hash of the manifest itself
    <directory>/<checkpoint id>/criu/           CRIU's own images
    <directory>/<checkpoint id>/files.tar       the run's working and temporary directories
    <directory>/.writing-<checkpoint id>/       not published; swept at start-up

Restoring an image is executing it as root, so an image that fails verification in any byte is not restored. CRIU itself
would take a flipped page without a word and spin for ever on a truncated one.
"""

import hmac
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from blake3 import blake3

from torpor.errors import ImageDamaged

FILES = "files.tar"


class Images:
    """The images of one worker.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> images = Images(Path(folder.name))
        >>> _ = (images.begin("checkpoint_1") / "criu" / "core-1.img").write_bytes(b"memory")
        >>> images.publish("checkpoint_1", {})
        6
        >>> images.verify("checkpoint_1").name
        'checkpoint_1'
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        os.chmod(directory, 0o700)
        self._key = _key(directory / "key")
        # One slow fsync after the other would cost more than the dump; together they share the disk's journal.
        self._threads = ThreadPoolExecutor(max_workers=8, thread_name_prefix="images")

    def begin(self, checkpoint_id: str) -> Path:
        """An empty place to write an image into: CRIU's files below `criu/`."""
        place = self._writing(checkpoint_id)
        shutil.rmtree(place, ignore_errors=True)
        (place / "criu").mkdir(parents=True)
        return place

    def publish(self, checkpoint_id: str, facts: dict[str, Any]) -> int:
        """Make the image durable and give it its name; return its size in bytes.

        A crash before the rename leaves a `.writing-` directory that `sweep` removes; after it, an image that no row
        knows, which the census with the server removes.
        """
        place = self._writing(checkpoint_id)
        names = sorted(str(file.relative_to(place)) for file in place.rglob("*") if file.is_file())
        entries = dict(zip(names, self._threads.map(lambda name: self._seal(place / name), names), strict=True))
        body = json.dumps({"id": checkpoint_id, "files": entries, "facts": facts}, sort_keys=True)
        with open(place / "manifest.json", "w") as manifest:
            manifest.write(json.dumps({"body": body, "hash": self._hash_of(body)}))
            manifest.flush()
            os.fsync(manifest.fileno())
        _sync_directory(place)
        place.rename(self.directory / checkpoint_id)
        _sync_directory(self.directory)
        return sum(size for size, _ in entries.values())

    def verify(self, checkpoint_id: str) -> Path:
        """The image's place, after every byte of it was checked.

        Raises:
            ImageDamaged: something is missing, was changed or cut short, or was not written under our key.
        """
        place = self.directory / checkpoint_id
        try:
            manifest = json.loads((place / "manifest.json").read_bytes())
            body: str = manifest["body"]
            claimed: str = manifest["hash"]
        except FileNotFoundError:
            raise ImageDamaged(f"image {checkpoint_id} is not on this machine") from None
        except (ValueError, KeyError, TypeError):
            raise ImageDamaged(f"image {checkpoint_id}: its manifest can't be read") from None
        if not hmac.compare_digest(claimed, self._hash_of(body)):
            raise ImageDamaged(f"image {checkpoint_id}: its manifest was not written by this worker, or was changed")
        contents = json.loads(body)
        if contents["id"] != checkpoint_id:
            raise ImageDamaged(f"image {checkpoint_id}: its manifest belongs to {contents['id']}")
        present = {str(file.relative_to(place)) for file in place.rglob("*") if file.is_file()} - {"manifest.json"}
        expected: dict[str, list[Any]] = contents["files"]
        if present != set(expected):
            odd = sorted(present ^ set(expected))[0]
            raise ImageDamaged(f"image {checkpoint_id}: {odd} is {'missing' if odd in expected else 'not part of it'}")
        for problem in self._threads.map(lambda name: self._misfit(place / name, expected[name]), expected):
            if problem is not None:
                raise ImageDamaged(f"image {checkpoint_id}: {problem}")
        return place

    def facts(self, checkpoint_id: str) -> dict[str, Any]:
        """What was recorded beside the image. Call it after `verify`."""
        return json.loads(json.loads((self.directory / checkpoint_id / "manifest.json").read_bytes())["body"])["facts"]

    def ids(self) -> list[str]:
        """Every published image."""
        return sorted(place.name for place in self.directory.iterdir() if place.name.startswith("checkpoint_"))

    def delete(self, checkpoint_id: str) -> None:
        """Remove the image, published or half written; one that isn't there is no error."""
        for place in (self._writing(checkpoint_id), self.directory / checkpoint_id):
            shutil.rmtree(place, ignore_errors=True)

    def sweep(self) -> None:
        """Remove what a crash left half written. Call it while nobody writes."""
        for place in self.directory.glob(".writing-*"):
            shutil.rmtree(place, ignore_errors=True)

    def _writing(self, checkpoint_id: str) -> Path:
        return self.directory / f".writing-{checkpoint_id}"

    def _hash_of(self, body: str) -> str:
        return blake3(body.encode(), key=self._key).hexdigest()

    def _hash_file(self, file: Path) -> str:
        return blake3(key=self._key).update_mmap(file).hexdigest()

    def _seal(self, file: Path) -> tuple[int, str]:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            return os.fstat(descriptor).st_size, self._hash_file(file)
        finally:
            os.close(descriptor)

    def _misfit(self, file: Path, entry: list[Any]) -> str | None:
        size, digest = entry
        found = file.stat().st_size
        if found != size:
            return f"{file.name} has {found} bytes instead of {size}"
        if not hmac.compare_digest(self._hash_file(file), digest):
            return f"{file.name} was changed"
        return None


def _key(path: Path) -> bytes:
    """This worker's key, made at first use. Written whole or not at all: half a key would make every image foreign."""
    if not path.exists():
        draft = path.with_suffix(".draft")
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(os.urandom(32))
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)
    return path.read_bytes()


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
