"""urllib3, and so requests and boto3: its managers forget their pools. What is in use is closed when it is given back."""

from torpor.sdk.fresh.library import Library, Turn


def _drop(_: Turn | None) -> None:
    for manager in LIBRARY.all("urllib3.poolmanager.PoolManager"):
        manager.clear()


LIBRARY = Library("urllib3", {"urllib3": ("poolmanager.PoolManager",)}, drop=_drop)
