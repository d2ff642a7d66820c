"""`torpor checkpoints`: which there are, where the process of each stands, and what is stored of them."""

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.text import Text

app = typer.Typer(help="Checkpoints: list, show, export, scrub, gc.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(help="The checkpoint's id.", metavar="CHECKPOINT", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="As the API has it.")]

STATE_STYLES = {"usable": "green", "kept": "cyan", "dropped": "dim", "unusable": "red"}
KINDS = {"wait": "a wait", "auto": "by itself", "move": "a move"}


@app.command("list")
def list_checkpoints(
    run: Annotated[
        str | None, typer.Argument(help="Of this run, also those that are gone.", metavar="RUN", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 25,
    as_json: AsJson = False,
) -> None:
    """List a run's checkpoints, or all that can be used, newest first."""
    from itertools import islice

    from rich.table import Table
    from rich.text import Text

    from torpor.cli.connection import client
    from torpor.cli.terminal import make_console
    from torpor.figures import ago, instant, size

    with client(f"run {run}" if run else "such thing") as api:
        if run:
            found = list(reversed(api.checkpoints(run)))[:limit]
        else:
            found = list(islice(api.all_checkpoints(page_size=min(limit, 100)), limit))
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    if not found:
        typer.echo("No checkpoints.")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("checkpoint", "of" if run is None else "nr", "made at", "state", "new", "in all", "made"):
        table.add_column(heading, no_wrap=True, justify="right" if heading in ("new", "in all", "nr") else "left")
    for one in found:
        table.add_row(
            one["id"],
            one["runId"] if run is None else str(one["number"]),
            _kind(one),
            Text(one["state"], style=STATE_STYLES.get(one["state"], "")),
            size(one["newBytes"]),
            size(one["sizeBytes"]),
            ago(instant(one["createdAt"])),
        )
    make_console().print(table)


@app.command()
def show(checkpoint: Id, as_json: AsJson = False) -> None:
    """Tell where its tasks and threads stand, what they wait for, and what it costs."""
    from torpor.cli.connection import client
    from torpor.cli.terminal import make_console

    with client(f"checkpoint {checkpoint}") as api:
        found = api.checkpoint(checkpoint)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    console = make_console()
    for line in lines(found):
        console.print(line)


@app.command()
def export(
    checkpoint: Id,
    file: Annotated[Path, typer.Argument(help="Where to; a tar file.", metavar="FILE", show_default=False)],
) -> None:
    """Write a checkpoint's image into a tar file: CRIU's images, the run's files, facts. It isn't sealed there."""
    from torpor.cli.connection import client
    from torpor.figures import size

    with client(f"checkpoint {checkpoint}") as api:
        found = api.checkpoint(checkpoint)
    asyncio.run(_export(found, file))
    typer.echo(f"{file}: {size(file.stat().st_size)}, with all that its memory holds, secrets as well")


async def _export(found: dict[str, Any], file: Path) -> None:
    import io
    import os
    import tarfile

    from torpor.cli.image_store import open_store
    from torpor.wire.http import StoredCheckpoint

    stored = StoredCheckpoint(
        found["id"], found["sizeBytes"], image_id=found["imageId"], digest=found.get("digest", "")
    )
    async with open_store() as store:
        laid = await store.images.fetch(stored)
        facts = json.dumps({**found, "facts": laid.facts}, indent=2).encode()
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as out, tarfile.open(fileobj=out, mode="w") as tar:
            about = tarfile.TarInfo("checkpoint.json")
            about.size = len(facts)
            tar.addfile(about, io.BytesIO(facts))
            tar.add(laid.criu, "criu")
            if laid.files.exists():
                tar.add(laid.files, "files.tar")
        store.images.release(laid)


@app.command()
def scrub() -> None:
    """Read everything that is stored of the checkpoints that are kept, and verify it. The exit code is 1 if any is damaged."""
    raise typer.Exit(asyncio.run(_scrub()))


async def _scrub() -> int:
    from torpor.cli.image_store import open_store
    from torpor.figures import size
    from torpor.images import scrub as read_all

    async with open_store() as store:
        done = await read_all(store.images, await store.live())
    for image_id, problems in done.damaged.items():
        typer.echo(f"{image_id} can't be restored: {'; '.join(problems)}")
    whole = len(done.images) - len(done.damaged)
    typer.echo(f"{whole} of {len(done.images)} images are whole; {done.packs} packs were read, {size(done.bytes)}")
    return 1 if done.damaged else 0


@app.command()
def gc(
    prove: Annotated[
        bool, typer.Option("--prove", help="First read every image that is kept, and see that it needs nothing of it.")
    ] = False,
) -> None:
    """Delete from the object store what no checkpoint needs any more. Workers do so by themselves, a little later."""
    raise typer.Exit(asyncio.run(_gc(prove)))


async def _gc(prove: bool) -> int:
    from datetime import UTC, datetime, timedelta

    from torpor.cli.image_store import open_store
    from torpor.images import needed_by
    from torpor.wire.http import GarbageReply, GarbageRequest

    async with open_store() as store:
        condemned: list[str] = []
        async for names in store.images.strays(datetime.now(UTC) - timedelta(seconds=store.grace_s)):
            request = GarbageRequest(store.worker_id, strays=names)
            condemned += (await store.ask("garbage", request, GarbageReply)).condemned
        count, more = 0, True
        while more or condemned:
            reply = await store.ask("garbage", GarbageRequest(store.worker_id), GarbageReply)
            condemned, more = [*condemned, *reply.condemned], reply.more
            if prove and condemned:
                # Asked after these were condemned: whatever is kept by then can't refer to them any more.
                live = await store.live()
                if reasons := await needed_by(store.images, live, condemned):
                    typer.echo("nothing was deleted: " + "; ".join(reasons), err=True)
                    return 1
                typer.echo(f"none of {len(live)} images needs any of {len(condemned)} objects")
            deleted = await store.images.delete(condemned)
            await store.ask("garbage", GarbageRequest(store.worker_id, deleted=deleted), GarbageReply)
            count, condemned = count + len(deleted), []
    typer.echo(f"{count} objects were deleted")
    return 0


def lines(found: dict[str, Any]) -> "list[Text]":
    """A checkpoint, as `show` prints it."""
    from rich.text import Text

    from torpor.figures import clock, instant, milliseconds, size

    head = Text().append(found["id"], style="bold").append("  " + _kind(found))
    head.append("  " + found["state"], style=STATE_STYLES.get(found["state"], ""))
    told = [head]
    facts = [
        f"run {found['runId']}",
        f"number {found['number']}, attempt {found['attempt']}",
        f"made {clock(instant(found['createdAt']))} by {found['workerId']}",
        f"kept until {clock(instant(found['keptUntil']))}" if found.get("keptUntil") else "",
        f"can't be restored: {found['reason']}" if found.get("reason") else "",
    ]
    told += [Text(fact, style="dim") for fact in facts if fact]
    told.append(Text())
    for place in found.get("waitingAt") or []:
        who = f"task {place['task']}" if place.get("task") else f"thread {place.get('thread', '?')}"
        line = Text(f"{who}  ", style="cyan")
        line.append(f"{place.get('file', '?')}:{place.get('line', '?')}")
        told.append(line)
        if place.get("source"):
            told.append(Text("    " + str(place["source"]).strip(), style="dim"))
    for wait in found.get("waits") or []:
        line = Text("waits for ", style="blue").append(f"a {wait['kind']}").append(f"  {wait['id']}", style="dim")
        line.append(f"  {wait['status'].lower()}", style="green" if wait["status"] == "COMPLETED" else "yellow")
        told.append(line)
    told.append(Text())
    dump = f"dumped in {milliseconds(found['dumpMs'])}, durable after {milliseconds(found['durableMs'])}"
    told += [
        Text(f"memory   {size(found['rssBytes'])}"),
        Text(f"stored   {size(found['newBytes'])} new, {size(found['sharedBytes'])} shared with others; {dump}"),
        Text(f"files    {size(found['filesBytes'])} of the run's own"),
    ]
    if found.get("facts"):
        words = ", ".join(f"{name} {value}" for name, value in found["facts"].items() if isinstance(value, str | int))
        told.append(Text(f"needs    {words}", style="dim"))
    return told


def _kind(found: dict[str, Any]) -> str:
    return f'"{found["name"]}"' if found.get("name") else KINDS.get(found["kind"], str(found["kind"]))
