"""Where this machine gets Debian packages from: a mirror and the keyring that vouches for it, out of apt's own settings.

Both formats are read: `*.sources` (deb822 paragraphs) and `*.list` (one line each). Third parties and the security
archive are passed over; they don't carry other suites of Debian.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_SUITES = re.compile(
    r"(bullseye|bookworm|trixie|forky|duke|sid|(old)*stable|testing|unstable)(-(updates|backports|proposed-updates))?/?$"
)
_KEYRINGS = ("debian-archive-keyring.pgp", "debian-archive-keyring.gpg")


@dataclass(frozen=True)
class Source:
    """One archive: what to write into a sources list to read another suite from the same mirror."""

    uri: str
    keyring: str | None

    def line(self, suite: str) -> str:
        """The one-line form for `suite`."""
        options = f"[signed-by={self.keyring}] " if self.keyring else ""
        return f"deb {options}{self.uri} {suite} main\n"


@dataclass(frozen=True)
class _Entry:
    uris: list[str]
    suites: list[str]
    components: list[str]
    keyring: str | None


def debian_archive(etc_apt: Path = Path("/etc/apt"), keyrings: Path = Path("/usr/share/keyrings")) -> Source | None:
    """The first Debian archive among the machine's apt sources; None when there is none, as on other systems."""
    for entry in _entries(etc_apt):
        if "main" not in entry.components or not any(_SUITES.match(suite) for suite in entry.suites):
            continue
        if entry.keyring and "debian-archive" not in Path(entry.keyring).name:
            continue  # Somebody else's packages for a suite of the same name.
        uri = next((uri for uri in entry.uris if "security" not in uri), None)
        if uri is None:
            continue
        known = (str(keyrings / name) for name in _KEYRINGS if (keyrings / name).exists())
        return Source(uri, entry.keyring or next(known, None))
    return None


def _entries(etc_apt: Path) -> Iterator[_Entry]:
    parts = etc_apt / "sources.list.d"
    for path in [*sorted(parts.glob("*.sources")), etc_apt / "sources.list", *sorted(parts.glob("*.list"))]:
        try:
            text = path.read_text(errors="replace")
        except OSError:
            continue
        yield from _paragraphs(text) if path.suffix == ".sources" else _lines(text)


def _paragraphs(text: str) -> Iterator[_Entry]:
    without_comments = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for paragraph in re.split(r"\n\s*\n", without_comments):
        # A line that begins with a space goes on with the field above it.
        joined = re.sub(r"\n[ \t]+", " ", paragraph)
        pairs = (line.partition(":") for line in joined.splitlines() if ":" in line)
        fields = {name.strip().lower(): value.split() for name, _, value in pairs}
        if "deb" not in fields.get("types", []) or fields.get("enabled", ["yes"])[0].lower() in ("no", "false", "0"):
            continue
        yield _Entry(
            fields.get("uris", []),
            fields.get("suites", []),
            fields.get("components", []),
            _keyring(" ".join(fields.get("signed-by", []))),
        )


def _lines(text: str) -> Iterator[_Entry]:
    for line in text.splitlines():
        match = re.match(r"deb\s+(?:\[([^]]*)\]\s+)?(\S+)\s+(\S+)\s+([^#]+)", line)
        if match:
            options, uri, suite, components = match.groups()
            keyring = re.search(r"signed-by=(\S+)", options or "")
            yield _Entry([uri], [suite], components.split(), _keyring(keyring.group(1) if keyring else ""))


def _keyring(signed_by: str) -> str | None:
    """A keyring's path; a key that is written out in place (or a fingerprint) counts as none given."""
    return signed_by if signed_by.startswith("/") else None
