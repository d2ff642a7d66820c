"""Which server the command line talks to, and with which key.

In this order: TORPOR_API_URL with TORPOR_SECRET_KEY or TORPOR_ACCESS_TOKEN, then what `torpor dev` left in the project (see
project.py), then what `torpor login` keeps (login.py), then this machine's default port. The requests themselves are those
of `torpor.Client`.
"""

import os
import re
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from torpor.cli.login import PERSONAL, read_logins
from torpor.cli.project import find_state, is_running
from torpor.config import Settings
from torpor.errors import ApiError, ConfigError, ConnectionFailed, NotFound, TorporError, Unauthorized

if TYPE_CHECKING:
    from torpor.sdk.client import Client

RESTARTS_WITHIN_S = 10.0


@dataclass(frozen=True)
class Target:
    """A server and a key, and where each was found, for error messages."""

    url: str
    secret_key: str
    url_from: str
    key_from: str
    is_kept_alive: bool = False  # a `torpor dev` runs it: a server that is away comes back in a moment

    @property
    def is_personal(self) -> bool:
        """The key is a person's: the server knows who asks."""
        return self.secret_key.startswith(PERSONAL)


def find_target(environ: Mapping[str, str] | None = None, cwd: Path | None = None) -> Target:
    """The server and key to use.

    Raises:
        ConfigError: there is no key anywhere.
    """
    environ = os.environ if environ is None else environ
    settings = Settings.from_environment(environ)
    found = find_state(environ, cwd or Path.cwd())
    state, left_by = (found[0], f"`torpor dev` ({found[1] / 'dev.json'})") if found else (None, "")
    logins, kept_by = read_logins(), "`torpor login`"
    if settings.api_url:
        url, url_from = settings.api_url, "TORPOR_API_URL"
    elif state:
        url, url_from = state.url, left_by
    elif logins.last:
        url, url_from = logins.last, kept_by
    else:
        url, url_from = default_url(environ)
    url = url.rstrip("/")
    if settings.secret_key:
        return Target(url, settings.secret_key, url_from, "TORPOR_SECRET_KEY")
    if settings.access_token:
        return Target(url, settings.access_token, url_from, "TORPOR_ACCESS_TOKEN")
    if found and url == found[0].url:
        return Target(url, found[0].secret_key, url_from, left_by, is_running(found[1]))
    if token := logins.servers.get(url):
        return Target(url, token, url_from, kept_by)
    raise ConfigError(
        "no secret key: set TORPOR_SECRET_KEY, or start `torpor dev` here, which makes one and keeps it for later commands; "
        "with a token of your own: `torpor login`"
    )


def default_url(environ: Mapping[str, str]) -> tuple[str, str]:
    """The server that settings name, or else this machine's, and where that was found."""
    settings = Settings.from_environment(environ)
    if settings.api_url:
        return settings.api_url, "TORPOR_API_URL"
    return f"http://{settings.host}:{settings.port}", "the default"


def check_reachable(target: Target) -> None:
    """Fail at once when nothing listens there; the client alone would try for ten seconds.

    Raises:
        ConnectionFailed: with the URL, where it came from and how to start a server.
    """
    parts = urlsplit(target.url)
    address = (parts.hostname or "127.0.0.1", parts.port or (443 if parts.scheme == "https" else 80))
    patient_until = time.monotonic() + (RESTARTS_WITHIN_S if target.is_kept_alive else 0)
    while True:
        try:
            socket.create_connection(address, timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() < patient_until:
                time.sleep(0.1)
                continue
            raise ConnectionFailed(
                f"no server answers at {target.url}, the address from {target.url_from} ({error.strerror or error}).\n"
                "Start one with `torpor dev`, or say where it is with TORPOR_API_URL."
            ) from error


@contextmanager
def client(about: str = "such thing") -> Iterator["Client"]:
    """The API client of this command. A key that isn't accepted is told with where it came from, and a bare
    "Not found" with what was asked for (`about`).
    """
    from torpor.sdk.client import Client  # here, so that `torpor --help` needn't load it

    target = find_target()
    check_reachable(target)
    try:
        with Client(target.url, target.secret_key) as connected:
            yield connected
    except Unauthorized as error:
        if isinstance(error.body, dict) and error.body.get("code") == "wrong_kind":
            raise  # the key is good, and says what it is
        raise wrong_key(target) from error
    except NotFound as error:
        if error.message == "Not found":
            raise NotFound(404, f"there is no {about}", error.body) from error
        raise


def wrong_key(target: Target) -> Unauthorized:
    return Unauthorized(401, f"{target.url} does not accept the secret key from {target.key_from}")


def told(error: TorporError) -> str:
    """An expected error as people should read it: what is wrong, and what to do."""
    match error:
        case NotFound():
            near = error.body.get("near") if isinstance(error.body, dict) else None
            text = re.split(r"(?:; | \()did you mean", error.message)[
                0
            ]  # the server's own sentence, on a line of its own
            return f"{text}\nDid you mean {' or '.join(map(str, near))}?" if near else text
        case ApiError():
            problems = error.body.get("problems") if isinstance(error.body, dict) else None
            lines = [f"  {one.get('path') or 'payload'}: {one.get('message')}" for one in problems or []]
            variables = error.body.get("variableErrors") if isinstance(error.body, dict) else None
            lines += [f"  {one.get('key')}: {one.get('error')}" for one in variables or []]
            return "\n".join([error.message, *lines])
        case _:
            return str(error)
