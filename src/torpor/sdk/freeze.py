"""Stand still, so that a checkpoint can be taken: what the runner does between `Suspend` and `Awoken`.

    1. refuse      something is open that no image can hold, or that could change meanwhile: say which descriptor
    2. flush       text in Python's buffers would otherwise reach the log after the freeze
    3. park        descriptors of outside files are let go, by path and offset (descriptors.py)
    4. close       `Suspending`, then the socket: no descriptor of ours is in the image
    5. sleep       in sigwait(SIGUSR1). The signal is blocked before we announce it, so it can't be lost.
                   The image is taken here. Days may pass; or the dump was given up and the signal comes at once
    6. reseed      OpenSSL would otherwise repeat its random numbers in two restores of one image
    7. unpark, connect, `Resumed`, `Awoken`

All of it happens inside one blocking call of the thread that asked, so the event loop sees one consistent cut.
"""

import contextlib
import os
import signal
import sys
from typing import Any

from torpor.sdk import descriptors
from torpor.sdk.channel import Channel
from torpor.wire.runner import Awoken, Resumed, StayingAwake, Suspending

WAKE = signal.SIGUSR1
"""What ends the sleep: sent after a restore, and after a dump that was given up."""


def freeze(
    channel: Channel, run_id: str, open_waits: list[str], waiting_at: list[dict[str, Any]], run_directory: str
) -> Awoken | None:
    """Let a checkpoint be taken. None if that is not possible: the supervisor has been told why, nothing has changed."""
    ours = {channel.fileno()}
    found = descriptors.look(run_directory, ours)
    if found.reasons:
        channel.send(StayingAwake(found.reasons))
        return None
    _flush()
    parked = descriptors.park(found.to_park)
    if channel.has_news():  # most likely an answer: then the freeze would be for nothing
        descriptors.unpark(parked)
        channel.send(StayingAwake(["an answer has just come"], moved=True))
        return None
    # It has been blocked since birth, but user code may have unblocked it. The kernel drops an unblocked signal that has no
    # handler if process 1 is to get it, though it sits in sigwait. It stays blocked: the signal is ours, and one
    # that comes late (a supervisor repeats it) must not reach a handler of user code.
    signal.pthread_sigmask(signal.SIG_BLOCK, {WAKE})
    while WAKE in signal.sigpending():  # left from an earlier, doubled one: it must not wake us now
        signal.sigwait({WAKE})
    channel.send(Suspending([file.told for file in parked], waiting_at))
    channel.close()

    signal.sigwait({WAKE})

    _reseed()
    lost = descriptors.unpark(parked)
    channel.reopen()
    channel.send(Resumed(run_id, open_waits, lost))
    while not isinstance(message := channel.receive(), Awoken):
        pass  # meant for the process before the freeze; `Awoken` holds all answers
    os.environ.update(message.env)
    return message


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed or replaced by user code
            stream.flush()


def _reseed() -> None:
    """OpenSSL detects forks by the process id, which is 1 in every run: two restores would share their random bytes.

    `random` is left alone: a seeded sequence is part of what user code holds.
    """
    if ssl := sys.modules.get("ssl"):
        ssl.RAND_add(os.urandom(32), 32.0)
