"""Which instructions a process may use, because its image will need them wherever it is restored.

Libraries look at the CPU once, when they are loaded, and keep the fastest code that it can run: glibc its memcpy, OpenBLAS
its kernels, numpy its loops. The choice is in the image. On a lesser CPU it would end in SIGILL, some day, somewhere; so an
image says what it needs, and is not restored elsewhere (fitness.py).

By default it needs all that the CPU of its birth has. With a baseline (`TORPOR_CPU_BASELINE`) the libraries are told to
choose among less, before the zygote starts, and the image needs only that. Libraries that ask the CPU by themselves, and
listen to no variable, aren't reached; docs/self-hosting.md names those that are.
"""

import platform
from functools import cache
from pathlib import Path

from torpor.errors import ConfigError

_V2 = frozenset({"cx16", "lahf_lm", "pni", "popcnt", "sse4_1", "sse4_2", "ssse3"})
_V3 = _V2 | {"abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"}
_V4 = _V3 | {"avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"}
LEVELS = {"x86-64-v2": _V2, "x86-64-v3": _V3, "x86-64-v4": _V4}
"""The levels of the x86-64 psABI, by the kernel's names for their features (`pni` is SSE3, `abm` has LZCNT)."""

_ANYWAY = frozenset({"aes", "pclmulqdq", "rdrand", "rdtscp", "xsave"})
"""In no level but v3's xsave, and left on: without AES a TLS connection costs ten times as much. What the CPU has of these,
the image needs. glibc's lazy binding uses xsave whenever there is one, whatever its tunables say."""

_INSTRUCTIONS = """
    3dnow 3dnowext abm adx aes amx_bf16 amx_complex amx_fp16 amx_int8 amx_tile avx avx10 avx2
    avx512_4fmaps avx512_4vnniw avx512_bf16 avx512_bitalg avx512_fp16 avx512_vbmi2 avx512_vnni avx512_vp2intersect
    avx512_vpopcntdq avx512bw avx512cd avx512dq avx512er avx512f avx512ifma avx512pf avx512vbmi avx512vl avx_ifma
    avx_ne_convert avx_vnni avx_vnni_int16 avx_vnni_int8 bmi1 bmi2 cldemote clflush clflushopt clwb cmov cmpccxadd
    cx16 cx8 enqcmd f16c fma fma4 fpu fsgsbase fxsr gfni lahf_lm lm lwp mmx movbe movdir64b movdiri pclmulqdq
    pku pni popcnt prefetchi prefetchwt1 rdpid rdrand rdseed rdtscp rtm serialize sha512 sha_ni shstk sm3 sm4 sse sse2
    sse4_1 sse4_2 sse4a ssse3 syscall tbm user_shstk vaes vpclmulqdq waitpkg xop xsave xsavec xsaveopt

    aes asimd asimddp asimdfhm asimdhp asimdrdm atomics bf16 bti crc32 dcpodp dcpop fcma fp fphp
    flagm flagm2 frint i8mm ilrcpc jscvt lrcpc mte paca pacg pmull rng sb sha1 sha2 sha3 sm3 sm4 sme ssbs sve sve2
    sveaes svebf16 svebitperm svei8mm svepmull svesha3 svesm4 uscat
"""
# The kernel's names of what user code can execute, on x86-64 and arm64. Everything else in /proc/cpuinfo is about the kernel's
# own work, about timing or about faults of the CPU, and would keep images from machines that can run them. So would names that
# only one maker's CPUs have for what all can do (mmxext, 3dnowprefetch).

_GLIBC_OFF = {
    "x86-64-v4": "",
    # Names that a glibc doesn't know it passes over; up to 2.32 they ended in `_Usable`.
    "x86-64-v3": "-AVX512F,-AVX512VL,-AVX512BW,-AVX512CD,-AVX512DQ,-AVX512ER,-AVX512PF,-AVX512F_Usable,-AVX512DQ_Usable,-XSAVEC",
}
_GLIBC_OFF["x86-64-v2"] = (
    _GLIBC_OFF["x86-64-v3"]
    + ",-AVX2,-AVX,-AVX2_Usable,-AVX_Usable,-FMA,-FMA_Usable,-FMA4,-BMI1,-BMI2,-LZCNT,-MOVBE,-RTM,"
    "-AVX_Fast_Unaligned_Load"
)

_NUMPY_512 = "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR"
_NUMPY_OFF = {  # numpy up to 2.3 calls them by families, later ones by levels
    "x86-64-v4": "AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR",
    "x86-64-v3": f"X86_V4 {_NUMPY_512}",
    "x86-64-v2": f"X86_V4 {_NUMPY_512} X86_V3 AVX F16C FMA3 AVX2",
}

# OPENSSL_ia32cap: a mask for the bits of CPUID leaf 1 (EDX, ECX), one for leaf 7 (EBX, ECX), one for the rest of leaf 7.
_ADX_RDSEED_SHA = 1 << 19 | 1 << 18 | 1 << 29
_AVX512_EBX = 1 << 16 | 1 << 17 | 1 << 21 | 1 << 26 | 1 << 27 | 1 << 28 | 1 << 30 | 1 << 31
_AVX512_ECX = 1 << 1 | 1 << 6 | 1 << 11 | 1 << 12 | 1 << 14
_VECTOR_AES_ECX = 1 << 8 | 1 << 9 | 1 << 10
_BEYOND_V4 = _ADX_RDSEED_SHA | 1 << 21 | (_AVX512_ECX | _VECTOR_AES_ECX) << 32
_BEYOND_V3 = _BEYOND_V4 | _AVX512_EBX
_BEYOND_V2 = _BEYOND_V3 | 1 << 3 | 1 << 5 | 1 << 8
_XOP = 1 << 11 << 32  # AMD's, told in a bit that leaf 1 has free
_LEAF_1_BEYOND_V2 = _XOP | (1 << 12 | 1 << 22 | 1 << 28 | 1 << 29) << 32
_OPENSSL = {
    "x86-64-v4": f":~{_BEYOND_V4:#x}",
    "x86-64-v3": f"~{_XOP:#x}:~{_BEYOND_V3:#x}",
    "x86-64-v2": f"~{_LEAF_1_BEYOND_V2:#x}:~{_BEYOND_V2:#x}",
}

_OTHERS = {
    "x86-64-v2": {
        "OPENBLAS_CORETYPE": "Nehalem",
        "BLIS_ARCH_TYPE": "penryn",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "ARROW_USER_SIMD_LEVEL": "SSE4_2",
        "NUMBA_CPU_NAME": "nehalem",
    },
    "x86-64-v3": {
        "OPENBLAS_CORETYPE": "Haswell",
        "BLIS_ARCH_TYPE": "haswell",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "ARROW_USER_SIMD_LEVEL": "AVX2",
        "NUMBA_CPU_NAME": "haswell",
    },
    "x86-64-v4": {
        "OPENBLAS_CORETYPE": "SkylakeX",
        "BLIS_ARCH_TYPE": "skx",
        "MKL_ENABLE_INSTRUCTIONS": "AVX512",
        "ATEN_CPU_CAPABILITY": "avx512",
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE",
        "ARROW_USER_SIMD_LEVEL": "AVX512",
        "NUMBA_CPU_NAME": "skylake-avx512",
    },
}

VARIABLES = ("GLIBC_TUNABLES", "NPY_DISABLE_CPU_FEATURES", "OPENSSL_ia32cap", *_OTHERS["x86-64-v2"])
"""Those that `environment` may set."""


@cache
def here() -> frozenset[str]:
    """The instructions that this machine's CPU has; empty where the kernel doesn't tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    told = next((line.partition(":")[2] for line in lines if line.startswith(("flags", "Features"))), "")
    return frozenset(_INSTRUCTIONS.split()) & frozenset(told.split())


def needed(baseline: str | None) -> frozenset[str]:
    """What an image made here needs of the CPU on which it is restored."""
    if not baseline:
        return here()
    always = {"cmov", "cx8", "fpu", "fxsr", "lm", "mmx", "sse", "sse2", "syscall"}  # x86-64 itself
    return (LEVELS[baseline] | always | _ANYWAY) & here()


def level() -> str | None:
    """The highest level that this CPU reaches: the best baseline for machines like it."""
    return next((name for name in reversed(LEVELS) if LEVELS[name] <= here()), None)


def check(baseline: str | None) -> None:
    """Refuse a baseline that is none, or that this CPU doesn't reach.

    Raises:
        ConfigError: it names the setting and what may be there.
    """
    if not baseline:
        return
    if baseline not in LEVELS:
        raise ConfigError(f"TORPOR_CPU_BASELINE={baseline!r} can't be used: it should be one of {', '.join(LEVELS)}")
    if platform.machine() not in ("x86_64", "AMD64"):
        raise ConfigError(f"TORPOR_CPU_BASELINE={baseline!r} can't be used: this machine is {platform.machine()}")
    if missing := sorted(LEVELS[baseline] - here()):
        raise ConfigError(f"TORPOR_CPU_BASELINE={baseline!r} can't be used: this CPU lacks {', '.join(missing)}")


def environment(baseline: str | None, theirs: dict[str, str]) -> dict[str, str]:
    """The variables that hold libraries to the baseline, for a process that is about to start. They win over those of the
    user, whom the facts of an image would otherwise belie; other tunables of glibc's stay.

    Args:
        theirs: the environment that the process would get without it.
    """
    if not baseline:
        return {}
    tunables = [each for each in theirs.get("GLIBC_TUNABLES", "").split(":") if each and ".hwcaps=" not in each]
    if off := _GLIBC_OFF[baseline]:
        tunables.append(f"glibc.cpu.hwcaps={off}")
    return {
        "GLIBC_TUNABLES": ":".join(tunables),
        "NPY_DISABLE_CPU_FEATURES": _NUMPY_OFF[baseline],
        "OPENSSL_ia32cap": _OPENSSL[baseline],
        **_OTHERS[baseline],
    }
