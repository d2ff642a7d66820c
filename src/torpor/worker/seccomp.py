"""Filters of system calls for runs: a small one that images need, and the one that is a wall of the run's room.

Both are inherited by threads and children, can't be taken off, and travel in images. CRIU isn't bound by them. Filters that
user code sets are asked as well as these.

The wall is a list of what is refused, not of what is allowed. A list of what is allowed would stand in the way of libraries
that nobody here has seen, and a run has no capability and sees no file that most of these calls could be turned upon: the
filter keeps a run from the parts of the kernel in which faults have been found again and again, and holds where another wall
has a hole. What is younger than the list doesn't exist for a run.

Three answers. EPERM: you may not. ENOSYS, as from a kernel that lacks the call, or EOPNOTSUPP, as from a file system that does:
where libraries have learnt to do without it.
"""

import ctypes
import errno
import struct
from collections.abc import Iterable

from torpor.worker import namespaces, syscalls

_PR_SET_SECCOMP = 22
_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_MODE_FILTER = 2
_SECCOMP_SET_MODE_FILTER = 1
_SECCOMP_FILTER_FLAG_TSYNC = 1

# What a filter sees: the number, the architecture, the instruction pointer, six arguments of 64 bits (low half first).
_NUMBER = 0
_ARCHITECTURE = 4
_ARGUMENTS = 16

_LOAD = 0x20
_IF_EQUAL = 0x15
_IF_AT_LEAST = 0x35
_IF_ANY_BIT = 0x45
_RETURN = 0x06
_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000

Instruction = tuple[int, int, int, int]
"""Code, how many instructions to skip if it holds, how many if not, value."""

FORBIDDEN = (
    # What is seen where. Only root of a namespace may, and a run is to be no namespace's root (below).
    *("mount", "umount2", "pivot_root", "chroot", "mount_setattr", "open_tree", "open_tree_attr", "move_mount"),
    *("fsopen", "fsconfig", "fsmount", "fspick"),
    # Namespaces: whoever makes one of users is root in it, and within reach of all that the kernel keeps from others.
    "setns",
    # Other processes' memory and descriptors. A run's own children, too: a debugger would stand in the way of CRIU, which
    # is one, and PTRACE has had holes of its own.
    *("ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "kcmp"),
    # Programs and counters in the kernel; page faults answered by whoever wants the kernel to stand still at one.
    *("bpf", "perf_event_open", "userfaultfd"),
    # Key rings belong to a user id, not to a namespace: a later run with the same id would find the keys.
    *("add_key", "request_key", "keyctl"),
    # Files by number, past every wall of names; news of other processes' files.
    *("open_by_handle_at", "fanotify_init"),
    # The machine, which is everybody's.
    *("kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module", "reboot", "swapon", "swapoff"),
    *("quotactl", "quotactl_fd", "acct", "syslog", "settimeofday", "clock_settime", "clock_adjtime", "adjtimex"),
    *("sethostname", "setdomainname", "iopl", "ioperm", "modify_ldt"),
)
"""Answered with EPERM."""

UNKNOWN = (
    # Its arguments are in memory, where a filter can't look for namespaces. The C library falls back on clone.
    "clone3",
    # No image can hold these two; and io_uring calls other calls, of which no filter is told.
    *("io_uring_setup", "io_uring_enter", "io_uring_register", "memfd_secret"),
    # CRIU knows nothing of Landlock: its walls would be silently gone after a restore, and one against abstract sockets keeps
    # CRIU from talking to the process that it is about to freeze, which kills it.
    *("landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"),
    # The mounts of the whole namespace, those included that a process can't reach.
    *("statmount", "listmount"),
)
"""Answered with ENOSYS."""

UNSUPPORTED = ("fallocate",)
"""Answered with EOPNOTSUPP, as by a file system that can't do it: the C library writes zeros instead. A run's output is a file on
its worker's disk, which this fills in one call. Written byte by byte it is short again before it is long (output.py).
"""

_CLONE_NEWTIME = 0x80  # only of unshare: clone has a signal's number in these bits
_CLONE_NEW = 0x7E020000  # mounts, cgroups, names, ipc, users, pids, network
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_NETLINK_ROUTE = 0  # how programs learn a machine's addresses
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C  # type on somebody else's terminal; paste on the console


def refuse_io_uring() -> None:
    """Refuse it to this process, its threads-to-be and its children. Needs CAP_SYS_ADMIN, and one thread.

    For runs without a room. No image can hold an io_uring, and libraries open one without being asked (libuv does, so
    uvloop). All of them have to do without it on older kernels, so they fall back when they are told ENOSYS: then the run
    can be frozen.

    Raises:
        OSError: this kernel has no filters, or we lack the capability.
    """
    program = [(_LOAD, 0, 0, _NUMBER), *_refuse(425, errno.ENOSYS), (_RETURN, 0, 0, _ALLOW)]  # 425 on all architectures
    _, described = _in_memory(program)
    namespaces.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(described))


def refuse_dangerous() -> None:
    """Refuse this process, all its threads and its children what no run may do. Needs no privilege: it gives them up.

    Raises:
        OSError: this kernel has no filters, or nobody has looked at this architecture's calls (ENOTSUP).
    """
    architecture = syscalls.here()
    if architecture is None:
        raise OSError(errno.ENOTSUP, "there is no filter of system calls for this architecture")
    namespaces.prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _, described = _in_memory(wall(architecture))
    # All threads, should there be any: prctl would bind this one only. No filter of another thread's may differ from ours.
    libc = ctypes.CDLL(None, use_errno=True)
    number = architecture.numbers["seccomp"]
    answer = libc.syscall(number, _SECCOMP_SET_MODE_FILTER, _SECCOMP_FILTER_FLAG_TSYNC, ctypes.byref(described))
    if answer != 0:  # a positive one is a thread that could not be bound
        raise OSError(ctypes.get_errno() if answer < 0 else errno.EBUSY, "the filter of system calls was not accepted")


def wall(architecture: syscalls.Architecture) -> list[Instruction]:
    """The program of `refuse_dangerous`."""
    numbers = architecture.numbers
    return [
        # Calls of another kind (32-bit programs) have numbers of their own. They don't exist.
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_IF_EQUAL, 1, 0, architecture.audit),
        (_RETURN, 0, 0, _ERRNO | errno.ENOSYS),
        (_LOAD, 0, 0, _NUMBER),
        # Those of x32 begin at a large number, so they are among these.
        (_IF_AT_LEAST, 0, 1, syscalls.NEWEST + 1),
        (_RETURN, 0, 0, _ERRNO | errno.ENOSYS),
        *(each for name in FORBIDDEN if name in numbers for each in _refuse(numbers[name], errno.EPERM)),
        *(each for name in UNKNOWN if name in numbers for each in _refuse(numbers[name], errno.ENOSYS)),
        *(each for name in UNSUPPORTED if name in numbers for each in _refuse(numbers[name], errno.EOPNOTSUPP)),
        *_case(numbers["clone"], _unless_any_bit(_CLONE_NEW)),
        *_case(numbers["unshare"], _unless_any_bit(_CLONE_NEW | _CLONE_NEWTIME)),
        *_case(numbers["socket"], _families()),
        *_case(numbers["socketpair"], _families()),
        *_case(numbers["ioctl"], _no_typing()),
        (_RETURN, 0, 0, _ALLOW),
    ]


def _case(number: int, block: list[Instruction]) -> Iterable[Instruction]:
    """For this call the block decides, in every case."""
    return [(_IF_EQUAL, 0, len(block), number), *block]


def _refuse(number: int, error: int) -> Iterable[Instruction]:
    return _case(number, [(_RETURN, 0, 0, _ERRNO | error)])


def _unless_any_bit(bits: int) -> list[Instruction]:
    """The first argument has none of these. The kernel, too, looks at the low half only."""
    return [
        (_LOAD, 0, 0, _ARGUMENTS),
        (_IF_ANY_BIT, 0, 1, bits),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]


def _families() -> list[Instruction]:
    """Sockets by which ordinary programs speak. Others have been the doors to many a hole, and load modules when asked for."""
    return [
        (_LOAD, 0, 0, _ARGUMENTS),
        (_IF_EQUAL, 6, 0, _AF_UNIX),
        (_IF_EQUAL, 5, 0, _AF_INET),
        (_IF_EQUAL, 4, 0, _AF_INET6),
        (_IF_EQUAL, 0, 2, _AF_NETLINK),
        (_LOAD, 0, 0, _ARGUMENTS + 2 * 8),
        (_IF_EQUAL, 1, 0, _NETLINK_ROUTE),
        (_RETURN, 0, 0, _ERRNO | errno.EAFNOSUPPORT),
        (_RETURN, 0, 0, _ALLOW),
    ]


def _no_typing() -> list[Instruction]:
    return [
        (_LOAD, 0, 0, _ARGUMENTS + 1 * 8),
        (_IF_EQUAL, 1, 0, _TIOCSTI),
        (_IF_EQUAL, 0, 1, _TIOCLINUX),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]


def _in_memory(program: list[Instruction]) -> tuple[ctypes.Array[ctypes.c_char], ctypes.Array[ctypes.c_char]]:
    """The program as the kernel takes it, and its description, which points at it: keep both until it is taken."""
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    held = ctypes.create_string_buffer(code, len(code))
    described = struct.pack("HP", len(program), ctypes.addressof(held))
    return held, ctypes.create_string_buffer(described, len(described))
