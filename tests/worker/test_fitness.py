"""Which images a machine refuses, and in which words; what an image records of the files that it needs."""

import mmap
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from torpor.errors import ConfigError
from torpor.worker import cpu, fitness
from torpor.worker.fitness import Machine, why_unfit

OURS = fitness.look("4.2.1")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
on_x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="about levels of x86-64")


def test_an_image_fits_where_it_was_made() -> None:
    assert why_unfit(OURS.facts(), OURS) is None


def test_an_image_that_tells_nothing_is_not_refused() -> None:
    """Those that were made before there were facts are tried, as they always were."""
    assert why_unfit({}, OURS) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"arch": "riscv64"}, "it was made on riscv64, and this machine is"),
        ({"cpu": ["avx9000", "avx9001"]}, "instructions that this CPU lacks: avx9000, avx9001"),
        ({"cpu": [f"x{n}" for n in range(6)]}, "x0, x1, x2, x3 and 2 more"),
        ({"criu": "4.3"}, "CRIU 4.3, and the one here is older: 4.2.1"),
        ({"criu": "10.0"}, "CRIU 10.0"),
        ({"executable": ["/nowhere/python", 1, ""]}, "its interpreter /nowhere/python is not there"),
        ({"executable": [OURS.executable[0], 1, "aa"]}, "of another build: here it is CPython"),
        ({"files": {"/nowhere/libm.so": [1, ""]}}, "/nowhere/libm.so is not there"),
    ],
)
def test_a_reason_names_what_differs(change: dict[str, Any], words: str) -> None:
    assert words in str(why_unfit({**OURS.facts(), **change}, OURS))


@pytest.mark.parametrize("older", ["4.2.1", "4.2.7", "4.1.1", "3.17"])
def test_files_of_an_older_criu_can_be_read(older: str) -> None:
    """And of a later patch, which changes no format."""
    assert why_unfit({**OURS.facts(), "criu": older}, OURS) is None


def test_more_instructions_than_an_image_needs_are_no_reason() -> None:
    better = replace(OURS, instructions=OURS.instructions | {"avx9000"})
    assert why_unfit(OURS.facts(), better) is None


def test_a_kernel_without_time_namespaces_can_not_go_on_with_frozen_clocks() -> None:
    theirs = {**OURS.facts(), "time_namespaces": True}
    assert "time namespaces" in str(why_unfit(theirs, replace(OURS, has_time_namespaces=False)))


def test_machines_of_one_digest_refuse_the_same() -> None:
    assert fitness.look("4.2.1").digest == OURS.digest
    others: list[Machine] = [
        replace(OURS, instructions=frozenset({"sse2"})),
        replace(OURS, criu="4.3"),
        replace(OURS, packages="others"),
        replace(OURS, executable=("/usr/bin/python3", 1, "aa")),
    ]
    assert len({OURS.digest, *(other.digest for other in others)}) == len(others) + 1


def test_what_images_need_here_does_not_change_what_is_refused() -> None:
    """A baseline is for the images that are made: the CPU still runs those that need all of it."""
    assert replace(OURS, baseline="x86-64-v2").digest == OURS.digest


# -- files --


@on_linux
def test_the_files_that_a_process_has_mapped_are_recorded(tmp_path: Path) -> None:
    mine, travels = tmp_path / "with a space", tmp_path / "run" / "work"
    travels.parent.mkdir()
    for path in (mine, travels):
        path.write_bytes(b"x" * 5000)
    with open(mine) as first, open(travels) as second:
        with (
            mmap.mmap(first.fileno(), 0, access=mmap.ACCESS_READ),
            mmap.mmap(second.fileno(), 0, access=mmap.ACCESS_READ),
        ):
            found = fitness.mapped_files([os.getpid(), 2**22 + 1], without=travels.parent)
    assert found[str(mine)] == [5000, ""]
    assert str(travels) not in found
    [libc] = [path for path in found if path.rsplit("/")[-1].startswith("libc.so")]
    assert len(found[libc][1]) == 40, "libc has a build id"
    assert why_unfit({**OURS.facts(), "files": found}, OURS) is None


@on_linux
@pytest.mark.skipif(shutil.which("readelf") is None, reason="asks readelf")
def test_build_ids_are_those_that_readelf_shows() -> None:
    found = fitness.mapped_files([os.getpid()], without=Path("/nowhere"))
    for path, (_, build_id) in found.items():
        if path.endswith(".so") or ".so." in path:
            told = subprocess.run(["readelf", "-n", path], capture_output=True, text=True, check=False).stdout
            assert f"Build ID: {build_id}" in told if build_id else "Build ID:" not in told


def test_a_file_that_changed_is_named_with_both_sizes(tmp_path: Path) -> None:
    file = tmp_path / "lib.so"
    file.write_bytes(b"12345")
    facts = {**OURS.facts(), "files": {str(file): [5, ""]}}
    assert why_unfit(facts, OURS) is None
    file.write_bytes(b"123456")
    assert why_unfit(facts, OURS) == f"{file} has 6 bytes, where it had 5"


@on_linux
def test_a_library_of_another_build_is_refused_at_equal_size(tmp_path: Path) -> None:
    libraries = fitness.mapped_files([os.getpid()], without=Path("/nowhere"))
    source, (size, build_id) = next((path, told) for path, told in libraries.items() if told[1])
    copy = tmp_path / "copy.so"
    shutil.copy(source, copy)
    facts = {**OURS.facts(), "files": {str(copy): [size, build_id]}}
    assert why_unfit(facts, OURS) is None
    data = bytearray(copy.read_bytes())
    place = data.index(bytes.fromhex(build_id))
    data[place] ^= 0xFF
    copy.write_bytes(data)
    assert "is of another build" in str(why_unfit(facts, OURS))


# -- baselines --


@pytest.mark.parametrize("wrong", ["v3", "x86-64-v9"])
def test_a_baseline_that_is_none_is_named(wrong: str) -> None:
    with pytest.raises(ConfigError, match=r"TORPOR_CPU_BASELINE=.* should be one of x86-64-v2, x86-64-v3"):
        cpu.check(wrong)


@on_x86
def test_a_baseline_above_this_cpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "here", lambda: cpu.LEVELS["x86-64-v2"])
    cpu.check("x86-64-v2")
    with pytest.raises(ConfigError, match="this CPU lacks abm, avx"):
        cpu.check("x86-64-v3")


@on_x86
def test_an_image_of_a_baseline_needs_no_more_than_that() -> None:
    lesser = replace(OURS, instructions=cpu.needed("x86-64-v2"))
    assert why_unfit(replace(OURS, baseline="x86-64-v2").facts(), lesser) is None
    if OURS.instructions != lesser.instructions:
        assert "TORPOR_CPU_BASELINE" in str(why_unfit(OURS.facts(), lesser))


def test_other_tunables_of_the_user_stay() -> None:
    told = cpu.environment("x86-64-v3", {"GLIBC_TUNABLES": "glibc.malloc.arena_max=1:glibc.cpu.hwcaps=-ERMS"})
    assert told["GLIBC_TUNABLES"].startswith("glibc.malloc.arena_max=1:glibc.cpu.hwcaps=-AVX512F,")
    assert cpu.environment(None, {"GLIBC_TUNABLES": "x"}) == {}


def in_child(baseline: str | None, code: str) -> str:
    environment = {**os.environ, **cpu.environment(baseline, dict(os.environ))}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


with_avx512 = pytest.mark.skipif("avx512f" not in cpu.here(), reason="this CPU has no AVX-512 that could be used")

MEMCPY = """
import ctypes
code = ctypes.string_at(ctypes.cast(ctypes.CDLL(None).memcpy, ctypes.c_void_p).value, 256)
print(code.count(b"\\x62"), code.count(b"\\xc5"))
"""
"""How often the beginning of the memcpy that glibc chose has the first byte of an AVX-512 and of an AVX instruction."""


@with_avx512
def test_glibc_keeps_to_the_baseline() -> None:
    evex, _ = map(int, in_child(None, MEMCPY).split())
    assert evex > 5, "it would use AVX-512"
    evex, vex = map(int, in_child("x86-64-v3", MEMCPY).split())
    assert evex == 0
    assert vex > 5
    assert in_child("x86-64-v2", MEMCPY) == "0 0"


NUMPY = """
import numpy._core._multiarray_umath as umath
print(*sorted(name for name in umath.__cpu_dispatch__ if umath.__cpu_features__[name]))
"""


@with_avx512
def test_numpy_keeps_to_the_baseline() -> None:
    pytest.importorskip("numpy")
    assert "AVX512" in in_child(None, NUMPY)
    assert not any("512" in name or "V4" in name for name in in_child("x86-64-v3", NUMPY).split())
    assert not any("AVX" in name or "V3" in name for name in in_child("x86-64-v2", NUMPY).split())


@on_x86
def test_openblas_keeps_to_the_baseline() -> None:
    pytest.importorskip("numpy")
    code = "import numpy, threadpoolctl; print(*{i['architecture'] for i in threadpoolctl.threadpool_info()})"
    assert in_child("x86-64-v3", code) == "Haswell"
    assert in_child("x86-64-v2", code) == "Nehalem"


@with_avx512
def test_openssl_keeps_to_the_baseline() -> None:
    code = """
import _ssl, ctypes
crypto = ctypes.CDLL(next(line.split()[-1] for line in open("/proc/self/maps") if "libcrypto" in line))
crypto.OPENSSL_info.restype = ctypes.c_char_p
print(crypto.OPENSSL_info(1008).decode())
"""
    leaf_1, leaf_7 = (int(mask, 16) for mask in in_child("x86-64-v3", code).partition("=")[2].split()[0].split(":")[:2])
    assert leaf_7 >> 16 & 1 == 0, "AVX512F"
    assert leaf_7 >> 5 & 1, "AVX2"
    assert leaf_1 >> 32 >> 25 & 1, "AES is left on"
