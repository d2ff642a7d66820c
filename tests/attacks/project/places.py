"""Files that are not the run's: to read them, and to write where nothing is its own."""

import contextlib
import errno
import glob
import os
import re
import stat
import sys
from pathlib import Path

from arms import World, attack, each


def _read(path: str) -> str:
    with open(path, "rb") as file:
        return f"read {len(file.read(64))} bytes"


def _write(path: str) -> None:
    existed = os.path.lexists(path)
    with open(path, "ab"):
        pass
    if not existed:
        os.unlink(path)


def _ways(world: World, path: str) -> dict[str, str]:
    """One file by several names."""
    others = [f"/proc/{pid}/{how}{path}" for pid in (1, *world.pids) for how in ("root", "cwd/../../../../..")]
    return {name: name for name in (path, "../" * 40 + path.lstrip("/"), *others)}


@attack
def read_files_of_another_run(world: World) -> str:
    names = [os.path.join(part, "secret") for part in ("work", "tmp", "shm", "own/work", "room/run/torpor/work")]
    return each({f"{place}/{name}": lambda p=f"{place}/{name}": _read(p) for place in world.others for name in names})


@attack
def list_another_run(world: World) -> str:
    return each({place: lambda p=place: _list(p) for place in world.others})


def _list(path: str) -> list[str]:
    """An empty directory in its place is as good as none."""
    if found := os.listdir(path):
        return found
    raise FileNotFoundError(errno.ENOENT, "nothing in there")


@attack
def read_output_of_another_run(world: World) -> str:
    return each({place: lambda p=place: _read(f"{p}/output.log") for place in world.others})


@attack
def read_own_output_of_an_earlier_life(world: World) -> str:
    """What a run has written belongs to its story, not to whoever is in its place."""
    return each({"by its path": lambda: _read("/run/torpor/output.log"), "beside": lambda: _read("../output.log")})


@attack
def read_keys_of_the_worker(world: World) -> str:
    places = [f"{world.data}/server.key", f"{world.data}/worker/id", f"{world.data}/worker/server.key"]
    return each({way: lambda p=way: _read(p) for place in places for way in _ways(world, place)})


@attack
def list_the_data_directory(world: World) -> str:
    return each({way: lambda p=way: _list(p) for way in _ways(world, world.data)})


@attack
def read_a_secret_of_the_host(world: World) -> str:
    return each({way: lambda p=way: _read(p) for way in _ways(world, world.secret)})


@attack
def read_passwords_of_the_host(world: World) -> str:
    return each({way: lambda p=way: _read(p) for way in _ways(world, "/etc/shadow")})


@attack
def read_homes_of_the_host(world: World) -> str:
    homes = ("/root/.bashrc", "/root/.profile", "/root/.ssh", "/var/log/dpkg.log", "/var/lib/dpkg/status", "/boot")
    return each({home: lambda p=home: os.listdir(p) if os.path.isdir(p) else _read(p) for home in homes})


@attack
def read_shared_memory_of_the_host(world: World) -> str:
    return each({world.shared: lambda: _read(world.shared)})


@attack
def read_the_kernel_and_its_devices(world: World) -> str:
    places = ("/proc/kcore", "/dev/mem", "/dev/kmsg", "/dev/kvm", "/dev/fuse", "/dev/vda", "/dev/sda", "/proc/kmsg")
    return each({place: lambda p=place: _read(p) for place in places})


def _devices() -> list[str]:
    harmless = {"null", "zero", "full", "random", "urandom", "tty", "ptmx"}  # the last: a terminal of its own
    found: list[str] = []
    for place, _, names in os.walk("/dev"):
        for name in names:
            mode = os.lstat(f"{place}/{name}").st_mode
            if (stat.S_ISBLK(mode) or stat.S_ISCHR(mode)) and name not in harmless:
                found.append(f"{place}/{name}")
    return found


@attack
def find_device_nodes(world: World) -> str:
    return str(_devices())


@attack
def make_a_device_node(world: World) -> str:
    def make(kind: int) -> None:
        os.mknod("device", kind | 0o600, os.makedev(1, 1))
        os.unlink("device")

    return each({"characters": lambda: make(stat.S_IFCHR), "blocks": lambda: make(stat.S_IFBLK)})


@attack
def write_to_the_system(world: World) -> str:
    places = ("/usr", "/usr/bin", "/usr/local/bin", "/bin", "/lib", os.path.dirname(os.path.realpath(sys.executable)))
    return each({place: lambda p=place: _write(f"{p}/attacked") for place in places})


@attack
def write_to_the_root_directory(world: World) -> str:
    return each({place: lambda p=place: _write(f"{p}/attacked") for place in ("/", "/proc/1/root")})


@attack
def write_to_etc(world: World) -> str:
    return each({name: lambda p=name: _write(f"/etc/{p}") for name in ("attacked", "passwd", "ld.so.preload", "hosts")})


@attack
def write_to_packages(world: World) -> str:
    return each(
        {
            place: lambda p=place: _write(f"{p}/attacked.pth")
            for place in {world.packages, *sys.path}
            if os.path.isdir(place)
        }
    )


@attack
def write_to_the_project(world: World) -> str:
    return each({name: lambda p=name: _write(f"{world.project}/{p}") for name in ("attacked.py", "arms.py")})


@attack
def write_to_dev(world: World) -> str:
    return each({"a file": lambda: _write("/dev/attacked")})


@attack
def write_to_the_run_directory(world: World) -> str:
    """Above its own directories, where its control socket is."""
    return each({place: lambda p=place: _write(f"{p}/attacked") for place in ("/run", "/run/torpor", "..")})


@attack
def remove_the_control_socket(world: World) -> str:
    place = _control_socket()
    return each({"unlink": lambda: os.unlink(place), "rename": lambda: os.rename(place, "taken")})


def _control_socket() -> str:
    found = [p for p in ("/run/torpor/ctl.sock", "../ctl.sock") if os.path.exists(p)]
    return found[0] if found else "no control socket"


@attack
def replace_own_directories(world: World) -> str:
    """The supervisor packs `work` and `tmp` by their names, as root."""
    here = os.getcwd()

    def replace(name: str) -> None:
        place = os.path.join(os.path.dirname(here), name)
        os.rename(place, place + ".moved")
        os.rename(place + ".moved", place)

    return each({name: lambda n=name: replace(n) for name in ("work", "tmp", "shm")})


@attack
def write_to_own_program(world: World) -> str:
    return each({"/proc/self/exe": lambda: _write("/proc/self/exe")})


@attack
def write_to_settings_of_the_kernel(world: World) -> str:
    places = (
        "kernel/hostname",
        "kernel/core_pattern",
        "vm/overcommit_memory",
        "net/ipv4/ip_forward",
        "fs/pipe-max-size",
    )
    return each({place: lambda p=place: _write(f"/proc/sys/{p}") for place in places})


@attack
def pull_the_emergency_brake(world: World) -> str:
    return each({place: lambda p=place: _write(p) for place in ("/proc/sysrq-trigger", "/proc/1/oom_score_adj_none")})


@attack
def be_spared_when_memory_is_short(world: World) -> str:
    def spare() -> None:
        Path("/proc/self/oom_score_adj").write_text("-1000")

    return each({"oom_score_adj": spare})


@attack
def write_to_sys(world: World) -> str:
    places = ("kernel/uevent_helper", "power/state", "kernel/mm/transparent_hugepage/enabled", "fs/cgroup/cgroup.procs")
    return each({place: lambda p=place: _write(f"/sys/{p}") for place in places})


@attack
def leave_the_control_groups(world: World) -> str:
    """Through any file system of control groups that is seen."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    found = [point for _, point, kind, *_ in mounts if kind.startswith("cgroup")]
    procs = [
        p for place in [*found, "/sys/fs/cgroup"] for p in glob.glob(f"{place}/**/cgroup.procs", recursive=True)[:20]
    ]

    def move(path: str) -> None:
        with open(path, "w") as file:
            file.write("0")

    return each(
        {path: lambda p=path: move(p) for path in procs}
        or {"none is seen": lambda: os.listdir("/sys/fs/cgroup/memory")}
    )


@attack
def find_descriptors_of_the_worker(world: World) -> str:
    """Directories from outside, sockets that aren't the control socket, files that nobody here has opened."""
    found: list[str] = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            mode, target = os.fstat(int(name)).st_mode, os.readlink(f"/proc/self/fd/{name}")
            if stat.S_ISDIR(mode) and not target.startswith("/proc/"):
                found.append(target)
            if stat.S_ISREG(mode) and int(name) > 2:
                found.append(target)
    return str(found)


@attack
def find_secrets_in_the_environment(world: World) -> str:
    def begins_with_ours(text: bytes) -> bool:
        return any(each.startswith((b"TORPOR_", b"TRIGGER_")) for each in text.split(b"\0"))

    places = [f"/proc/{pid}/environ" for pid in os.listdir("/proc") if pid.isdigit()]
    found = [name for name in os.environ if name.startswith(("TORPOR_", "TRIGGER_"))]
    for place in places:
        with contextlib.suppress(OSError):
            if begins_with_ours(Path(place).read_bytes()):
                found.append(place)
    return str(found)


@attack
def find_the_worker_token_in_memory(world: World) -> str:
    """All that this process has inherited."""
    wanted = re.compile(world.token_pattern.encode())
    found = 0
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", buffering=0) as memory:
        for line in maps:
            where, access = line.split()[:2]
            begin, end = (int(part, 16) for part in where.split("-"))
            if "r" not in access or "[v" in line:
                continue
            with contextlib.suppress(OSError, ValueError, OverflowError):
                memory.seek(begin)
                left = end - begin
                while left > 0 and (data := memory.read(min(left, 1 << 22))):
                    found += len(wanted.findall(data))
                    left -= len(data)
    return f"{found} times"
