"""Projects and their environments: make them.

A project is there as long as it has an environment, so it is made with its first one.
"""

import re
from dataclasses import replace

from torpor import engine
from torpor.server import keys, machines
from torpor.server.env_vars import OF_THE_KEY
from torpor.server.errors import Refused
from torpor.server.hub import Hub
from torpor.server.master_keys import ensure_key
from torpor.store.records import Environment

FIRST_KEY = "the first key"
_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")


async def create(
    here: Hub, project: str, slug: str, by: str | None, *, is_first: bool = False
) -> tuple[Environment, str]:
    """Another environment, and the text of its first secret key. 422 for names that can't be.

    Args:
        by: the person who asks, where one is known.
        is_first: its project is to begin with it.
    """
    if is_first:
        check_name("project", project)
    check_name("name", slug)
    if slug == OF_THE_KEY:
        raise Refused(422, f"name: {OF_THE_KEY} is what paths call the environment of a key")
    now, (presets, default_preset) = here.clock.now(), machines.presets(here.settings)
    text, new = keys.made(here.master_keys, slug, FIRST_KEY, None, None)
    async with here.database.transaction() as tx:
        done = await engine.create_environment(
            tx,
            project,
            slug,
            replace(new, created_by=by),
            is_first=is_first,
            checkpoint_retention_s=here.settings.checkpoint_retention_s,
            presets=presets,
            default_preset=default_preset,
            now=now,
        )
        match done:
            case engine.NameTaken() if is_first:
                raise Refused(422, f"project: there is a project {project} already")
            case engine.NameTaken():
                raise Refused(422, f"name: there is an environment {slug} in {project} already")
            case engine.Unknown():
                raise Refused(422, f"project: there is no project {project[:40]}")
            case engine.EnvironmentCreated(environment=made):
                await ensure_key(tx, here.master_keys, made.id, now=now)
    here.environments = None
    return made, text


def check_name(field: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise Refused(422, f"{field}: up to 31 small letters, digits and -, with a letter first, such as prod")
