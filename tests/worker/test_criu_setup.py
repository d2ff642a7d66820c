"""Where CRIU is looked for, what is believed about it, and how the machine's apt sources are read."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from torpor.config import Settings
from torpor.errors import CriuError
from torpor.worker import criu_install, criu_setup
from torpor.worker.apt_sources import Source, debian_archive
from torpor.worker.criu import Criu
from torpor.worker.criu_setup import NoCriu

DEB822 = """\
Types: deb
# a comment in the middle
URIs: http://packages.example/node
Suites: nodistro
Components: main
Signed-By: /usr/share/keyrings/somebody.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb deb-src
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""

ONE_LINE = """\
# deb http://commented.example/debian bookworm main
deb-src http://mirror.example/sources bookworm main
deb [arch=amd64 signed-by=/usr/share/keyrings/cloud.gpg] https://cloud.example/apt cloud-bookworm main
deb http://mirror.example/debian-security bookworm-security main
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://mirror.example/debian bookworm main contrib
"""

ARCHIVE = Source("http://mirror.example/debian", "/usr/share/keyrings/debian-archive-keyring.gpg")


def apt_with(tmp_path: Path, name: str, text: str) -> Path:
    (tmp_path / "sources.list.d").mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("sources.list.d/debian.sources", DEB822),
        ("sources.list", ONE_LINE),
        ("sources.list.d/debian.list", ONE_LINE),
    ],
)
def test_the_debian_archive_is_found_in_each_format(tmp_path: Path, name: str, text: str) -> None:
    assert debian_archive(apt_with(tmp_path, name, text)) == ARCHIVE


def test_a_source_that_names_no_keyring_gets_the_machine_s_own(tmp_path: Path) -> None:
    keyrings = tmp_path / "keyrings"
    keyrings.mkdir()
    (keyrings / "debian-archive-keyring.pgp").touch()
    etc = apt_with(tmp_path, "sources.list", "deb http://mirror.example/debian trixie main\n")
    source = debian_archive(etc, keyrings)
    assert source == Source("http://mirror.example/debian", str(keyrings / "debian-archive-keyring.pgp"))
    assert source is not None
    assert source.line("forky").startswith(f"deb [signed-by={keyrings}/")


def test_a_disabled_source_and_another_distribution_are_passed_over(tmp_path: Path) -> None:
    text = DEB822.replace("Types: deb deb-src", "Enabled: no\nTypes: deb")
    assert debian_archive(apt_with(tmp_path, "sources.list.d/debian.sources", text)) is None
    assert debian_archive(apt_with(tmp_path, "sources.list", "deb http://ubuntu.example/ubuntu noble main\n")) is None


def test_no_apt_at_all_is_no_archive(tmp_path: Path) -> None:
    assert debian_archive(tmp_path / "missing") is None


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine on which nothing stands in the way, with empty places for a system's CRIU and for our own."""
    monkeypatch.setattr(criu_setup, "obstacle", lambda project=None: None)
    monkeypatch.setattr(criu_setup, "_SYSTEM_PATH", "")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("TORPOR_CRIU_PREFIX", str(tmp_path / "prefix"))
    (tmp_path / "bin").mkdir()
    return tmp_path


def put_script(path: Path, text: str = "#!/bin/false\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def find(machine: Path, **settings: str) -> Criu | NoCriu:
    return asyncio.run(criu_setup.find(Settings(data_dir=machine / "data", **settings)))  # pyright: ignore[reportArgumentType]


def test_without_any_criu_the_fix_is_named(machine: Path) -> None:
    found = find(machine)
    assert isinstance(found, NoCriu)
    assert found.reason == "CRIU is not installed"
    assert "torpor doctor --fix" in found.fix


@pytest.mark.criu
def test_what_a_thaw_would_not_find_again_is_named_with_its_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert criu_setup.obstacle(Path("/tmp/project")) is None
    found = criu_setup.obstacle(Path("/dev/shm/project"))
    assert found is not None
    assert "the project is in /dev/shm/project, " in found.reason
    monkeypatch.setattr("sys.prefix", "/run/venv")
    found = criu_setup.obstacle()
    assert found is not None
    assert "Python is in /run/venv, " in found.reason
    assert "not below /run" in found.fix


def test_a_failing_system_criu_is_named_with_its_reason(machine: Path) -> None:
    put_script(machine / "bin/criu")
    found = find(machine)
    assert isinstance(found, NoCriu)
    assert f"{machine}/bin/criu (system): CRIU ended without an answer" in found.reason


def test_a_criu_that_was_chosen_and_fails_is_not_replaced_by_another(machine: Path) -> None:
    put_script(machine / "bin/criu")
    found = find(machine, criu=str(put_script(machine / "chosen")))
    assert isinstance(found, NoCriu)
    assert "the CRIU that TORPOR_CRIU names does not work" in found.reason
    assert "(system)" not in found.reason


def test_a_system_criu_that_fails_its_proof_makes_way_for_ours(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = put_script(machine / "bin/criu")
    put_script(machine / "prefix/usr/sbin/criu")
    put_script(machine / "prefix/usr/lib64/ld-linux-x86-64.so.2")
    (machine / "prefix/usr/lib/x86_64-linux-gnu").mkdir(parents=True)
    proofs: list[str] = []

    async def version(command: tuple[str, ...]) -> str:
        return "4.2.1"

    async def prove(found: Criu, *, in_room: bool) -> None:
        proofs.append(found.source)
        if found.command == (str(system),):
            raise CriuError("this CRIU is too old for this kernel")

    monkeypatch.setattr(criu_setup.criu, "version", version)
    monkeypatch.setattr(criu_setup, "prove", prove)
    found = find(machine)
    assert isinstance(found, Criu)
    assert found.source == "private"
    assert found.command[1] == "--library-path"
    assert proofs == ["system", "private"]

    find(machine)
    assert proofs == ["system", "private", "system"], "only what was proved is remembered"
    asyncio.run(criu_setup.find(Settings(data_dir=machine / "data"), fresh=True))
    assert proofs[-1] == "private", "a fresh look proves again"


def test_a_damaged_memory_of_proofs_is_no_obstacle(machine: Path) -> None:
    (machine / "data").mkdir()
    (machine / "data/criu-proof.json").write_text("{not json")
    assert isinstance(find(machine), NoCriu)


def test_the_newest_private_criu_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for version in ("4.2.1", "4.10", "4.9"):
        prefix = tmp_path / f"torpor/criu-{version}"
        put_script(prefix / "usr/sbin/criu")
        put_script(prefix / "usr/lib/ld-linux-aarch64.so.1")
        (prefix / "usr/lib/aarch64-linux-gnu").mkdir()
    command = criu_install.installed()
    assert command is not None
    assert "criu-4.10" in command[-1]


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Debian archive whose only package is a CRIU 4.2.1; the user's cache is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    async def fetch(source: Source, work: Path, report: object) -> list[Path]:
        return [work / "criu_4.2.1-1_amd64.deb"]

    async def unpack(*command: str) -> None:
        root = Path(command[-1])
        put_script(root / "usr/sbin/criu", "new")
        put_script(root / "usr/lib64/ld-linux-x86-64.so.2")
        (root / "usr/lib/x86_64-linux-gnu").mkdir(parents=True)

    monkeypatch.setattr(criu_install.shutil, "which", lambda tool: f"/usr/bin/{tool}")
    monkeypatch.setattr(criu_install, "debian_archive", lambda: ARCHIVE)
    monkeypatch.setattr(criu_install, "_fetch", fetch)
    monkeypatch.setattr(criu_install, "_run", unpack)
    return tmp_path / "torpor"


def install(prefix: Path | None = None) -> Path:
    return Path(asyncio.run(criu_install.install(prefix, lambda line: None))[-1])


def test_a_damaged_private_criu_is_replaced(archive: Path) -> None:
    damaged = put_script(archive / "criu-4.2.1/usr/sbin/criu", "")
    assert install() == damaged
    assert damaged.read_text() == "new"
    assert [path.name for path in archive.iterdir()] == ["criu-4.2.1"], "nothing else is left"


def test_a_prefix_that_somebody_named_is_never_emptied(archive: Path, tmp_path: Path) -> None:
    precious = put_script(tmp_path / "chosen/criu-4.2.1/precious")
    with pytest.raises(CriuError, match="can't be put into"):
        install(precious.parent)
    assert precious.exists()


def test_what_a_killed_set_up_left_goes_with_time(archive: Path) -> None:
    left, going_on = archive / ".criu-left", archive / ".criu-going-on"
    for work in (left, going_on):
        put_script(work / "cache/archives/half.deb")
    os.utime(left, (0, 0))
    install()
    assert not left.exists()
    assert going_on.exists()


@pytest.mark.criu
def test_a_criu_that_works_is_proved_and_remembered(tmp_path: Path, criu: Criu) -> None:
    asyncio.run(criu_setup.prove(criu))
    found = asyncio.run(criu_setup.find(Settings(data_dir=tmp_path, criu=Settings.from_environment().criu)))
    assert found == criu
    assert criu.version in json.loads((tmp_path / "criu-proof.json").read_text())[0]


@pytest.mark.criu
def test_what_runs_in_rooms_need_of_it_is_proved_by_itself(tmp_path: Path, criu: Criu) -> None:
    """Another user's process with a root of its own: an older proof of something else does not count for that."""
    settings = Settings(data_dir=tmp_path, criu=Settings.from_environment().criu)
    asyncio.run(criu_setup.find(settings))
    assert asyncio.run(criu_setup.find(settings, in_room=True)) == criu
    assert [key.endswith(" room") for key in json.loads((tmp_path / "criu-proof.json").read_text())] == [True, False]
