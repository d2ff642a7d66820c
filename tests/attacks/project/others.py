"""Processes that are not the run's: to see them, to signal them, to look into them."""

import ctypes
import os
import resource
import signal

from arms import World, attack, call, each, in_child


def _own() -> set[int]:
    """This run's processes: those that have pid 1 of this view, or this process, above them."""
    parents = {int(pid): _parent(pid) for pid in os.listdir("/proc") if pid.isdigit()}
    own = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in own and pid not in own}:
        own |= more
    return own


def _parent(pid: str) -> int:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _strangers() -> list[int]:
    return sorted({int(pid) for pid in os.listdir("/proc") if pid.isdigit()} - _own())


def _numbers(world: World) -> list[int]:
    """Where other processes may be found: everywhere."""
    return [pid for pid in {*world.pids, *range(2, 3000)} if pid not in _own()]


@attack
def see_processes_of_others(world: World) -> str:
    return str(_strangers())


@attack
def read_environments_of_others(world: World) -> str:
    def read(pid: int) -> str:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return f"read {len(file.read())} bytes"

    return each({str(pid): lambda p=pid: read(p) for pid in _numbers(world)})


@attack
def read_memory_of_others(world: World) -> str:
    def read(pid: int) -> str:
        with open(f"/proc/{pid}/mem", "rb") as file:
            return f"opened {file.name}"

    return each({str(pid): lambda p=pid: read(p) for pid in _numbers(world)})


@attack
def signal_others(world: World) -> str:
    return each({str(pid): lambda p=pid: os.kill(p, 0) for pid in _numbers(world)})


@attack
def signal_groups_of_others(world: World) -> str:
    return each({str(pid): lambda p=pid: os.killpg(p, 0) for pid in _numbers(world)})


@attack
def open_others_for_signals(world: World) -> str:
    return each({str(pid): lambda p=pid: os.close(os.pidfd_open(p)) for pid in _numbers(world)})


@attack
def trace_others(world: World) -> str:
    attach = 16
    return each({str(pid): lambda p=pid: call(101, 117, attach, p, 0, 0) for pid in [*world.pids, 1]})


@attack
def trace_a_child(world: World) -> str:
    """Refused as well: a tracer stands in the way of a freeze."""
    return in_child(lambda: call(101, 117, 0, 0, 0, 0))


@attack
def read_memory_by_call(world: World) -> str:
    local = ctypes.create_string_buffer(16)
    vector = (ctypes.c_size_t * 2)(ctypes.addressof(local), 16)
    return each(
        {str(pid): lambda p=pid: call(310, 270, p, vector, 1, vector, 1, 0) for pid in [*world.pids, os.getpid()]}
    )


@attack
def write_memory_by_call(world: World) -> str:
    local = ctypes.create_string_buffer(16)
    vector = (ctypes.c_size_t * 2)(ctypes.addressof(local), 16)
    return each(
        {str(pid): lambda p=pid: call(311, 271, p, vector, 1, vector, 1, 0) for pid in [*world.pids, os.getpid()]}
    )


@attack
def take_descriptors_of_others(world: World) -> str:
    def take(pid: int) -> None:
        handle = os.pidfd_open(pid)
        try:
            call(438, 438, handle, 0, 0)
        finally:
            os.close(handle)

    return each({str(pid): lambda p=pid: take(p) for pid in [*world.pids, os.getpid()]})


@attack
def compare_with_others(world: World) -> str:
    return each({str(pid): lambda p=pid: call(312, 272, os.getpid(), p, 0, 0, 0) for pid in [*world.pids, os.getpid()]})


@attack
def take_time_from_others(world: World) -> str:
    """A higher priority than one is given."""
    return in_child(lambda: os.nice(-5))


@attack
def be_a_real_time_process(world: World) -> str:
    return in_child(lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)))


@attack
def raise_own_limits(world: World) -> str:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = (ctypes.c_uint64 * 2)(hard + 1, hard + 1)
    return each({"files": lambda: call(302, 261, 0, int(resource.RLIMIT_NOFILE), wanted, None)})


@attack
def limit_others(world: World) -> str:
    wanted = (ctypes.c_uint64 * 2)(1, 1)
    return each(
        {
            str(p): lambda p=p: call(302, 261, p, int(resource.RLIMIT_CORE), wanted, None)
            for p in world.pids
            if p not in _own()
        }
    )


@attack
def attach_shared_memory_of_others(world: World) -> str:
    return each({"by its key": lambda: call(29, 194, world.memory_key, 1, 0)})


@attack
def signal_everybody(world: World) -> str:
    """All whom this process may signal, itself and pid 1 left out: nobody."""
    return in_child(lambda: os.kill(-1, 0)) if os.getpid() == 1 else "not pid 1"


@attack
def be_born_outside(world: World) -> str:
    """A child of the run's own parent, outside of its view."""
    clone_parent = 0x00008000

    def make() -> None:
        if call(56, 220, clone_parent | signal.SIGCHLD, 0, 0, 0, 0) == 0:
            os._exit(0)

    return each({"clone": make})
