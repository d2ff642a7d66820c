"""The presets of this deployment: the built-in ones, and those that the operator adds or changes by `TORPOR_MACHINES`.

    {"gpu-1x": {"cpu": 8, "memory_gb": 32, "disk_gb": 16, "pids": 4096, "labels": ["gpu", "zone=eu"]}}

`cpu` and `memory_gb` are needed. `disk_gb` is half of the memory unless it is given, `pids` that of the largest built-in preset
with no more memory. A name of a built-in preset changes that one.
"""

import difflib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from torpor.config import Settings
from torpor.errors import ConfigError
from torpor.wire.presets import BUILT_IN, DEFAULT_PRESET, GB, Preset

FIELDS = ("cpu", "memory_gb", "disk_gb", "pids", "labels")
EXAMPLE = '{"gpu-1x": {"cpu": 8, "memory_gb": 32, "labels": ["gpu"]}}'
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*(=.*)?")


def presets(settings: Settings) -> tuple[list[Preset], str]:
    """All there are, and the name of the default one.

    Raises:
        ConfigError: a setting can't be used; it names preset and field, and what should be there.
    """
    own = _own(settings.machines) if settings.machines else {}
    known = BUILT_IN | own
    default = settings.default_machine or DEFAULT_PRESET
    if default not in known:
        raise ConfigError(f"TORPOR_DEFAULT_MACHINE={default!r} can't be used: there are {', '.join(known)}")
    return list(known.values()), default


def _own(given: str) -> dict[str, Preset]:
    text, where = given.strip(), "TORPOR_MACHINES"
    if not text.startswith("{"):
        where = f"TORPOR_MACHINES ({text})"
        try:
            text = Path(text).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{where} can't be read: {error}; give a file's path, or JSON such as {EXAMPLE}"
            ) from None
    try:
        told = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise ConfigError(f"{where} is not JSON: {error}; it should be like {EXAMPLE}") from None
    if not isinstance(told, dict):
        raise ConfigError(f"{where} should be an object of presets by name, such as {EXAMPLE}")
    return {name: _preset(name, fields, where) for name, fields in told.items()}


def _preset(name: str, fields: Any, where: str) -> Preset:
    def wrong(what: str) -> ConfigError:
        return ConfigError(f"{where}: {name}{what}")

    if not _NAME.fullmatch(name):
        raise wrong(": a name is of small letters, digits, '.', '_' and '-', at most 63 of them")
    if not isinstance(fields, dict):
        raise wrong(" should be an object with cpu and memory_gb")
    for field in fields:
        if field not in FIELDS:
            near = difflib.get_close_matches(field, FIELDS, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(FIELDS)}"
            raise wrong(f".{field}: there is no such field; {hint}")
    for field in ("cpu", "memory_gb"):
        if field not in fields:
            raise wrong(f".{field} is missing: it should be a number more than 0")
    cpu = _number(fields["cpu"], ".cpu", 1024, wrong)
    memory_bytes = int(_number(fields["memory_gb"], ".memory_gb", 1 << 20, wrong) * GB)
    disk_gb = fields.get("disk_gb")
    disk_bytes = memory_bytes // 2 if disk_gb is None else int(_number(disk_gb, ".disk_gb", 1 << 20, wrong) * GB)
    pids = fields.get("pids")
    if pids is None:
        pids = max((each.pids for each in BUILT_IN.values() if each.memory_bytes <= memory_bytes), default=256)
    elif isinstance(pids, bool) or not isinstance(pids, int) or not 16 <= pids <= 4_000_000:
        raise wrong(f".pids is {pids!r}: it should be a whole number from 16 to 4000000")
    return Preset(name, cpu, memory_bytes, disk_bytes, pids, _labels(fields.get("labels", []), wrong))


def _number(given: Any, field: str, at_most: float, wrong: Callable[[str], ConfigError]) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 < given <= at_most:
        raise wrong(f"{field} is {given!r}: it should be a number more than 0, and at most {at_most}")
    return float(given)


def _labels(given: Any, wrong: Callable[[str], ConfigError]) -> dict[str, str]:
    if not isinstance(given, list) or not all(isinstance(each, str) and _LABEL.fullmatch(each) for each in given):
        raise wrong(f'.labels is {given!r}: it should be a list of names, such as ["gpu", "zone=eu"]')
    return {name: value for name, _, value in (each.partition("=") for each in given)}
