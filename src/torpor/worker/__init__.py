"""Where user code runs. In the order in which a run meets the files:

`serve.py`       starts the supervisor in a pid and mount namespace of its own
`litter.py`      what a worker leaves when it is killed, and how it is removed
`supervisor.py`  asks the server for leases, places them, renews them, shuts down
`discovery.py`   which modules of a project hold tasks, and what the version is called
`trust.py`       how far the project's code is trusted, and what that means for the processes that are made for it
`versions.py`    the versions that a worker has, kept up with the project and its variables
`version.py`     one version of the user's code: how its runners are made
`forking.py`     its zygote, seen from the supervisor
`zygote.py`      the process that forks runners; as a rule it has imported the version
`importing.py`   the import itself, in the zygote or in a runner
`first_runner.py` what is heard from a runner that imports foreign code
`runner.py`      the forked child: one attempt, then exit
`warming.py`     the warm image that a version has at hand, and the making of a new one
`warm.py`        the image of a version's warmed process: what runs share pages with, and a way to start without an import
`network.py`     what a run reaches: its network namespace; `router.py`: the way out of those that are private
`house.py`       what all runs of a worker share, and what there is to share on this machine
`isolation.py`   how far runs can be kept apart on this machine; `probes.py` tries each thing once
`cgroups.py`     limits of runs, by control groups: `cgroups_v2.py`, `cgroups_v1.py`, and what both are (`cgroup_site.py`)
`usage.py`       what a run has used; `met.py`: which of its limits it has met
`birth.py`       how a leased run gets its process: forked, or thawed
`room.py`        what a run sees and who it is: a root of its own, a user of its own
`template.py`    what all runs of a project see alike, read-only
`privileges.py`  giving up what makes a process more than its user
`process.py`     a run's process: what it says, its sleep, its end; `standing.py`: how it stands, as the kernel tells it
`belongings.py`  what it has on the machine besides: its directory, its room, its limits, its network
`control_socket.py` our end of the socket over which it speaks
`inbox.py`       what happens to it, in order, and how much it may say ahead
`hold.py`        held or frozen: how long a waiting run stays in memory
`live_run.py`    one run in memory, seen from the supervisor: its inbox, its birth, its ends
`life.py`        what those who act on it share: its state, its words to the server, its image
`waiting.py`     what it waits for, and that it is held or frozen meanwhile
`relay.py`       what its code says of it, led on to the server: merged (`changes.py`), not too often (`pace.py`)
`saving.py`      how it is written down when it does not wait: save points, moves
`checkpoint.py`  running process -> durable image, in stages
`restore.py`     image -> running process, in stages
`files.py`       a run's own files, packed beside its image and laid again
`connections.py` TCP connections that a freeze would cut
`drain.py`       a worker that is to stop gets rid of its runs
`pressure.py`    the duty that freezes runs when memory is short
`garbage.py`     the duty that deletes objects of the store which nobody needs
`criu.py`        `criu swrk` over a socketpair; `criu_setup.py` finds or installs one; `process_tree.py`: to end what it makes
`fitness.py`     whether an image can be restored on this machine; `cpu.py`: which instructions images need
`output.py`      a run's stdout and log lines, batched to the server
`link.py`        what the worker says to the server
`namespaces.py`  the system calls Python lacks
`uninterrupted.py` what a thread does is waited for, also by who is canceled
`seccomp.py`     what system calls a run is refused; `syscalls.py`: their numbers
`faults.py`      the places where tests may stop us
"""
