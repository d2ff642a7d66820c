"""CRIU's log in plain words, and what holds when dumps and restores go well, fail, or are cut short."""

import asyncio
import sys
from pathlib import Path

import pytest

import apart
from torpor.errors import CriuError
from torpor.worker import criu as criu_rpc
from torpor.worker.criu import Criu
from torpor.worker.criu_reasons import plain_reason

PROGRAMS = Path(__file__).with_name("criu_programs.py")

# The first two lines and the last one are in nearly every log; none of them is ever the reason.
LOG = """\
Warn  (criu/kerndat.c:1290): Can't keep kdat cache on non-tempfs
Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted
{}
Error (criu/cr-dump.c:1545): Dump files (pid: 5101) failed with -1
Error (criu/cr-dump.c:1975): Dumping FAILED.
"""


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("Error (criu/files.c:500): Unknown shit 600 (anon_inode:[io_uring])", "an io_uring is open"),
        ("pie: 5055: Error (criu/pie/parasite.c:588): send_fds failed (-22)", "an io_uring is open"),
        (
            "Error (criu/files-ext.c:94): Can't dump file 14 of that type [600] (anon anon_inode:[userfaultfd])",
            "a descriptor that can't be frozen is open (fd 14, anon_inode:[userfaultfd])",
        ),
        (
            "Error (criu/files-ext.c:94): Can't dump file 9 of that type [20600] (chr 10:229)",
            "a device is open (fd 9, 10:229)",
        ),
        (
            "Error (criu/sk-unix.c:874): unix: External socket is used. Consider using --ext-unix-sk option.",
            "a unix socket connected to another process",
        ),
        (
            "Error (criu/sk-unix.c:80): unix: Can't dump half of stream unix connection.",
            "a unix socket connected to another process",
        ),
        (
            "Error (criu/sk-inet.c:200): inet: Connected TCP socket, consider using --tcp-established option.",
            "a connected TCP socket",
        ),
        ("Error (criu/file-lock.c:130): Some file locks are hold by dumping tasks!", "a file lock is held"),
        (
            "Error (criu/sockets.c:767): sockets: BUG! Unknown socket collected (family 40)",
            "a socket of a family that can't be frozen (family 40)",
        ),
        (
            "Error (criu/files-reg.c:1111): Can't dump ghost file /tmp/x of 2097152 size, increase limit",
            "a deleted file that is still open is too large: /tmp/x",
        ),
        (
            "Error (criu/files-reg.c:1200): Can't create link remap for /dev/shm/sem.mp. Use link-remap option.",
            "an open file has lost its name, though another name of it is left",
        ),
        (
            "Error (criu/namespaces.c:460): Can't dump nested user namespace for 5086",
            "a process made a user namespace of its own",
        ),
        (
            "Error (criu/cr-dump.c:700): A session leader of 812(1) is outside of its pid namespace",
            "process 812 belongs to a session that was started outside of the run",
        ),
        (
            "Error (criu/files-reg.c:1790): Can't lookup mount=27 for fd=-3 path=/usr/bin/python3.11",
            "a file was opened in another mount namespace: /usr/bin/python3.11",
        ),
        (
            "Error (criu/parasite-syscall.c:1): can't dump unprivileged task whose /proc doesn't belong to it",
            "an unprivileged process that has no /proc of its own",
        ),
        (
            "pie: 1: Error (criu/pie/parasite.c:634): Can't create a directory (-17)",
            "another dump is using the same working directory",
        ),
        (
            "pie: 1: Error (criu/pie/parasite.c:634): Can't create a directory (-2)",
            "the working directory was deleted",
        ),
        (
            "Error (criu/cr-dump.c:300): Can't get rlimit 0: Operation not permitted",
            "a process of another user, and CRIU lacks CAP_SYS_RESOURCE",
        ),
        ("Error (criu/seize.c:600): Timeout reached. Try to interrupt: 0", "could not be stopped in time"),
        (
            "Error (compel/src/lib/infect.c:300): Unseizable non-zombie 4711 found, state D, err -1/1",
            "process 4711 could not be stopped",
        ),
        ("Error (criu/page-xfer.c:270): Unable to spice data: No space left on device", "no space left on device"),
        (
            "Error (criu/sockets.c:628): sockets: Can't get 1:16 opt: Operation not supported",
            "this CRIU is too old for this kernel (inet sockets)",
        ),
        (
            "Error (criu/vdso.c:400): vdso: Unexpected rt vDSO area bounds",
            "this CRIU is too old for this kernel (vDSO)",
        ),
        (
            "Error (criu/files-reg.c:2000): File tmp/x has bad size 9 (expect 5)",
            "a file grew while frozen: /tmp/x has 9 bytes, it had 5",
        ),
        ("Error (criu/files-reg.c:2000): File tmp/x has bad size 3 (expect 5)", "a file shrank while frozen"),
        (
            "Error (criu/files-reg.c:2000): File usr/bin/python3.11 has bad build-ID",
            "a program or library is another build than the one that was frozen: usr/bin/python3.11",
        ),
        (
            "Error (criu/files-reg.c:2200): Can't open file run/notes: No such file or directory",
            "a file is gone that was open when the run was frozen: run/notes",
        ),
        ("Error (criu/files.c:1500): Can't open cwd", "the working directory is gone"),
        ("Error (criu/cr-restore.c:1237): Can't fork for 6491: File exists", "process id 6491 is in use"),
        (
            "Error (criu/cr-restore.c:1237): Can't fork for 3: Resource temporarily unavailable",
            "the limit on processes is reached",
        ),
        (
            "Error (criu/sk-inet.c:900): inet: Can't bind inet socket (id 4): Address already in use",
            "a port that the run listened on is in use",
        ),
        ("Error (criu/protobuf.c:70): Failed unpacking object", "the checkpoint image is damaged"),
        ("Error (criu/protobuf.c:60): Read 88 bytes while 3078 expected", "the checkpoint image is damaged"),
        ("Error (criu/cr-restore.c:9): Unable to drop capability 24", "CRIU may not drop capability 24"),
    ],
)
def test_a_log_is_told_in_plain_words(line: str, reason: str) -> None:
    told = plain_reason(LOG.format(line))
    assert told is not None
    assert told.startswith(reason) or reason in told


def test_an_unknown_message_is_passed_on_as_criu_said_it() -> None:
    log = LOG.format("Error (criu/a.c:1): first trouble\nError (criu/b.c:2): gremlins: It is raining")
    assert plain_reason(log) == "CRIU says: gremlins: It is raining"


def test_a_log_without_a_reason_gives_none() -> None:
    assert plain_reason(LOG.format("")) is None


def test_a_criu_that_ends_at_once_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(CriuError, match="CRIU ended without an answer"):
        asyncio.run(criu_rpc.restore(Criu(("/bin/false",), "0", "tests"), images=tmp_path))


def test_a_criu_that_never_answers_is_killed_in_time(tmp_path: Path) -> None:
    script = tmp_path / "criu"
    script.write_text("#!/bin/sh\nsleep 1000 & sleep 1000\n")
    script.chmod(0o755)
    with pytest.raises(CriuError, match=r"did not answer within 0\.2 s"):
        asyncio.run(criu_rpc.version((str(script),), timeout_s=0.2))


def test_a_missing_image_directory_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(CriuError, match="nowhere"):
        asyncio.run(criu_rpc.restore(Criu(("/bin/false",), "0", "tests"), images=tmp_path / "nowhere"))


@pytest.mark.criu
@pytest.mark.parametrize(
    "scenario",
    [
        "warming_up_keeps_what_criu_learned",
        "goes_on_after_each_of_two_round_trips",
        "is_thawed_and_frozen_where_the_files_of_criu_are_hidden",
        "is_stopped_by_a_dump_and_can_be_let_run",
        "an_outside_unix_socket_is_named",
        "an_io_uring_is_named",
        "a_dump_that_is_canceled_leaves_the_process_running",
        "a_restore_that_is_canceled_leaves_nothing",
        "a_process_that_is_killed_while_it_is_restored_is_no_riddle",
        "an_image_cut_short_leaves_nothing",
        "a_file_that_grew_is_named",
        "no_space_is_said_and_the_process_goes_on",
    ],
)
def test_a_process(scenario: str, criu: Criu) -> None:
    done = apart.run(sys.executable, str(PROGRAMS), scenario, *criu.command)
    assert done.returncode == 0, done.stderr
