"""The server's share in deleting images: what is kept no longer is dropped, what nothing refers to is condemned, and what was
deleted long ago is forgotten. The objects themselves are deleted by workers, which are told by `POST /worker/v1/garbage`.
"""

from torpor import engine
from torpor.server.hub import Hub

MANY_STEPS = 10_000


async def collect_garbage(here: Hub, *, steps: int = MANY_STEPS) -> int:
    """How many images and packs were condemned, in at most so many steps of each kind."""
    now, count = here.clock.now(), 0
    for verb in (engine.expire_checkpoints, engine.prune_warm, engine.forget_deleted):
        for _ in range(steps):
            async with here.database.transaction() as tx:
                if not await verb(tx, now=now):
                    break
    for _ in range(steps):
        async with here.database.transaction() as tx:
            done = await engine.condemn(tx, grace_s=here.settings.checkpoint_grace_s, now=now)
        count += len(done.images) + len(done.packs)
        if not done.looked:
            break
    async with here.database.transaction() as tx:
        await engine.drop_keys(tx, now=now)
    return count


async def notice_unreferenced(here: Hub) -> None:
    """Have images looked at that nothing refers to, though nobody has let them go. Walks them all, so it is done rarely."""
    place: str | None = ""
    while place is not None:
        async with here.database.transaction() as tx:
            place = await engine.notice(tx, place=place, now=here.clock.now())
