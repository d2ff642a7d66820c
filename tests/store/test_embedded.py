"""The embedded Postgres: born, killed, orphaned, adopted."""

import asyncio
import os
import signal
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import asyncpg
import pytest

from torpor.errors import ConfigError
from torpor.store import binaries, embedded
from torpor.store.embedded import EmbeddedPostgres

pytestmark = pytest.mark.anyio


def postmaster(postgres: EmbeddedPostgres) -> int:
    return int((data(postgres) / "postmaster.pid").read_text().split("\n")[0])


def data(postgres: EmbeddedPostgres) -> Path:
    place = postgres.directory / "place"
    return (Path(place.read_text().strip()) if place.exists() else postgres.directory) / "data"


async def ask(url: str, statement: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def keep_a_row(url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute("create table kept (n int); insert into kept select generate_series(1, 1000)")
    await connection.close()


async def until_gone(postgres: EmbeddedPostgres) -> None:
    async with asyncio.timeout(60):
        while postgres.is_running():
            await asyncio.sleep(0.01)


async def test_it_starts_answers_stops_and_starts_again(postgres: EmbeddedPostgres):
    assert not postgres.is_running()
    url = await postgres.start()
    await keep_a_row(url)
    assert await postgres.start() == url, "starting twice adopts"
    assert await ask(url, "show fsync") == "on"
    assert await ask(url, "show listen_addresses") == ""
    assert await ask(url, "select getdatabaseencoding()") == "UTF8"
    assert await ask(url, "select datcollate from pg_database where datname = 'torpor'") in ("C", "C.UTF-8")
    await postgres.stop()
    assert not postgres.is_running()
    assert await ask(await postgres.start(), "select count(*) from kept") == 1000


async def test_after_kill_9_of_the_postmaster_committed_rows_are_there(cluster: EmbeddedPostgres):
    url = await cluster.start()
    await keep_a_row(url)
    for _ in range(2):
        os.kill(postmaster(cluster), signal.SIGKILL)
        await until_gone(cluster)
        assert await cluster.ensure() == url
        assert await ask(url, "select count(*) from kept") == 1000


async def test_a_busy_orphan_of_a_killed_postmaster_is_waited_for(cluster: EmbeddedPostgres):
    """A backend in the middle of a statement doesn't notice its postmaster's death, and writes on."""
    url = await cluster.start()
    await keep_a_row(url)
    connection = await asyncpg.connect(url)
    pid = await connection.fetchval("select pg_backend_pid()")
    busy = asyncio.ensure_future(
        connection.execute("do $$ declare n int := 0; begin loop n := (n + 1) % 1000; end loop; end $$")
    )
    while await ask(url, f"select state from pg_stat_activity where pid = {pid}") != "active":
        await asyncio.sleep(0.01)
    os.kill(postmaster(cluster), signal.SIGKILL)
    await until_gone(cluster)
    assert embedded._is_alive(pid), "this test needs an orphan"
    await cluster.ensure()
    assert not embedded._is_alive(pid)
    assert await ask(url, "select count(*) from kept") == 1000
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await busy


OWNER = textwrap.dedent(
    """
    import asyncio, sys, time
    from pathlib import Path
    from torpor.store.embedded import EmbeddedPostgres

    print(asyncio.run(EmbeddedPostgres(Path(sys.argv[1])).start()), flush=True)
    time.sleep(60)
    """
)


def start_owner(directory: Path) -> subprocess.Popen[str]:
    """Another process of ours that starts the server."""
    source = Path(embedded.__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(source)}
    return subprocess.Popen(
        [sys.executable, "-c", OWNER, str(directory)], stdout=subprocess.PIPE, text=True, env=environment
    )


async def test_it_outlives_its_starter_and_is_adopted(cluster: EmbeddedPostgres):
    with start_owner(cluster.directory) as owner:
        assert owner.stdout is not None
        url = owner.stdout.readline().strip()
        await keep_a_row(url)
        owner.kill()
    pid = postmaster(cluster)
    assert cluster.is_running()
    assert await cluster.start() == url
    assert postmaster(cluster) == pid, "the same server"
    assert await ask(url, "select count(*) from kept") == 1000
    # An adopted server that dies is nobody's child here, and may stay a zombie: it is dead all the same.
    os.kill(pid, signal.SIGKILL)
    await until_gone(cluster)
    assert await ask(await cluster.ensure(), "select count(*) from kept") == 1000


async def test_two_starters_at_once_share_one_server(postgres: EmbeddedPostgres):
    with start_owner(postgres.directory) as first, start_owner(postgres.directory) as second:
        try:
            assert first.stdout is not None
            assert second.stdout is not None
            urls = {await asyncio.to_thread(owner.stdout.readline) for owner in (first, second) if owner.stdout}
            assert len(urls) == 1
            assert await ask(urls.pop().strip(), "select 1") == 1
        finally:
            first.kill()
            second.kill()


async def test_a_lock_file_with_a_strangers_pid_keeps_nobody_away(cluster: EmbeddedPostgres):
    """After a reboot, or in a new container, the old pid may be anybody's; here it is our own parent's."""
    await cluster.start()
    await cluster.stop()
    (data(cluster) / "postmaster.pid").write_text(f"{os.getppid()}\n{data(cluster)}\n1\n5432\n\n\n\n")
    assert not cluster.is_running()
    assert await ask(await cluster.start(), "select 1") == 1


async def test_a_ctrl_c_in_our_terminal_is_not_for_the_server(cluster: EmbeddedPostgres):
    await cluster.start()
    assert os.getpgid(postmaster(cluster)) != os.getpgid(0)
    assert os.getsid(postmaster(cluster)) != os.getsid(0)


async def test_a_deep_directory_gets_a_short_socket_path(reachable: Path):
    directory = reachable / ("deep" * 10) / ("deeper" * 10)
    directory.mkdir(parents=True)
    postgres = EmbeddedPostgres(directory)
    try:
        url = await postgres.start()
        assert await ask(url, "select 1") == 1
        sockets = Path(url.split("host=")[1])
        assert len(str(sockets)) < 90
        assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
    finally:
        await postgres.destroy()
    assert not sockets.exists()
    assert not directory.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as somebody else")
async def test_a_directory_that_the_servers_user_cannot_reach_is_served_from_elsewhere(
    reachable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(embedded, "SHELF", reachable / "shelf")
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    postgres = EmbeddedPostgres(private / "postgres")
    try:
        url = await postgres.start()
        assert await ask(url, "select 1") == 1
        place = Path((postgres.directory / "place").read_text().strip())
        assert place.is_relative_to(reachable / "shelf")
        status = (place / "data").stat()
        assert (status.st_uid != 0, stat.S_IMODE(status.st_mode)) == (True, 0o700)
        await postgres.stop()
        assert await EmbeddedPostgres(private / "postgres").start() == url, "it is found there again"
    finally:
        await postgres.destroy()
    assert not place.exists()
    assert not postgres.directory.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as somebody else")
async def test_binaries_that_the_servers_user_cannot_run_are_copied_once(
    reachable: Path, monkeypatch: pytest.MonkeyPatch
):
    original = binaries.choose(None)
    if not (original.bin.parent / "share").exists():
        pytest.skip("a system's own Postgres, which keeps its files apart, is never in somebody's home")
    user = binaries.account()
    monkeypatch.setattr(binaries, "can_reach", lambda path, _user: path.is_relative_to(reachable))
    (reachable / "shelf").mkdir(mode=0o755)
    copy = binaries.within_reach(original, user, reachable / "shelf")
    assert copy.bin.is_relative_to(reachable / "shelf")
    made_at = (copy.bin / "postgres").stat().st_mtime_ns
    assert binaries.within_reach(original, user, reachable / "shelf") == copy
    assert (copy.bin / "postgres").stat().st_mtime_ns == made_at
    said = subprocess.run(
        [copy.bin / "initdb", "--version"], env=copy.environment(), user=user.uid, capture_output=True, check=True
    )
    assert original.version.encode() in said.stdout


async def test_nobody_else_on_this_machine_gets_in(cluster: EmbeddedPostgres):
    url = await cluster.start()
    sockets = Path(url.split("host=")[1])
    assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
    assert stat.S_IMODE(data(cluster).stat().st_mode) == 0o700
    assert "trust" not in (data(cluster) / "pg_hba.conf").read_text()
    if os.geteuid() == 0:
        told = subprocess.run(["/bin/ls", sockets], user=12345, group=12345, capture_output=True, check=False)
        assert told.returncode != 0


async def test_a_cluster_of_another_major_version_is_refused_in_plain_words(cluster: EmbeddedPostgres):
    await cluster.start()
    await cluster.stop()
    version = data(cluster) / "PG_VERSION"
    version.write_text("9\n")
    with pytest.raises(ConfigError, match="made by Postgres 9, but the server found here is"):
        await cluster.start()


async def test_pg_bin_that_holds_no_server_is_refused(
    postgres: EmbeddedPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PG_BIN", str(tmp_path))
    with pytest.raises(ConfigError, match="PG_BIN"):
        await postgres.start()


async def test_a_server_that_does_not_start_says_why(cluster: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(embedded, "SETTINGS", embedded.SETTINGS | {"shared_buffers": "nonsense"})
    with pytest.raises(embedded.PostgresFailed, match="nonsense"):
        await cluster.start()


async def test_a_killed_initdb_leaves_no_half_cluster(postgres: EmbeddedPostgres):
    half = postgres.directory / "data.new"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    assert await ask(await postgres.start(), "select 1") == 1
