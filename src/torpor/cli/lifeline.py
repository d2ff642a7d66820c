"""A service that `torpor dev` started ends when `torpor dev` does, even when that is killed and can't stop anyone."""

import ctypes
import os
import signal
import sys

VARIABLE = "TORPOR_DEV_PID"
"""Names the parent to die with. Unset, as for a service that someone started alone, nothing is done."""

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Ask the kernel for a SIGTERM when the parent dies. It is not passed on to our own children: runs are unaffected."""
    named = os.environ.pop(VARIABLE, "")
    if not named.isdigit() or sys.platform != "linux":
        return  # elsewhere a killed `torpor dev` leaves its services running
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(named):
        raise SystemExit("torpor dev is gone already")  # it died before the line above
