"""How often one key or one public token may ask: a bucket for each, which every request takes a drop from and time fills.

Each server counts for itself: a count that all share would cost a write for each request. Behind a load balancer with three
servers a key may ask up to three times as often. Buckets that are full say nothing, so they are forgotten; when there are
too many all the same, those that were asked for least lately go.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from time import monotonic

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from torpor.config import Settings
from torpor.server.errors import Refused

MAX_BUCKETS = 10_000


@dataclass(frozen=True, slots=True)
class Rate:
    """So many requests per second lastingly, and so many at once after a pause. `per_s` 0: no limit."""

    per_s: float
    burst: int


@dataclass(slots=True)
class Bucket:
    left: float
    at: float  # when that was so


@dataclass(frozen=True, slots=True)
class Taken:
    """What is left after a request; `wait_s` until there is room for the next one, if there was none for this."""

    limit: int
    left: int
    full_in_s: float
    wait_s: float = 0.0

    def headers(self, now_s: float) -> dict[str, str]:
        """As the official client reads them: it waits until `x-ratelimit-reset`, in milliseconds since 1970."""
        told = {
            "x-ratelimit-limit": str(self.limit),
            "x-ratelimit-remaining": str(self.left),
            "x-ratelimit-reset": str(ceil((now_s + (self.wait_s or self.full_in_s)) * 1000)),
        }
        return told | ({"retry-after": str(ceil(self.wait_s))} if self.wait_s else {})


class Rates:
    """The buckets of this server."""

    def __init__(self, of_keys: Rate, of_tokens: Rate, *, clock: Callable[[], float] = monotonic) -> None:
        self._of_keys = of_keys
        self._of_tokens = of_tokens
        self._clock = clock
        self._buckets: OrderedDict[str | bytes, Bucket] = OrderedDict()

    @classmethod
    def of(cls, settings: Settings) -> "Rates":
        return cls(
            Rate(settings.key_requests_per_s, settings.key_requests_burst),
            Rate(settings.token_requests_per_s, settings.token_requests_burst),
        )

    def rate(self, *, is_token: bool) -> Rate:
        return self._of_tokens if is_token else self._of_keys

    def take(self, who: str | bytes, *, is_token: bool) -> Taken | None:
        """Count a request. None: there is no limit."""
        rate = self.rate(is_token=is_token)
        if rate.per_s <= 0:
            return None
        burst, now = max(1, rate.burst), self._clock()
        bucket = self._buckets.pop(who, None) or Bucket(burst, now)
        left = min(float(burst), bucket.left + (now - bucket.at) * rate.per_s)
        is_allowed = left >= 1
        left -= is_allowed
        self._buckets[who] = Bucket(left, now)
        while len(self._buckets) > MAX_BUCKETS:
            self._buckets.popitem(last=False)
        wait_s = 0.0 if is_allowed else (1 - left) / rate.per_s
        return Taken(burst, int(left), (burst - left) / rate.per_s, wait_s)

    def __len__(self) -> int:
        return len(self._buckets)


def refused(taken: Taken, who: str, per_s: float) -> Refused:
    """429, which the official client and ours wait for."""
    return Refused(
        429,
        f"this {who} asks too often: {taken.limit} requests at once, and {per_s:g} per second; "
        f"try again in {ceil(taken.wait_s)} s",
        limit=taken.limit,
        perSecond=per_s,
    )


class RateHeaders:
    """Middleware: every answer, refusals too, says what `access.admit` has noted of the rate in `scope["rate"]`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        noted: dict[str, str] = {}
        scope["rate"] = noted

        async def send_with_rate(message: Message) -> None:
            if noted and message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(noted)
            await send(message)

        await self._app(scope, receive, send_with_rate)
