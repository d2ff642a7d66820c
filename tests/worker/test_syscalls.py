"""The numbers of system calls are those of the kernel's own headers."""

import re
from pathlib import Path

import pytest

from torpor.worker import syscalls

HEADERS = {
    "x86_64": ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm/unistd_64.h"),
    # arm64 has the generic numbers, and never had others.
    "aarch64": ("/usr/include/asm-generic/unistd.h",),
}
YOUNGER_THAN_SOME_HEADERS = {"statmount", "listmount", "open_tree_attr"}


def numbers_in_headers(machine: str) -> dict[str, int]:
    for name in HEADERS[machine]:
        if Path(name).exists():
            found = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", Path(name).read_text())
            return {call: int(number) for call, number in found}
    pytest.skip("no headers of the kernel here")


@pytest.mark.parametrize("machine", list(HEADERS))
def test_numbers_are_those_of_the_headers(machine: str) -> None:
    told = numbers_in_headers(machine)
    ours = syscalls.ARCHITECTURES[machine].numbers
    missing = ours.keys() - told.keys()
    assert missing <= YOUNGER_THAN_SOME_HEADERS
    assert {name: ours[name] for name in ours.keys() - missing} == {name: told[name] for name in ours.keys() - missing}


def test_an_architecture_lacks_only_calls_that_it_never_had() -> None:
    x86_64, arm64 = (set(each.numbers) for each in syscalls.ARCHITECTURES.values())
    assert x86_64 - arm64 == {"iopl", "ioperm", "modify_ldt"}
    assert not arm64 - x86_64


def test_numbers_are_told_apart() -> None:
    for architecture in syscalls.ARCHITECTURES.values():
        assert len(set(architecture.numbers.values())) == len(architecture.numbers)
        assert max(architecture.numbers.values()) <= syscalls.NEWEST
