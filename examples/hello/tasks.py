"""A task that waits. Start it with `torpor dev examples/hello`, then `torpor trigger hello name=Ada --follow`."""

from torpor import logger, task, wait


@task
async def hello(name: str = "world", seconds: float = 20) -> str:
    """Greet someone, now and later. In between there is no process."""
    greetings = [f"Hello, {name}."]
    logger.info("%s See you in %s seconds.", greetings[0], seconds)

    await wait.for_(seconds=seconds)  # minutes and days work the same, and cost the same: nothing

    greetings.append(f"Still here, {name}.")
    logger.info("%s", greetings[1])
    return " ".join(greetings)
