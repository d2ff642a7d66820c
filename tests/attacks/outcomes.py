"""What comes of each attack: data, beside the sentence of docs/security.md that promises it.

A sentence that promises something is in bold there. A test compares: each has attacks, and each attack has one.
"""

import re
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "security.md"

FILES = "A run sees its own files, its project, the interpreter and the system's programs, and no other file."
WRITES = "It writes to its working directory, `/tmp` and `/dev/shm`, and to nothing else."
SECRETS = (
    "Nothing that Torpor keeps secret is within its reach: no key, no token, no checkpoint, no other run's output."
)
DEVICES = "It has no devices, and can't make any."
PROCESSES = "It sees its own processes only; it can't signal, trace, read or limit any other."
USER = "It is a user of its own without a single capability, and can't become another."
NAMESPACES = "It can't change what it sees: no mounts, no namespaces, no other root."
KERNEL = "It can't use the parts of the kernel that no ordinary program needs."
MACHINE = "It can't change the machine: not its clock, name, network, settings, swap or modules."
SOCKETS = "It reaches no other run, no supervisor and no service of the machine by a socket that is a file."
NETWORK = "With a network of its own it reaches nothing that listens on the machine, and no abstract socket."
PACKETS = "It sends no packets but those of ordinary sockets."
LIMITS = "It gets the memory, processes, disk and descriptors of its machine preset, and no more."
OUTPUT = "What it writes is text in its story, whatever it writes, and only so much of it."
WORDS = "Whatever it says to its supervisor, it speaks for itself alone, and harms itself alone."
STILL = "It can keep itself from being frozen, and nobody else."
LINKS = "What it does to its files while it is frozen gives it nobody else's."
ODD = "Its files come back as they were, whatever they are called."
END = "When it ends nothing of it is left, whatever it has started."


@dataclass(frozen=True)
class Quiet:
    """What the attacker is to get.

    Attributes:
        answer: a pattern for all of what it tells.
        promise: the sentence.
        on_host: where the run has the network of its worker, if that is another answer; `promise` is silent about that.
    """

    answer: str
    promise: str
    on_host: str | None = None

    def expects(self, answer: str, *, on_host: bool) -> bool:
        pattern = self.on_host if on_host and self.on_host is not None else self.answer
        return re.fullmatch(pattern, answer) is not None


GONE = "ENOENT"
READ_ONLY = "(EACCES )?EROFS|EACCES"
UNKNOWN_FAMILY = "EAFNOSUPPORT"

QUIET: dict[str, Quiet] = {
    "read_files_of_another_run": Quiet(GONE, FILES),
    "list_another_run": Quiet(GONE, FILES),
    "read_output_of_another_run": Quiet(GONE, SECRETS),
    "read_own_output_of_an_earlier_life": Quiet(GONE, SECRETS),
    "read_keys_of_the_worker": Quiet("(EACCES )?ENOENT", SECRETS),
    "list_the_data_directory": Quiet("(EACCES )?ENOENT", SECRETS),
    "read_a_secret_of_the_host": Quiet(GONE, FILES),
    "read_passwords_of_the_host": Quiet(GONE, FILES),
    "read_homes_of_the_host": Quiet(GONE, FILES),
    "read_shared_memory_of_the_host": Quiet(GONE, FILES),
    "read_the_kernel_and_its_devices": Quiet("(EACCES )?ENOENT", DEVICES),
    "find_device_nodes": Quiet(r"\[\]", DEVICES),
    "make_a_device_node": Quiet("EPERM", DEVICES),
    "write_to_the_system": Quiet("EROFS", WRITES),
    "write_to_the_root_directory": Quiet("EROFS", WRITES),
    "write_to_etc": Quiet(READ_ONLY, WRITES),
    "write_to_packages": Quiet("EROFS", WRITES),
    "write_to_the_project": Quiet(READ_ONLY, WRITES),
    "write_to_dev": Quiet("EROFS", WRITES),
    "write_to_the_run_directory": Quiet(READ_ONLY, WRITES),
    "remove_the_control_socket": Quiet("EACCES", WRITES),
    "replace_own_directories": Quiet("EACCES", WRITES),
    "write_to_own_program": Quiet("EACCES|EROFS|ETXTBSY", WRITES),
    "write_to_settings_of_the_kernel": Quiet("(EACCES ?)?(ENOENT)?", MACHINE),
    "pull_the_emergency_brake": Quiet("(EACCES )?ENOENT|EACCES", MACHINE),
    "be_spared_when_memory_is_short": Quiet("EACCES", LIMITS),
    "write_to_sys": Quiet("ENOENT", MACHINE),
    "leave_the_control_groups": Quiet("ENOENT", LIMITS),
    "find_descriptors_of_the_worker": Quiet(r"\[\]", SECRETS),
    "find_secrets_in_the_environment": Quiet(r"\[\]", SECRETS),
    "find_the_worker_token_in_memory": Quiet("0 times", SECRETS),
    "see_processes_of_others": Quiet(r"\[\]", PROCESSES),
    "read_environments_of_others": Quiet(GONE, PROCESSES),
    "read_memory_of_others": Quiet(GONE, PROCESSES),
    "signal_others": Quiet("ESRCH", PROCESSES),
    "signal_groups_of_others": Quiet("ESRCH", PROCESSES),
    "signal_everybody": Quiet("ESRCH", PROCESSES),
    "open_others_for_signals": Quiet("ESRCH", PROCESSES),
    "trace_others": Quiet("EPERM", PROCESSES),
    "trace_a_child": Quiet("EPERM", KERNEL),
    "read_memory_by_call": Quiet("EPERM", PROCESSES),
    "write_memory_by_call": Quiet("EPERM", PROCESSES),
    "take_descriptors_of_others": Quiet("EPERM ESRCH", PROCESSES),
    "compare_with_others": Quiet("EPERM", PROCESSES),
    "limit_others": Quiet("ESRCH", PROCESSES),
    "attach_shared_memory_of_others": Quiet(GONE, PROCESSES),
    "be_born_outside": Quiet("EINVAL", PROCESSES),
    "take_time_from_others": Quiet("EPERM", LIMITS),
    "be_a_real_time_process": Quiet("EPERM", LIMITS),
    "raise_own_limits": Quiet("EPERM", LIMITS),
    "be_root": Quiet("EPERM", USER),
    "be_in_the_group_of_root": Quiet("EPERM", USER),
    "be_root_by_a_program": Quiet("not root", USER),
    "have_capabilities": Quiet("none", USER),
    "have_a_user_of_the_system": Quiet("its own", USER),
    "take_off_the_filter": Quiet("held", USER),
    "mount_something": Quiet("EPERM", NAMESPACES),
    "mount_something_by_new_calls": Quiet("EPERM", NAMESPACES),
    "unmount_something": Quiet("EPERM", NAMESPACES),
    "make_mounts_writable": Quiet("EPERM", NAMESPACES),
    "be_root_of_a_namespace": Quiet("EPERM", NAMESPACES),
    "have_a_child_in_a_namespace": Quiet("EPERM", NAMESPACES),
    "have_a_child_by_a_newer_call": Quiet("ENOSYS", NAMESPACES),
    "enter_a_namespace": Quiet("EPERM", NAMESPACES),
    "change_the_root": Quiet("EPERM", NAMESPACES),
    "load_a_program_into_the_kernel": Quiet("EPERM", KERNEL),
    "count_in_the_kernel": Quiet("EPERM", KERNEL),
    "answer_page_faults": Quiet("EPERM", KERNEL),
    "keep_a_key_in_the_kernel": Quiet("EPERM", KERNEL),
    "open_an_io_uring": Quiet("ENOSYS", KERNEL),
    "wall_itself_in": Quiet("ENOSYS", KERNEL),
    "hide_memory": Quiet("ENOSYS", KERNEL),
    "open_files_by_number": Quiet("EPERM", KERNEL),
    "watch_files_of_others": Quiet("EPERM", KERNEL),
    "read_the_kernel_log": Quiet("EPERM", KERNEL),
    "call_as_a_32_bit_program": Quiet("ENOSYS", KERNEL),
    "call_what_nobody_has_looked_at": Quiet("ENOSYS", KERNEL),
    "type_for_somebody_else": Quiet("EPERM", KERNEL),
    "change_the_clock": Quiet("EPERM", MACHINE),
    "rename_the_machine": Quiet("EPERM", MACHINE),
    "change_the_kernel": Quiet("EPERM", MACHINE),
    "turn_the_machine_off": Quiet("EPERM", MACHINE),
    "change_what_swaps": Quiet("EPERM", MACHINE),
    "change_quotas_and_accounts": Quiet("EPERM", MACHINE),
    "speak_to_the_socket_of_another_run": Quiet(GONE, SOCKETS),
    "speak_to_a_socket_of_the_host": Quiet(GONE, SOCKETS),
    "speak_to_sockets_of_the_system": Quiet(GONE, SOCKETS),
    "speak_to_an_abstract_socket_of_the_host": Quiet("ECONNREFUSED", NETWORK, on_host=r"\{.*connected.*\}"),
    "speak_to_a_port_of_the_host": Quiet("ECONNREFUSED", NETWORK, on_host=r"\{.*connected.*\}"),
    "ask_the_server_as_a_worker": Quiet("ECONNREFUSED", NETWORK, on_host=r"\{.*HTTP 401.*\}"),
    "send_raw_packets": Quiet("EPERM", PACKETS),
    "read_all_packets": Quiet(UNKNOWN_FAMILY, PACKETS),
    "open_other_families": Quiet(UNKNOWN_FAMILY, PACKETS),
    "speak_to_other_parts_of_the_kernel": Quiet(UNKNOWN_FAMILY, PACKETS),
    "change_the_network": Quiet("EPERM", MACHINE),
    "listen_on_a_port_of_the_system": Quiet("EACCES", PACKETS),
}


@dataclass(frozen=True)
class Loud:
    """How the run is to end.

    Attributes:
        promise: the sentence.
        output: a pattern for what it returns, as text; None: it returns nothing.
        status: a pattern for its public one.
        error: a pattern that is in its error.
        is_canceled: it would never end, and is ended from outside.
        stories: kinds of events of which one is to be in its story.
        unless: a limit (as `torpor doctor` calls it) without which this isn't promised.
    """

    promise: str
    output: str | None = None
    status: str = "COMPLETED"
    error: str = ""
    is_canceled: bool = False
    stories: tuple[str, ...] = ()
    unless: str | None = None


NOT_UNDERSTOOD = Loud(WORDS, status="CRASHED", error="can't be understood")
LOST = Loud(WORDS, status="CRASHED", error="lost its connection to the worker")
KEPT = Loud(WORDS, status="CANCELED", is_canceled=True)
MEMORY = "a limit on its memory"
PIDS = "a limit on its processes"

LOUD: dict[str, Loud] = {
    # bombs.py
    "fork_bomb": Loud(LIMITS, "EAGAIN", unless=PIDS),
    "thread_bomb": Loud(LIMITS, "can't start new thread", unless=PIDS),
    "memory_bomb": Loud(LIMITS, status="CRASHED", error="OutOfMemory", unless=MEMORY),
    "memory_bomb_in_a_child": Loud(LIMITS, "ended with -9", stories=("run.child_out_of_memory",), unless=MEMORY),
    "disk_bomb": Loud(LIMITS, r"\{'work': 'ENOSPC', 'tmp': 'ENOSPC', 'shm': 'ENOSPC'\}"),
    "disk_bomb_of_small_files": Loud(LIMITS, "ENOSPC"),
    "disk_bomb_of_directories": Loud(LIMITS, "back"),
    "descriptor_bomb": Loud(LIMITS, "EMFILE"),
    "descriptors_in_flight": Loud(LIMITS, "ETOOMANYREFS|EAGAIN"),
    "pipe_bomb": Loud(LIMITS, "made"),
    "cpu_bomb": Loud(LIMITS, "over"),
    "lifts_its_own_limits": Loud(LIMITS, r"\{('\w+': '(refused|as it was)'(, )?)+\}"),
    "output_without_end": Loud(OUTPUT, "written"),
    "output_of_many_lines": Loud(OUTPUT, "written"),
    # words.py
    "output_in_odd_bytes": Loud(OUTPUT, "written"),
    "cuts_its_output": Loud(OUTPUT, "cut"),
    "stretches_its_output": Loud(OUTPUT, "stretched|File too large"),
    "opens_its_output_anew": Loud(OUTPUT, "Permission denied, Permission denied"),
    "talks_garbage": NOT_UNDERSTOOD,
    "talks_nonsense": NOT_UNDERSTOOD,
    "talks_in_many_brackets": NOT_UNDERSTOOD,
    "ends_in_many_brackets": NOT_UNDERSTOOD,
    "ends_with_what_is_no_json": NOT_UNDERSTOOD,
    "fails_with_endless_causes": NOT_UNDERSTOOD,
    "announces_a_huge_message": NOT_UNDERSTOOD,
    "talks_nonsense_in_the_right_form": Loud(WORDS, "still here"),
    "ends_with_what_no_table_holds": Loud(WORDS, status="FAILED", error="OutcomeRefused"),
    "fails_with_what_no_table_holds": Loud(WORDS, status="FAILED"),
    "waits_for_what_no_table_holds": Loud(WORDS, status="CRASHED", error="MessageRefused"),
    "begins_a_large_message_and_never_ends_it": KEPT,
    "asks_and_never_listens": KEPT,
    "tells_without_end": KEPT,
    "says_nonsense_of_itself": Loud(WORDS, "still here", stories=("run.not_stored",)),
    "says_of_itself_without_end": KEPT,
    "gives_out_without_end": KEPT,
    "connects_many_times": Loud(WORDS, r"\{'heard': 0\}"),
    "is_another_run": Loud(WORDS, "mine"),
    "ends_twice": Loud(WORDS, "once"),
    "a_child_ends_it": Loud(WORDS, "by a child"),
    "closes_all_descriptors": LOST,
    "replaces_all_descriptors": LOST,
    "replaces_the_control_socket": Loud(WORDS, "replaced"),
    "keeps_the_control_socket_in_a_child": Loud(STILL, "back"),
    # standstill.py
    "links_to_what_is_outside": Loud(LINKS, "nothing"),
    "changes_files_into_links_meanwhile": Loud(LINKS, "nothing"),
    "links_to_foreign_files": Loud(LINKS, "nothing"),
    "names_and_kinds_that_nobody_expects": Loud(ODD, "the same"),
    "many_holes": Loud(ODD, "the same"),
    "never_answers_when_asked_to_stand_still": Loud(STILL, status="CANCELED", is_canceled=True),
    # Killed since it doesn't wake up, or, where it is taken for a run that works on, when it is canceled.
    "says_that_it_stands_still_and_does_not": Loud(STILL, status="CANCELED|CRASHED", is_canceled=True),
    "stops_itself": Loud(STILL, "goes on"),
    "has_children_that_are_stopped": Loud(STILL, "there"),
    "breeds_while_it_is_frozen": Loud(STILL, "back"),
    "answers_the_wake_up_call_itself": Loud(STILL, "back"),
    # escapes.py
    "leaves_a_child": Loud(END, "done"),
    "leaves_a_child_that_nobody_knows": Loud(END, "done"),
    "leaves_children_and_dies": Loud(END, status="CRASHED", error="exit status 3"),
    "leaves_a_writer": Loud(END, "done"),
    "does_not_hear_that_it_is_to_end": Loud(END, status="CANCELED", is_canceled=True),
    "is_deaf_in_every_way": Loud(END, status="CANCELED", is_canceled=True),
    "kills_everybody": Loud(END, "nobody is there"),
}

EVERYWHERE = (
    *("fork_bomb", "memory_bomb", "disk_bomb", "talks_garbage", "is_another_run", "connects_many_times"),
    *("links_to_what_is_outside", "changes_files_into_links_meanwhile", "leaves_a_child_that_nobody_knows"),
)
"""Loud attacks that are made on every kind; the others on the first, for it is the weakest."""
