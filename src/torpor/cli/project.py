"""What `torpor dev` keeps in a project's data directory, so that later commands find its server and key untold.

`dev.json` (mode 0600) holds the URL, the secret key, the worker token and the pids of the services. It outlives the
process: the next start keeps key and token. `dev.lock` is locked as long as a `torpor dev` runs on the directory. A
pointer in the user's state directory lists running ones, for commands that are called from somewhere else.
"""

import fcntl
import hashlib
import json
import os
import secrets
import string
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from torpor.errors import ConfigError


@dataclass
class DevState:
    """The contents of dev.json."""

    url: str
    secret_key: str
    worker_token: str
    project: str  # the directory that is served, absolute
    pids: dict[str, int] = field(default_factory=dict)  # dev, server, worker: as they are now


def make_key() -> str:
    """A secret key of a development environment: `tr_dev_` and 24 letters and digits."""
    return "tr_dev_" + _random_text(24)


def make_worker_token() -> str:
    return "tw_" + _random_text(40)


def _random_text(length: int) -> str:
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(length))


def read_state(data_dir: Path) -> DevState | None:
    """What the last `torpor dev` on this directory left, or None if there was none or it can't be read."""
    try:
        found = json.loads((data_dir / "dev.json").read_text(encoding="utf-8"))
        return DevState(**{name.name: found[name.name] for name in fields(DevState)})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_state(data_dir: Path, state: DevState) -> None:
    """Write dev.json whole or not at all, readable by its owner only: it holds two secrets."""
    data_dir.mkdir(parents=True, exist_ok=True)
    temporary = data_dir / "dev.json.new"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        json.dump(asdict(state), file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(data_dir / "dev.json")


@contextmanager
def only_one(data_dir: Path) -> Iterator[None]:
    """Hold the directory's lock.

    Raises:
        ConfigError: another `torpor dev` has it.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    with open(data_dir / "dev.lock", "a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            state = read_state(data_dir)
            where = f" at {state.url} (pid {state.pids.get('dev', '?')})" if state else ""
            raise ConfigError(f"another `torpor dev` already runs on {data_dir}{where}: stop it first") from None
        pointer = _pointer(data_dir)
        try:
            pointer.parent.mkdir(parents=True, exist_ok=True)
            pointer.write_text(str(data_dir.resolve()), encoding="utf-8")
        except OSError:
            pass  # a home that can't be written only costs the convenience of being found from elsewhere
        try:
            yield
        finally:
            pointer.unlink(missing_ok=True)


def is_running(data_dir: Path) -> bool:
    """Whether a `torpor dev` holds this directory now."""
    try:
        with open(data_dir / "dev.lock", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except BlockingIOError:
        return True
    except OSError:
        return False


def find_state(environ: Mapping[str, str], cwd: Path) -> tuple[DevState, Path] | None:
    """The `torpor dev` that a command called in `cwd` means, with its data directory.

    That is the one of TORPOR_DATA_DIR, else of this directory or one above it, else the only one that runs.
    """
    if environ.get("TORPOR_DATA_DIR"):
        directory = Path(environ["TORPOR_DATA_DIR"])
        state = read_state(directory)
        return (state, directory) if state else None
    for above in (cwd, *cwd.parents):
        state = read_state(above / ".torpor")
        if state:
            return state, above / ".torpor"
    running = [directory for directory in _pointed_at() if is_running(directory)]
    if len(running) == 1:
        state = read_state(running[0])
        return (state, running[0]) if state else None
    return None


def _state_home() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "torpor" / "dev"


def _pointer(data_dir: Path) -> Path:
    return _state_home() / hashlib.sha256(str(data_dir.resolve()).encode()).hexdigest()[:16]


def _pointed_at() -> list[Path]:
    try:
        return [Path(pointer.read_text(encoding="utf-8")) for pointer in sorted(_state_home().iterdir())]
    except OSError:
        return []
