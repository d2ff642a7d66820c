"""The warm image that a version has at hand, and the making of a new one in the background."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable

from torpor.errors import CriuError, ImageDamaged
from torpor.wire import runner as wire
from torpor.worker.forking import ImportFailed, ZygoteDied
from torpor.worker.process import RunProcess
from torpor.worker.router import NoNetwork
from torpor.worker.warm import Warm, WarmImage, parked

log = logging.getLogger(__name__)

QUIET_S = 1.0
"""A warm image that is only for comparing is made when no run has begun for so long: it is in no hurry, and a start is."""
LONGEST_NOISE_S = 30.0
"""But where it is never quiet it is needed most."""
AGAIN_S, LONGEST_AGAIN_S = 30.0, 3600.0
"""After one that could not be made, or did not hold: how long until the next is tried, twice as long each time."""


class Warming:
    """Of one version, on one worker.

    Args:
        warm: makes, stores, finds and thaws its images; None where nothing can be frozen.
        name: the version's.

    Attributes:
        image: what runners are thawed from; None: they are made in another way.
    """

    def __init__(self, warm: Warm | None, name: str) -> None:
        self.image: WarmImage | None = None
        self._warm = warm
        self._name = name
        self._in_use = Counter[str]()
        self._making: asyncio.Task[None] | None = None
        self._given: RunProcess | None = None
        self._settled = asyncio.Event()
        self._settled.set()
        self._noisy_at = 0.0
        self._again_at = 0.0
        self._again_s = AGAIN_S

    @property
    def is_possible(self) -> bool:
        return self._warm is not None

    async def find(self) -> bool:
        """Take up one that somebody has stored."""
        if self._warm is not None:
            self.image = await self._warm.find()
        return self.image is not None

    async def thaw(self, network: str) -> RunProcess | None:
        """A runner from the image at hand; None: there is none (any more).

        Raises:
            NoNetwork: there is no such network for it here.
        """
        image = self.image
        if self._warm is None or image is None:
            return None
        self._in_use[image.image_id] += 1
        try:
            return await self._warm.thaw(image, network)
        except OSError as error:
            log.warning("the warm image of %s can't be thawed now: %s", self._name, error)
        except CriuError as error:
            if self.image is image:
                self.image = None
                await self._warm.refuse(image.image_id, error.reason)
        finally:
            self._in_use[image.image_id] -= 1
            self._let_go_of(image)
        return None

    def put_away(self) -> None:
        """There is a better way to make runners from now on."""
        if (image := self.image) is not None:
            self.image = None
            self._let_go_of(image)

    # -- making one ---------------------------------------------------------------------------------------------------

    def make(
        self,
        parked_runner: RunProcess | Callable[[], Awaitable[RunProcess]],
        imported: wire.Imported,
        *,
        to_thaw: bool,
    ) -> None:
        """Make one in the background, of a runner that is parked, or that is made for it when no run has begun for a while.

        Args:
            imported: what is in it.
            to_thaw: at once, and runners are thawed from it; else it is what images of runs are compared with.
        """
        if self._warm is None or self._making is asyncio.current_task():
            return  # who makes one has found the zygote dead and had it started anew: it is of the new one
        if self._making is not None:
            self._making.cancel()
        self._noisy_at = time.monotonic()
        self._again_at = self._noisy_at + self._again_s
        self._again_s = min(2 * self._again_s, LONGEST_AGAIN_S)
        if isinstance(parked_runner, RunProcess):
            self._given = parked_runner
        self._settled = asyncio.Event()
        if not to_thaw:
            self._settled.set()
        self._making = asyncio.create_task(self._make(self._warm, parked_runner, imported, self._settled))

    def is_noisy(self) -> None:
        """A run begins."""
        self._noisy_at = time.monotonic()

    @property
    def may_try_again(self) -> bool:
        """There is none, none is being made, and the last try is long enough ago."""
        return (
            self._warm is not None
            and self.image is None
            and self._settled.is_set()
            and time.monotonic() > self._again_at
        )

    async def settled(self) -> None:
        """Wait until an image to thaw from is at hand, or it is known that there won't be one."""
        if self.image is None:
            await self._settled.wait()

    async def finished(self) -> None:
        """Wait until the newest one is stored, if it can be."""
        if self._making is not None:
            await asyncio.wait([self._making])

    async def _make(
        self,
        warm: Warm,
        source: RunProcess | Callable[[], Awaitable[RunProcess]],
        imported: wire.Imported,
        settled: asyncio.Event,
    ) -> None:
        to_thaw = not settled.is_set()
        try:
            if not to_thaw:
                await self._quiet()
            process, image = await self._freeze(warm, source, imported)
            if to_thaw:
                self.image = image
        except (CriuError, ZygoteDied, ImportFailed, NoNetwork, OSError) as error:
            log.warning("version %s has no warm image: %s", self._name, error)
            return
        finally:
            settled.set()
        try:
            if await warm.store(image):
                process.origin.image_id = image.image_id
        except (ImageDamaged, OSError) as error:
            log.warning("the warm image of %s can't be stored: %s", self._name, error)
        finally:
            self._let_go_of(image)

    async def _freeze(
        self, warm: Warm, source: RunProcess | Callable[[], Awaitable[RunProcess]], imported: wire.Imported
    ) -> tuple[RunProcess, WarmImage]:
        process = source if isinstance(source, RunProcess) else await source()
        self._given = None
        try:
            await parked(process)
            return process, await warm.freeze(process, imported)
        finally:
            await process.bury()

    async def _quiet(self) -> None:
        """No run has begun for a while."""
        end = time.monotonic() + LONGEST_NOISE_S
        while (now := time.monotonic()) < min(self._noisy_at + QUIET_S, end):
            await asyncio.sleep(min(self._noisy_at + QUIET_S, end) - now)

    def _let_go_of(self, image: WarmImage) -> None:
        """Remove its files, if nobody is going to thaw from them."""
        if self._warm is not None and image is not self.image and not self._in_use[image.image_id]:
            self._warm.let_go(image)

    async def stop(self) -> None:
        """Stop making one, and let go of the one at hand."""
        if self._making is not None:
            self._making.cancel()
            await asyncio.wait([self._making])
        if self._given is not None:  # it was canceled before it began
            await self._given.bury()
        self.put_away()
