"""Where a call goes, what comes back, and when it is tried again."""

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from torpor.config import Settings
from torpor.errors import (
    ApiError,
    ConfigError,
    ConnectionFailed,
    Forbidden,
    NotFound,
    RateLimited,
    ServerError,
    Unauthorized,
    Unprocessable,
)
from torpor.sdk.calls.call import Call

if TYPE_CHECKING:
    import httpx2

ATTEMPTS = 5
FIRST_PAUSE_S = 1.0
PAUSE_FACTOR = 1.6


@dataclass(frozen=True)
class Target:
    """The server and the key."""

    url: str
    key: str

    @classmethod
    def choose(cls, url: str | None, key: str | None) -> "Target":
        settings = Settings.from_environment()
        key = key or settings.secret_key or settings.access_token
        if not key:
            raise ConfigError(
                "no secret key: pass secret_key=, or set TORPOR_SECRET_KEY to the one the server printed "
                "(or TORPOR_ACCESS_TOKEN to a personal token)"
            )
        return cls((url or settings.api_url or f"http://{settings.host}:{settings.port}").rstrip("/"), key)

    def request(self, http: "httpx2.Client | httpx2.AsyncClient", call: Call[Any]) -> "httpx2.Request":
        """One request for all attempts at the call, so that a repeated one is known for what it is."""
        headers = {
            "authorization": f"Bearer {self.key}",
            "content-type": call.content_type,
            "x-trigger-source": "sdk",
            "x-trigger-api-version": "2025-07-16",
            "x-trigger-request-idempotency-key": os.urandom(16).hex(),
            **dict(call.headers),
        }
        timeout = {"connect": 5.0, "read": 30.0 + call.held_s, "write": 30.0, "pool": 60.0}
        return http.build_request(
            call.method,
            self.url + call.path,
            params=call.query or None,
            content=call.body,
            headers=headers,
            extensions={"timeout": timeout},
        )


class Attempts:
    """The attempts at one call. After each: a pause until the next, or None and the value is there, or it raises."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._made = 0
        self.value: Any = None

    def failed(self, error: Exception) -> float:
        """No reply came."""
        pause = self._pause()
        if pause is None:
            told = str(error) or type(error).__name__
            raise ConnectionFailed(f"no answer from {self._target.url} ({told}): is the server running?") from error
        return pause

    def answered(self, response: "httpx2.Response") -> float | None:
        """A reply came."""
        try:
            body = msgspec.json.decode(response.content) if response.content else None
        except msgspec.DecodeError:
            body = None
        if response.is_success:
            self.value = body
            return None
        error = _error(response, body)
        should = response.headers.get("x-should-retry")
        again = should == "true" or (should != "false" and (error.status in (408, 429) or error.status >= 500))
        pause = self._pause() if again else None
        if pause is None:
            raise error
        return max(pause, _asked_pause(response))

    def _pause(self) -> float | None:
        self._made += 1
        return None if self._made >= ATTEMPTS else FIRST_PAUSE_S * PAUSE_FACTOR ** (self._made - 1)


def _asked_pause(response: "httpx2.Response") -> float:
    """Seconds that the server asks for, at most a minute."""
    try:
        if reset := response.headers.get("x-ratelimit-reset"):
            return min(60.0, float(reset) / 1000 - time.time())
        return min(60.0, float(response.headers.get("retry-after", 0)))
    except ValueError:
        return 0.0


def _error(response: "httpx2.Response", body: Any) -> ApiError:
    status = response.status_code
    message = body.get("error") if isinstance(body, dict) else None
    if not isinstance(message, str):
        message = response.reason_phrase or "the server said no more"
    if near := isinstance(body, dict) and body.get("near"):
        message += f" (did you mean {', '.join(map(str, near))}?)" if "did you mean" not in message.lower() else ""
    kinds = {401: Unauthorized, 403: Forbidden, 404: NotFound, 422: Unprocessable, 429: RateLimited}
    return kinds.get(status, ServerError if status >= 500 else ApiError)(status, message, body)
