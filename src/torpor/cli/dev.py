"""`torpor dev`: database, server and worker of a project in one terminal, kept alive, with every run's story told."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from torpor.cli.project import DevState, make_key, make_worker_token, only_one, read_state, write_state
from torpor.config import Settings
from torpor.errors import ConfigError, TorporError

if TYPE_CHECKING:
    from torpor.cli.services import Service

COMES_UP_S = 60.0
TRIES_TO_COME_UP = 3
LOOK_AT_DATABASE_S = 1.0
SECRETS = (
    *("TORPOR_SECRET_KEY", "TRIGGER_SECRET_KEY", "TORPOR_ACCESS_TOKEN", "TRIGGER_ACCESS_TOKEN"),
    *("TORPOR_DATABASE_URL", "TORPOR_WORKER_TOKEN", "TORPOR_OIDC_CLIENT_SECRET"),
)
"""Given to each service that needs them, and to no other: a worker, for one, never sees the database."""


def dev(
    path: Annotated[Path, typer.Argument(help="The project: a directory with tasks, or one .py file.")] = Path("."),
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="0 takes a free one. Default: TORPOR_PORT or 8787.")
    ] = None,
) -> None:
    """Run everything a project needs, reload it when files change, and tell what its runs do."""
    if not path.exists():
        raise ConfigError(f"there is no {path}: name a directory with tasks, or a .py file (`torpor init` writes one)")
    settings = Settings.from_environment()
    home = path if path.is_dir() else path.parent
    given = os.environ.get("TORPOR_DATA_DIR")
    data_dir = (Path(given) if given else home / ".torpor").resolve()
    with only_one(data_dir), kept_port(settings.host, settings.port if port is None else port) as kept:
        settings = replace(settings, data_dir=data_dir, port=kept)
        asyncio.run(Dev(path.resolve(), settings).run())


@contextlib.contextmanager
def kept_port(host: str, port: int) -> Iterator[int]:
    """The port to serve on: the wanted one, or any free one for 0. On Linux nobody else is given it until the end of the block.

    Else it would be anybody's until the server is up, and whenever it has died. The socket that keeps it doesn't listen: beside
    such a one the server may, since both say SO_REUSEADDR.

    Raises:
        ConfigError: something else listens there.
    """
    with contextlib.closing(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)) as keeper:
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            keeper.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"can't listen on {host}:{port} ({error.strerror}): "
                "stop what runs there, or choose another with --port (0 takes a free one)"
            ) from None
        port = keeper.getsockname()[1]
        if sys.platform != "linux":
            keeper.close()  # elsewhere the server could not listen beside it
        yield port


class Dev:
    """One `torpor dev`, from start to end.

    Args:
        project: the directory or file with the tasks.
        settings: with the data directory and the port as they were chosen.
    """

    def __init__(self, project: Path, settings: Settings) -> None:
        from torpor.cli.terminal import make_console

        self._project = project
        self._settings = settings
        self._console = make_console()
        self._stop = asyncio.Event()
        kept = read_state(settings.data_dir)
        self._key_is_new = not (settings.secret_key or kept)
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)
        self._state = DevState(
            url=f"http://{host}:{settings.port}",
            secret_key=settings.secret_key or (kept.secret_key if kept else make_key()),
            worker_token=settings.worker_token or (kept.worker_token if kept else make_worker_token()),
            project=str(project),
            pids={"dev": os.getpid()},
        )
        self._services: list[Service] = []

    async def run(self) -> None:
        """Start everything, keep it going until Ctrl-C or SIGTERM, and stop it in order: worker, server, database."""
        self._catch_signals()
        self._save()
        try:
            async with self._database() as (url, watch):
                server, worker = (
                    self._service("server", ["server", "--no-link"], url),
                    self._worker_service(),
                )
                async with self._alive(server), contextlib.AsyncExitStack() as started:
                    if not await self._until_stopped(self._comes_up(server)):
                        return
                    await started.enter_async_context(self._alive(worker))
                    self._greet(await self._sign_in_link())
                    await self._until_stopped(self._go_on(worker, watch))
        finally:
            self._state.pids = {}
            self._save()

    # -- the parts ----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _database(self) -> AsyncIterator[tuple[str, Awaitable[None] | None]]:
        """A database's URL, and what watches over it when it is our own."""
        from torpor.store.migrate import upgrade

        if self._settings.database_url:
            await upgrade(self._settings.database_url)
            yield self._settings.database_url, None
            return
        from torpor.store.embedded import EmbeddedPostgres

        postgres = EmbeddedPostgres(self._settings.data_dir / "postgres")
        with self._console.status("starting the database"):
            url = await postgres.start()
            await upgrade(url)

        async def watch() -> None:
            while True:
                await asyncio.sleep(LOOK_AT_DATABASE_S)
                if not postgres.is_running():
                    self._notice("the database died; it is started again")
                    try:
                        await postgres.ensure()
                    except TorporError as error:
                        self._notice(str(error))  # and tried again: server and worker wait for it

        try:
            yield url, watch()
        finally:
            await postgres.stop()

    def _worker_service(self) -> "Service":
        """The worker: it moves its runs out of memory before it ends, for as long as the settings say."""
        from torpor.cli.services import STOP_S

        return self._service("worker", ["worker", str(self._project)], stop_s=self._settings.drain_s + STOP_S)

    def _service(
        self, name: str, arguments: list[str], database_url: str | None = None, *, stop_s: float | None = None
    ) -> "Service":
        from torpor.cli.narrator import service_line
        from torpor.cli.services import STOP_S, Service

        environment = {key: value for key, value in os.environ.items() if key not in SECRETS}
        environment |= {
            "TORPOR_DATA_DIR": str(self._settings.data_dir),
            "TORPOR_HOST": self._settings.host,
            "TORPOR_PORT": str(self._settings.port),
            "TORPOR_API_URL": self._state.url,
            "TORPOR_WORKER_TOKEN": self._state.worker_token,
        }
        if database_url:
            environment |= {"TORPOR_DATABASE_URL": database_url, "TORPOR_SECRET_KEY": self._state.secret_key}
            if self._settings.oidc_client_secret:
                environment |= {"TORPOR_OIDC_CLIENT_SECRET": self._settings.oidc_client_secret}
        service = Service(
            name,
            arguments,
            environment,
            stop_s=STOP_S if stop_s is None else stop_s,
            say=lambda line: self._console.print(service_line(name, line)),
            notice=self._notice,
            changed=self._save,
        )
        self._services.append(service)
        return service

    @asynccontextmanager
    async def _alive(self, service: "Service") -> AsyncIterator[None]:
        keeping = asyncio.create_task(service.keep_alive(), name=service.name)
        try:
            yield
        finally:
            await service.stop()
            await keeping

    async def _comes_up(self, server: "Service") -> None:
        """Wait until the server answers.

        Raises:
            ConfigError: it can't; what it printed says why.
        """
        import httpx2

        async with httpx2.AsyncClient(trust_env=False, timeout=5) as http:
            with self._console.status("starting the server"):
                for _ in range(int(COMES_UP_S / 0.05)):
                    if server.deaths >= TRIES_TO_COME_UP:
                        break
                    with contextlib.suppress(httpx2.TransportError):
                        if (await http.get(self._state.url + "/healthz")).status_code == 200:
                            return
                    await asyncio.sleep(0.05)
        raise ConfigError("the server does not come up; what it said stands above")

    async def _go_on(self, worker: "Service", watch_database: Awaitable[None] | None) -> None:
        """What goes on until the end: telling the runs' stories, reloading, watching the database."""
        from torpor.cli.narrator import Narrator
        from torpor.sdk.async_client import AsyncClient

        async with AsyncClient(self._state.url, self._state.secret_key) as client, asyncio.TaskGroup() as going:
            going.create_task(Narrator(client, self._console, datetime.now(UTC)).tell())
            going.create_task(self._reload(worker))
            if watch_database is not None:
                going.create_task(_awaited(watch_database))

    async def _reload(self, worker: "Service") -> None:
        """Have the worker import the project anew when its files change. Runs in flight stay on their version."""
        from watchfiles import awatch

        root = self._project if self._project.is_dir() else self._project.parent
        async for changes in awatch(root, watch_filter=lambda _, changed: is_source(Path(changed), root)):
            names = sorted({str(Path(changed).relative_to(root)) for _, changed in changes})
            self._notice(f"changed: {', '.join(names[:5])}{' …' if len(names) > 5 else ''}")
            worker.signal(signal.SIGHUP)

    # -- the terminal -------------------------------------------------------------------------------------------------

    async def _sign_in_link(self) -> str | None:
        """A link to the dashboard that signs one browser in; none when the server listens to more than this machine."""
        from torpor.sdk.async_client import AsyncClient

        if self._settings.host not in ("127.0.0.1", "localhost", "::1"):
            return None
        with contextlib.suppress(TorporError):
            async with AsyncClient(self._state.url, self._state.secret_key) as client:
                return (await client.create_sign_in_link())["url"]
        return None

    def _greet(self, sign_in_link: str | None) -> None:
        note = "  [dim](new; kept for the next start)[/]" if self._key_is_new else ""
        show = self._console.print
        show(f"[bold]torpor dev[/]  [bold]{self._state.url}[/]")
        if sign_in_link:
            show(f"[dim]dashboard[/]   {sign_in_link}  [dim]signs in once[/]", soft_wrap=True)
        show(f"[dim]secret key[/]  {self._state.secret_key}{note}")
        show(f"[dim]project[/]     {self._project}  [dim]data in {os.path.relpath(self._settings.data_dir)}[/]")
        show("[dim]try[/]         torpor trigger TASK key=value … --follow   [dim]Ctrl-C stops everything[/]\n")

    def _notice(self, text: str) -> None:
        from torpor.cli.narrator import notice

        self._console.print(notice(text, datetime.now(UTC)))

    # -- start and end ------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        """Keep dev.json true: URL, keys and the pids as they are now."""
        pids = {service.name: service.pid for service in self._services if service.pid is not None}
        self._state.pids = {**{name: self._state.pids[name] for name in self._state.pids if name == "dev"}, **pids}
        write_state(self._settings.data_dir, self._state)

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._asked_to_stop)

    def _asked_to_stop(self) -> None:
        """The first time in order; the second time at once."""
        if self._stop.is_set():
            for service in self._services:
                service.kill()
        else:
            self._console.print("[dim]stopping …[/]")
            self._stop.set()

    async def _until_stopped(self, work: Awaitable[None]) -> bool:
        """Do this until it ends (true) or someone asks to stop (false). Its errors are raised."""
        working = asyncio.ensure_future(work)
        stopping = asyncio.create_task(self._stop.wait())
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if working.done():
            working.result()
            return True
        working.cancel()
        with contextlib.suppress(asyncio.CancelledError, TorporError):
            await working
        return False


async def _awaited(work: Awaitable[None]) -> None:
    await work


def is_source(file: Path, root: Path) -> bool:
    """Whether a change of this file is a change of the project's code."""
    if not file.is_relative_to(root):
        return False
    inner = file.relative_to(root)
    if any(part.startswith(".") or part in ("__pycache__", "node_modules", "venv") for part in inner.parts):
        return False
    return file.suffix == ".py" or file.name == "pyproject.toml"
