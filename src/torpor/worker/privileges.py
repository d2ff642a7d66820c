"""Giving up: all that makes a process more than its user, for good. Called by a runner that is root, when it is in its room."""

import ctypes
import os
import resource
import struct
from collections.abc import Mapping

from torpor.worker import namespaces

_PR_SET_DUMPABLE = 4
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITIES_3 = 0x20080522
_CAPABILITIES = 64
"""More than any kernel has."""

_libc = ctypes.CDLL(None, use_errno=True)


def become(uid: int, gid: int) -> None:
    """Be this user and nobody else, without any capability, and so that no program gives one back.

    Needs one thread: the capabilities of others would stay.
    """
    for capability in range(_CAPABILITIES):
        try:
            namespaces.prctl(_PR_CAPBSET_DROP, capability)
        except OSError:  # the kernel has no more of them
            break
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(
        uid, uid, uid
    )  # with the last id of root's go the capabilities that are permitted, effective and ambient
    _drop_inheritable()
    namespaces.prctl(_PR_SET_NO_NEW_PRIVS, 1)
    namespaces.prctl(_PR_SET_DUMPABLE, 1)  # else what is about us in /proc stays root's, and we can't read it


def limit(limits: Mapping[str, int]) -> None:
    """Let soft and hard limits be at most these. A hard one never comes back, here or after a restore."""
    for name, most in limits.items():
        number = getattr(resource, name)
        lowered = [most if now == resource.RLIM_INFINITY else min(now, most) for now in resource.getrlimit(number)]
        resource.setrlimit(number, (lowered[0], lowered[1]))


def _drop_inheritable() -> None:
    header = struct.pack("=Ii", _CAPABILITIES_3, 0)
    if _libc.capset(header, bytes(24)) != 0:
        raise OSError(ctypes.get_errno(), "capset")
