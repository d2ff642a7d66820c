"""Run a program as pid 1 of its own pid and mount namespaces, with its own /proc and an empty /run.

As `torpor.worker.criu_proof.run_apart`, but by `unshare`: that starts no second Python.
"""

import subprocess

_INSIDE = 'mount -t tmpfs -o mode=755 tmpfs /run && exec "$@"'
_PATIENCE_S = 110.0


def run(*command: str) -> "subprocess.CompletedProcess[str]":
    """Its end and what it has said. Nothing that it has started or mounted is left."""
    unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", _INSIDE, "sh"]
    return subprocess.run([*unshare, *command], capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
