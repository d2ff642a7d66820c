"""What CRIU's log means, in words for somebody who has never heard of CRIU.

The log's messages are CRIU's own business and change with its versions, so a line that we don't know is passed on as it
is. What is done about a reason (hold the run, take another checkpoint) is decided elsewhere.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

Words = str | Callable[[re.Match[str]], str]


@dataclass(frozen=True)
class _Known:
    """A message of CRIU's and our words for it; groups of the pattern are written {1}, {2}."""

    pattern: re.Pattern[str]
    words: Words


def _known(pattern: str, words: Words) -> _Known:
    return _Known(re.compile(pattern), words)


def _size_changed(match: re.Match[str]) -> str:
    path, now, then = "/" + match.group(1).lstrip("/"), int(match.group(2)), int(match.group(3))
    how = "grew" if now > then else "shrank"
    return f"a file {how} while frozen: {path} has {now} bytes, it had {then}"


def _unsupported_descriptor(match: re.Match[str]) -> str:
    number, kind = match.groups()
    if "io_uring" in kind:
        return f"an io_uring is open (fd {number})"
    if kind.startswith("chr"):
        return f"a device is open (fd {number}, {kind.removeprefix('chr').strip()})"
    return f"a descriptor that can't be frozen is open (fd {number}, {kind.removeprefix('anon ')})"


# The first entry that matches any line wins, so causes stand above the consequences that CRIU logs after them.
_KNOWN = (
    # Dump: what the process holds.
    _known(r"Can't dump file (\d+) of that type \[\w*\] \((.*)\)", _unsupported_descriptor),
    # Newer kernels refuse to pass an io_uring to CRIU at all, which is how it is met first.
    _known(r"\[io_uring\]|send_fds failed \(-22\)", "an io_uring is open"),
    _known(r"Unknown shit \w+ \((.*)\)", "a descriptor that can't be frozen is open ({1})"),
    _known(r"External socket is used|half of stream unix connection", "a unix socket connected to another process"),
    _known(r"Connected TCP socket", "a connected TCP socket"),
    _known(r"Unknown socket collected \(family (\d+)\)", "a socket of a family that can't be frozen (family {1})"),
    _known(r"Can't dump ghost file (\S+)", "a deleted file that is still open is too large: {1}"),
    _known(r"Can't create link remap", "an open file has lost its name, though another name of it is left"),
    _known(r"Some file locks are hold", "a file lock is held"),
    _known(r"Task attached to shell terminal|Found dangling tty", "a terminal is open"),
    # Dump: how the process was started.
    _known(r"nested (\w+) namespace", "a process made a {1} namespace of its own"),
    _known(r"namespaces doesn't belong to the target (user) namespace", "a process made a {1} namespace of its own"),
    _known(r"A session leader of (\d+)", "process {1} belongs to a session that was started outside of the run"),
    _known(r"Can't lookup mount=.* path=(\S+)", "a file was opened in another mount namespace: {1}"),
    _known(
        r"can't dump unprivileged task whose /proc doesn't belong to it",
        "an unprivileged process that has no /proc of its own",
    ),
    _known(
        r"parasite\.c.*Can't create a directory \(-17\)",
        "another dump is using the same working directory",
    ),
    _known(r"parasite\.c.*Can't create a directory \(-2\)", "the working directory was deleted"),
    _known(r"Can't create a directory", "the working directory can't be written to"),
    _known(r"Can't get rlimit", "a process of another user, and CRIU lacks CAP_SYS_RESOURCE"),
    _known(r"Unseizable non-zombie (\d+)", "process {1} could not be stopped: a system call holds it"),
    _known(r"Timeout reached", "a process could not be stopped in time: a system call holds it"),
    _known(
        r"(?:Unable to (?:interrupt|seize|attach to)(?: task:?)?|SEIZE) (\d+)",
        "process {1} could not be stopped: it has ended, or is being traced",
    ),
    # Restore: what has changed since the dump.
    _known(r"File (\S+) has bad size (\d+) \(expect (\d+)\)", _size_changed),
    _known(r"File (\S+) has bad build-?ID", "a program or library is another build than the one that was frozen: {1}"),
    _known(r"Can't open cwd|Can't open file \S*cwd", "the working directory is gone"),
    _known(r"Can't open file (\S+?):? .*No such file", "a file is gone that was open when the run was frozen: {1}"),
    _known(r"Can't open file.*No such file", "a file is gone that was open when the run was frozen"),
    _known(r"Can't fork for (\d+): File exists", "process id {1} is in use"),
    _known(r"Can't fork for \d+: Resource temporarily unavailable", "the limit on processes is reached"),
    _known(r"Can't bind inet socket.*Address already in use", "a port that the run listened on is in use"),
    _known(
        r"Failed unpacking object|Read \d+ bytes while \d+ expected|Unexpected EOF|Magic doesn't match",
        "the checkpoint image is damaged",
    ),
    _known(r"cpu: .*(?:not supported|do not match|mismatch)", "this machine's processor lacks what the run uses"),
    # The machine.
    _known(r"No space left on device|Disk quota exceeded", "no space left on device"),
    _known(r"Cannot allocate memory|Out of memory", "out of memory"),
    _known(r"Unexpected rt vDSO area bounds", "this CRIU is too old for this kernel (vDSO): 4.2 or newer is needed"),
    _known(
        r"Can't get 1:\d+ opt: Operation not supported",
        "this CRIU is too old for this kernel (inet sockets): 4.2 or newer is needed",
    ),
    _known(r"Unable to drop capability (\d+)", "CRIU may not drop capability {1} (CAP_SETPCAP is missing)"),
)

# Said of every failure, or of none: an error line that matches is never the reason.
_NOISE = re.compile(r"RLIMIT_NOFILE|(?:Dumping|Restoring|Pre-dumping) FAILED|Dump \w+ \(pid: \d+\) failed with")
_ERROR = re.compile(r"Error \([^)]*\):\s*(.*)")


def plain_reason(log: str) -> str | None:
    """Why CRIU failed, in plain words, from its dump.log or restore.log; None when the log tells nothing."""
    lines = log.splitlines()
    for known in _KNOWN:
        for line in lines:
            match = known.pattern.search(line)
            if match is None:
                continue
            return known.words(match) if callable(known.words) else _filled(known.words, match)
    told = [match.group(1).strip() for line in lines if not _NOISE.search(line) and (match := _ERROR.search(line))]
    return f"CRIU says: {told[-1]}" if told else None


def _filled(words: str, match: re.Match[str]) -> str:
    return re.sub(r"\{(\d)\}", lambda number: match.group(int(number.group(1))), words)
