"""A network namespace that a second worker lives in: as another machine, it reaches us at one address, and has one of its own."""

import os
import subprocess
from dataclasses import dataclass

DEVICE_NAME_MAX = 15


@dataclass(frozen=True)
class Elsewhere:
    """A network namespace beside ours, joined to it by a cable.

    Attributes:
        our_address: how this side is reached, from both sides.
    """

    name: str
    our_address: str

    @property
    def enter(self) -> tuple[str, ...]:
        """What to put before a command that is to run in there."""
        return ("nsenter", f"--net=/run/netns/{self.name}")

    def remove(self) -> None:
        """The cable goes with it."""
        _ip("netns", "delete", self.name)


def make() -> Elsewhere:
    """Make one. Needs root; names and addresses are this process's own."""
    number = os.getpid()
    name, cable = f"torpor-{number}", f"tp{number}"[: DEVICE_NAME_MAX - 1]
    subnet = f"10.213.{number // 64 % 256}"
    first = number % 64 * 4
    ours, theirs = f"{subnet}.{first + 1}", f"{subnet}.{first + 2}"
    _ip("netns", "add", name)
    _ip("link", "add", f"{cable}a", "type", "veth", "peer", "name", f"{cable}b", "netns", name)
    _ip("address", "add", f"{ours}/30", "dev", f"{cable}a")
    _ip("link", "set", f"{cable}a", "up")
    for arguments in (("address", "add", f"{theirs}/30", "dev", f"{cable}b"), ("link", "set", f"{cable}b", "up")):
        _ip("-netns", name, *arguments)
    _ip("-netns", name, "link", "set", "lo", "up")
    return Elsewhere(name, ours)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
