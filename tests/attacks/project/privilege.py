"""To be more than one is."""

import ctypes
import mmap
import os
import platform
import subprocess
from pathlib import Path

from arms import World, attack, call, each, in_child

SIGCHLD = 17
NEW_MOUNTS, NEW_USERS, NEW_PIDS, NEW_NETWORK = 0x00020000, 0x10000000, 0x20000000, 0x40000000


def _status() -> dict[str, str]:
    lines = Path("/proc/self/status").read_text().splitlines()
    return {name: " ".join(value.split()) for name, _, value in (line.partition(":") for line in lines)}


@attack
def be_root(world: World) -> str:
    ways = {
        "setuid": lambda: os.setuid(0),
        "setresuid": lambda: os.setresuid(0, 0, 0),
        "seteuid": lambda: os.seteuid(0),
    }
    return each({way: lambda act=act: _raise_if(in_child(act)) for way, act in ways.items()})


@attack
def be_in_the_group_of_root(world: World) -> str:
    ways = {"setgid": lambda: os.setgid(0), "setgroups": lambda: os.setgroups([0]), "setegid": lambda: os.setegid(0)}
    return each({way: lambda act=act: _raise_if(in_child(act)) for way, act in ways.items()})


def _raise_if(answer: str) -> str:
    import errno

    if answer in errno.errorcode.values():
        raise OSError(getattr(errno, answer), answer)
    return answer


@attack
def be_root_by_a_program(world: World) -> str:
    """A copy of `id` that belongs to root and has its bit set, left in the project by a careless author."""
    program = f"{world.project}/id_of_root"
    return (
        "root" if subprocess.run([program, "-u"], capture_output=True, text=True).stdout.strip() == "0" else "not root"
    )


@attack
def have_capabilities(world: World) -> str:
    status = _status()
    return (
        " ".join(name for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb") if int(status[name], 16)) or "none"
    )


@attack
def have_a_user_of_the_system(world: World) -> str:
    """No id of it is one that others have."""
    ids = {*os.getresuid(), *os.getresgid(), *os.getgroups()}
    return "a system's" if any(each < 1000 or each == 65534 for each in ids) else "its own"


@attack
def take_off_the_filter(world: World) -> str:
    status = _status()
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    no_filter = prctl(22, 0, 0, 0, 0) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_DISABLED
    may_gain = prctl(38, 0, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS, off
    held = status["Seccomp"] == "2" and status["NoNewPrivs"] == "1"
    return "held" if held and not no_filter and not may_gain else f"{status['Seccomp']} {status['NoNewPrivs']}"


@attack
def mount_something(world: World) -> str:
    place = os.fsencode(os.getcwd())
    bind = 4096
    ways = {"tmpfs": (b"none", b"tmpfs", 0), "proc": (b"none", b"proc", 0), "bind": (b"/", None, bind)}
    return each(
        {way: lambda w=w: _undo(call(165, 40, w[0], place, w[1], w[2], None), place) for way, w in ways.items()}
    )


def _undo(_: int, place: bytes) -> None:
    call(166, 39, place, 2)


@attack
def mount_something_by_new_calls(world: World) -> str:
    return each(
        {
            "fsopen": lambda: os.close(call(430, 430, b"tmpfs", 0)),
            "open_tree": lambda: os.close(call(428, 428, -100, b"/", 1)),
        }
    )


@attack
def unmount_something(world: World) -> str:
    """With a flag that only ever says that it would be possible, once."""
    expire = 4
    return each({place: lambda p=place: call(166, 39, p.encode(), expire) for place in ("/proc", "/tmp", "/usr")})


@attack
def make_mounts_writable(world: World) -> str:
    remount_bind = 32 | 4096
    return each(
        {place: lambda p=place: call(165, 40, None, p.encode(), None, remount_bind, None) for place in ("/usr",)}
    )


@attack
def be_root_of_a_namespace(world: World) -> str:
    return each({"unshare": lambda: _raise_if(in_child(lambda: call(272, 97, NEW_USERS)))})


@attack
def have_a_child_in_a_namespace(world: World) -> str:
    def make(flag: int) -> None:
        if call(56, 220, flag | SIGCHLD, 0, 0, 0, 0) == 0:
            os._exit(0)
        os.wait()

    flags = {"users": NEW_USERS, "mounts": NEW_MOUNTS, "pids": NEW_PIDS, "network": NEW_NETWORK}
    return each({name: lambda f=flag: make(f) for name, flag in flags.items()})


@attack
def have_a_child_by_a_newer_call(world: World) -> str:
    arguments = (ctypes.c_uint64 * 11)(NEW_USERS, 0, 0, 0, SIGCHLD)

    def make() -> None:
        if call(435, 435, arguments, 88) == 0:
            os._exit(0)
        os.wait()

    return each({"clone3": make})


@attack
def enter_a_namespace(world: World) -> str:
    def enter(path: str) -> None:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            call(308, 268, descriptor, 0)
        finally:
            os.close(descriptor)

    own = [f"/proc/self/ns/{kind}" for kind in ("mnt", "net", "user", "uts")]
    return each({path: lambda p=path: _raise_if(in_child(lambda: enter(p))) for path in own})


@attack
def change_the_root(world: World) -> str:
    pivot = lambda: call(155, 41, b".", b".")  # noqa: E731
    return each(
        {
            "chroot": lambda: _raise_if(in_child(lambda: os.chroot("."))),
            "pivot_root": lambda: _raise_if(in_child(pivot)),
        }
    )


@attack
def load_a_program_into_the_kernel(world: World) -> str:
    return each({"bpf": lambda: call(321, 280, 0, ctypes.create_string_buffer(120), 120)})


@attack
def count_in_the_kernel(world: World) -> str:
    attributes = ctypes.create_string_buffer(112)
    attributes[0:8] = b"\x01\0\0\0\x70\0\0\0"
    return each({"perf_event_open": lambda: os.close(call(298, 241, attributes, 0, -1, -1, 0))})


@attack
def answer_page_faults(world: World) -> str:
    return each({"userfaultfd": lambda: os.close(call(323, 282, 1))})


@attack
def keep_a_key_in_the_kernel(world: World) -> str:
    add = lambda: call(248, 217, b"user", b"torpor-attack", b"x", 1, -4)  # noqa: E731
    return each(
        {
            "add_key": add,
            "keyctl": lambda: call(250, 219, 0, -4, 0, 0, 0),
            "request_key": lambda: call(249, 218, b"user", b"torpor-attack", None, 0),
        }
    )


@attack
def open_an_io_uring(world: World) -> str:
    return each({"io_uring_setup": lambda: os.close(call(425, 425, 1, ctypes.create_string_buffer(120)))})


@attack
def wall_itself_in(world: World) -> str:
    """Landlock: it would be gone after a restore, or keep CRIU away."""
    return each({"landlock": lambda: call(444, 444, None, 0, 1)})


@attack
def hide_memory(world: World) -> str:
    """Memory that no image can hold."""
    return each({"memfd_secret": lambda: os.close(call(447, 447, 0))})


@attack
def open_files_by_number(world: World) -> str:
    handle = ctypes.create_string_buffer(b"\x08\0\0\0\x01\0\0\0" + bytes(8))
    return each({"open_by_handle_at": lambda: call(304, 265, -100, handle, 0)})


@attack
def watch_files_of_others(world: World) -> str:
    return each({"fanotify": lambda: os.close(call(300, 262, 0, 0))})


@attack
def read_the_kernel_log(world: World) -> str:
    return each({"syslog": lambda: call(103, 116, 3, ctypes.create_string_buffer(4096), 4096)})


@attack
def change_the_clock(world: World) -> str:
    return each(
        {
            "settimeofday": lambda: call(164, 170, None, None),
            "clock_settime": lambda: call(227, 112, 0, None),
            "adjtimex": lambda: call(159, 171, ctypes.create_string_buffer(208)),
            "clock_adjtime": lambda: call(305, 266, 0, ctypes.create_string_buffer(208)),
        }
    )


@attack
def rename_the_machine(world: World) -> str:
    name = os.uname().nodename.encode()
    return each(
        {"sethostname": lambda: call(170, 161, name, len(name)), "setdomainname": lambda: call(171, 162, b"(none)", 6)}
    )


@attack
def change_the_kernel(world: World) -> str:
    return each(
        {
            "init_module": lambda: call(175, 105, b"", 0, b""),
            "finit_module": lambda: call(313, 273, -1, b"", 0),
            "delete_module": lambda: call(176, 106, b"no such module", 0),
            "kexec_load": lambda: call(246, 104, 0, -1, None, 0),
        }
    )


@attack
def turn_the_machine_off(world: World) -> str:
    """With a number that no kernel takes for an order."""
    return each({"reboot": lambda: call(169, 142, 0, 0, 0, None)})


@attack
def change_what_swaps(world: World) -> str:
    return each({"swapon": lambda: call(167, 224, b"/nothing", 0), "swapoff": lambda: call(168, 225, b"/nothing")})


@attack
def change_quotas_and_accounts(world: World) -> str:
    return each({"quotactl": lambda: call(179, 60, -1, b"/", 0, None), "acct": lambda: call(163, 89, b"/nothing")})


@attack
def type_for_somebody_else(world: World) -> str:
    """On whatever terminal there is."""

    def type_on(descriptor: int) -> None:
        call(16, 29, descriptor, 0x5412, b"x")

    return each({"stdin": lambda: type_on(0), "console": lambda: type_on(1)})


@attack
def call_as_a_32_bit_program(world: World) -> str:
    """`umount` by its old number."""
    if platform.machine() != "x86_64":
        return "ENOSYS"
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(b"\x53\xb8\x34\x00\x00\x00\x31\xdb\x31\xc9\xcd\x80\x5b\xc3")  # umount2(NULL, 0) by int 0x80
    answer = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()
    return "ENOSYS" if answer == -38 else str(answer)


@attack
def call_what_nobody_has_looked_at(world: World) -> str:
    """Numbers that no kernel has yet, and those of x32."""
    return each({str(n): lambda n=n: call(n, n, -1, -1, -1) for n in (600, 10**6, 0x40000000 + 39, 2**31 - 1)})
