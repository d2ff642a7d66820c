"""The run's life, as verbs: every state write is in this package. Read in this order:

     1. states.py       the states, the drawing, who may move a run along which edge, the public names
     2. deploy.py       register_worker, register_version: who may come, what they bring
        environments.py ensure_environment, create_environment, rename_environment, delete_environment, rename_project,
                        delete_project, look_at: which there are, and who looks at which (remove.py: remove_deleted,
                        forget_environment, what was in those that were deleted)
        api_keys.py     configure_key, create_key, rotate_key, revoke_key: with which keys the API is asked
        accounts.py     create_account, enter, change_password, remove_account, sign_in, sign_out, end_session, make_link,
                        use_link: who looks at the dashboard
        one_time.py     use_token: public tokens that are good for one use
        env_vars.py     set_variables, change_variable, unset_variable: what all runs have in os.environ
        versions.py     match_versions: which queued runs a version can start
     3. trigger.py      trigger, trigger_all: requests become runs, queued or delayed (draft.py and payload.py: can
                        they? idempotency.py, debounce.py: is it a run that is there already? room.py: is there room?)
        queues.py       declare, pause, unpause, override, reset, configure: where runs line up, and the limits
        batch.py        create_batch, add_items, abort_batches: requests that end together (batch_end.py: when all have)
        reschedule.py, replay.py; reset_key (idempotency.py)
     4. dequeue.py      dequeue: a lease for a worker, with an attempt to start or a checkpoint to restore
                        (slots.py: may it work?  lines.py: whose turn is it?  placement.py: which worker has room?
                        saving_up.py: how a large one gets it)
     5. attempt.py      start, heartbeat, holds
     6. wait.py         block, collect: tie a run to waitpoints (tie.py), hand it their answers (answers.py), unless it
                        could only wait for itself (cycles.py)
        token.py        create_token: a waitpoint for someone outside
     7. complete.py     complete_waitpoint, fire_due (due): answer a waitpoint, once, and wake who is tied to it
        release.py, expire.py: delayed runs that are due, queued runs that nobody started in time; also by fire_due
     8. suspend.py      suspend: accept a checkpoint or discard it
        save.py, move.py   save: a checkpoint after which the run goes on; move: one with which it goes on elsewhere
        checkpoints.py  what those have in common, and which checkpoints are kept; keep, expire_checkpoints
        images.py       references to what is stored; garbage.py: condemn, note_strays, condemned, confirm_deleted,
                        forget_deleted, notice: what may be deleted of it, and why nothing live is
        fork.py         fork: another run goes on from a checkpoint
        warm.py         warm, find_warm, refuse_warm, prune_warm: frozen processes that wait for a run
        data_keys.py    data_keys, make_key, rotate_data_key, rewrap, drop_keys: what images are sealed with
     9. resume.py       wake, resume: a frozen run is queued again, a living process is told
        grant.py        grant: a slot for a run that waits in memory and has its answer
    10. refuse.py       refuse: a worker can't do what its assignment asks
        fall_back.py    give_up: a run goes on without a checkpoint that nobody can use
    11. finish.py       finish: the run is over, or tried again (end.py: what every end has in common)
    12. cancel.py       cancel: by a user.  cascade.py: cascade, to its children
        rescue.py       rescue: because a lease ran out; take_back_lost: it never arrived
        hooks.py        hooks of runs that ended without a process; like
        active.py       how long an attempt has worked: not a verb, but part of what many of them write
        usage.py        what a run has used; likewise
        bulk.py         create_bulk, work_off, abort_bulk: many runs at once are canceled or replayed; prune_bulk
    13. stranded.py     tell_stranded: why nobody can take a queued run
        repair.py       find_faults, repair: what must not be is put right
        prune.py        prune_runs and others: what has been over for long is deleted, in small steps
        schedule.py     create_schedule, update_schedule, delete_schedule, activate_schedule, deactivate_schedule,
                        declare_schedules: when the clock triggers what
        fire_schedules.py  fire_schedules, due_schedules, next_tick: it does (ticks.py: which ticks, and what the task gets)
    14. events.py       record, tell: the story.  logs.py: append
        metadata.py     change_metadata, report_metadata: what a run tells of itself.  tags.py: add_tags
        streams.py      append_parts, report_parts: what it makes, and what is sent to it (family.py: its parent and root)
    15. read.py         for API and dashboard; writes nothing (pages.py: lists; read_runs.py: runs by whatever filters them;
                        read_batch.py: batches and their results; read_bulk.py; read_story.py; read_streams.py; read_waits.py)

Each verb is one function that takes a transaction and `now`, and never reads a clock. It locks the run, compares the
lease, checks the state, writes everything that belongs together, and answers with a small frozen value.

**The lease is the fence.** Its number moves on at each hand-out and each end (suspend, move, finish, cancel, rescue,
refuse).
A message with another number is Stale and changes nothing, however late or doubled. Ends are final.

**Lock order**: a bulk action's row; the keys of an environment, all, by id; the environment's row, for its variables; the
worker's row; schedules by id; the environment's turn; runs by id; a stream; waitpoints by id; batches by id; images by id;
packs by id (locks.py says how a completion finds the runs it must lock before). A run's row also guards its waits, attempts
and checkpoints. Who locks runs or schedules with SKIP LOCKED (dequeue, grant, the release of delayed runs, fire_schedules)
waits for nobody and so may take them in any order. A deadlock is left only where runs wait for each other in a circle
through a shared idempotency key: Postgres ends one transaction, and the message is repeated.
"""

from torpor.engine import queues, read, read_batch, read_bulk, read_streams
from torpor.engine.accounts import (
    Browser,
    NameTaken,
    SignedIn,
    account_by_name,
    accounts,
    change_password,
    create_account,
    end_session,
    end_sessions,
    enter,
    forget_sessions,
    make_link,
    remove_account,
    sessions_of,
    sign_in,
    sign_out,
    signed_in,
    use_link,
)
from torpor.engine.api_keys import (
    KeyIsOver,
    KeyMade,
    KeyRevoked,
    LastKey,
    NewApiKey,
    api_keys,
    api_keys_to_reseal,
    configure_key,
    create_key,
    forget_keys,
    is_secret_key,
    is_valid,
    key_by_hash,
    reseal,
    revoke_key,
    rotate_key,
    touch_key,
)
from torpor.engine.attempt import heartbeat, holds, start
from torpor.engine.batch import (
    BatchClosed,
    BatchCreated,
    BatchRequest,
    ItemsAdded,
    Misplaced,
    NewItem,
    Unstorable,
    abort_batches,
    add_items,
    create_batch,
)
from torpor.engine.bulk import (
    MAX_NAMED,
    BulkAborted,
    BulkCreated,
    BulkRequest,
    abort_bulk,
    count_bulk,
    create_bulk,
    open_bulk,
    prune_bulk,
    work_off,
)
from torpor.engine.cancel import AlreadyEnded, Canceled, CancelRequested, cancel
from torpor.engine.cascade import cascade
from torpor.engine.checkpoints import expire_checkpoints, keep
from torpor.engine.complete import (
    AlreadyCompleted,
    Completed,
    FiredTimers,
    complete_waitpoint,
    due,
    fire_due,
    next_due,
)
from torpor.engine.data_keys import (
    NewKey,
    current_key,
    data_keys,
    drop_keys,
    keys_to_rewrap,
    make_key,
    rewrap,
    rotate_data_key,
)
from torpor.engine.debounce import Debounce
from torpor.engine.deploy import register_version, register_worker
from torpor.engine.dequeue import dequeue
from torpor.engine.draft import TriggerRequest, UnknownPreset, UnknownQueue, UnknownTask, UnknownVersion
from torpor.engine.env_vars import (
    AlreadySet,
    NewVariable,
    TooManyVariables,
    VariableBounds,
    VariablesChanged,
    change_variable,
    reseal_variable,
    set_variables,
    unset_variable,
    variable,
    variables,
    variables_to_reseal,
)
from torpor.engine.environments import (
    ENVIRONMENT,
    PROJECT,
    EnvironmentCreated,
    InUse,
    IsOwn,
    StillCalledFor,
    address,
    create_environment,
    delete_environment,
    delete_project,
    ensure_environment,
    is_own,
    look_at,
    rename_environment,
    rename_project,
)
from torpor.engine.events import record, tell
from torpor.engine.expire import expire
from torpor.engine.fall_back import give_up
from torpor.engine.finish import Finished, finish, retry_delay_s
from torpor.engine.fire_schedules import due_schedules, fire_schedules, next_tick
from torpor.engine.fork import LATEST, Forked, ForkRequest, NoCheckpoint, WhichWait, fork
from torpor.engine.garbage import (
    Condemned,
    condemn,
    condemned,
    confirm_deleted,
    forget_deleted,
    note_strays,
    notice,
)
from torpor.engine.grant import grant
from torpor.engine.idempotency import KeyReset, reset_key
from torpor.engine.images import Gone
from torpor.engine.logs import append
from torpor.engine.metadata import (
    EndedLongAgo,
    Metadata,
    MetadataBounds,
    MetadataChange,
    MetadataTooLarge,
    TooManyOperations,
    change_metadata,
    report_metadata,
)
from torpor.engine.move import move
from torpor.engine.one_time import forget_tokens, token_use, use_token
from torpor.engine.outcomes import Awake, Blocked, ImageRejected, Lease, Ok, Stale, Suspended, Unknown
from torpor.engine.pages import Listing, Page
from torpor.engine.payload import PayloadMisfit
from torpor.engine.prune import (
    Place,
    Pruned,
    prune_batches,
    prune_keys,
    prune_logs,
    prune_runs,
    prune_streams,
    prune_tokens,
    prune_versions,
    prune_workers,
    unused_objects,
)
from torpor.engine.read import TokenFilter, TokenView
from torpor.engine.read_runs import RunFilter
from torpor.engine.refuse import refuse
from torpor.engine.remove import forget_environment, remove_deleted
from torpor.engine.repair import Fault, FaultKind, find_faults, repair
from torpor.engine.replay import replay
from torpor.engine.reschedule import NotDelayed, Rescheduled, reschedule
from torpor.engine.rescue import rescue, take_back_lost
from torpor.engine.resume import resume, wake
from torpor.engine.room import QueueFull
from torpor.engine.save import save
from torpor.engine.saving_up import is_short
from torpor.engine.schedule import (
    DeclaredInCode,
    Scheduled,
    ScheduleMisfit,
    ScheduleRequest,
    TooManySchedules,
    activate_schedule,
    create_schedule,
    deactivate_schedule,
    declare_schedules,
    delete_schedule,
    update_schedule,
)
from torpor.engine.states import EDGES, ENDS, LEASED, STATUS, RunState
from torpor.engine.stranded import tell_stranded
from torpor.engine.streams import (
    Appended,
    Part,
    RunIsOver,
    StreamFull,
    TooManyStreams,
    append_parts,
    report_parts,
)
from torpor.engine.suspend import suspend
from torpor.engine.tags import Tagged, TooManyTags, add_tags
from torpor.engine.token import TokenCreated, TokenRequest, create_token
from torpor.engine.trigger import Triggered, trigger, trigger_all
from torpor.engine.versions import Matched, match_versions
from torpor.engine.wait import block, collect
from torpor.engine.warm import find_warm, prune_warm, refuse_warm, warm

__all__ = [
    "EDGES",
    "ENDS",
    "ENVIRONMENT",
    "LATEST",
    "LEASED",
    "MAX_NAMED",
    "PROJECT",
    "STATUS",
    "AlreadyCompleted",
    "AlreadyEnded",
    "AlreadySet",
    "Appended",
    "Awake",
    "BatchClosed",
    "BatchCreated",
    "BatchRequest",
    "Blocked",
    "Browser",
    "BulkAborted",
    "BulkCreated",
    "BulkRequest",
    "CancelRequested",
    "Canceled",
    "Completed",
    "Condemned",
    "Debounce",
    "DeclaredInCode",
    "EndedLongAgo",
    "EnvironmentCreated",
    "Fault",
    "FaultKind",
    "Finished",
    "FiredTimers",
    "ForkRequest",
    "Forked",
    "Gone",
    "ImageRejected",
    "InUse",
    "IsOwn",
    "ItemsAdded",
    "KeyIsOver",
    "KeyMade",
    "KeyReset",
    "KeyRevoked",
    "LastKey",
    "Lease",
    "Listing",
    "Matched",
    "Metadata",
    "MetadataBounds",
    "MetadataChange",
    "MetadataTooLarge",
    "Misplaced",
    "NameTaken",
    "NewApiKey",
    "NewItem",
    "NewKey",
    "NewVariable",
    "NoCheckpoint",
    "NotDelayed",
    "Ok",
    "Page",
    "Part",
    "PayloadMisfit",
    "Place",
    "Pruned",
    "QueueFull",
    "Rescheduled",
    "RunFilter",
    "RunIsOver",
    "RunState",
    "ScheduleMisfit",
    "ScheduleRequest",
    "Scheduled",
    "SignedIn",
    "Stale",
    "StillCalledFor",
    "StreamFull",
    "Suspended",
    "Tagged",
    "TokenCreated",
    "TokenFilter",
    "TokenRequest",
    "TokenView",
    "TooManyOperations",
    "TooManySchedules",
    "TooManyStreams",
    "TooManyTags",
    "TooManyVariables",
    "TriggerRequest",
    "Triggered",
    "Unknown",
    "UnknownPreset",
    "UnknownQueue",
    "UnknownTask",
    "UnknownVersion",
    "Unstorable",
    "VariableBounds",
    "VariablesChanged",
    "WhichWait",
    "abort_batches",
    "abort_bulk",
    "account_by_name",
    "accounts",
    "activate_schedule",
    "add_items",
    "add_tags",
    "address",
    "api_keys",
    "api_keys_to_reseal",
    "append",
    "append_parts",
    "block",
    "cancel",
    "cascade",
    "change_metadata",
    "change_password",
    "change_variable",
    "collect",
    "complete_waitpoint",
    "condemn",
    "condemned",
    "configure_key",
    "confirm_deleted",
    "count_bulk",
    "create_account",
    "create_batch",
    "create_bulk",
    "create_environment",
    "create_key",
    "create_schedule",
    "create_token",
    "current_key",
    "data_keys",
    "deactivate_schedule",
    "declare_schedules",
    "delete_environment",
    "delete_project",
    "delete_schedule",
    "dequeue",
    "drop_keys",
    "due",
    "due_schedules",
    "end_session",
    "end_sessions",
    "ensure_environment",
    "enter",
    "expire",
    "expire_checkpoints",
    "find_faults",
    "find_warm",
    "finish",
    "fire_due",
    "fire_schedules",
    "forget_deleted",
    "forget_environment",
    "forget_keys",
    "forget_sessions",
    "forget_tokens",
    "fork",
    "give_up",
    "grant",
    "heartbeat",
    "holds",
    "is_own",
    "is_secret_key",
    "is_short",
    "is_valid",
    "keep",
    "key_by_hash",
    "keys_to_rewrap",
    "look_at",
    "make_key",
    "make_link",
    "match_versions",
    "move",
    "next_due",
    "next_tick",
    "note_strays",
    "notice",
    "open_bulk",
    "prune_batches",
    "prune_bulk",
    "prune_keys",
    "prune_logs",
    "prune_runs",
    "prune_streams",
    "prune_tokens",
    "prune_versions",
    "prune_warm",
    "prune_workers",
    "queues",
    "read",
    "read_batch",
    "read_bulk",
    "read_streams",
    "record",
    "refuse",
    "refuse_warm",
    "register_version",
    "register_worker",
    "remove_account",
    "remove_deleted",
    "rename_environment",
    "rename_project",
    "repair",
    "replay",
    "report_metadata",
    "report_parts",
    "reschedule",
    "rescue",
    "reseal",
    "reseal_variable",
    "reset_key",
    "resume",
    "retry_delay_s",
    "revoke_key",
    "rewrap",
    "rotate_data_key",
    "rotate_key",
    "save",
    "sessions_of",
    "set_variables",
    "sign_in",
    "sign_out",
    "signed_in",
    "start",
    "suspend",
    "take_back_lost",
    "tell",
    "tell_stranded",
    "token_use",
    "touch_key",
    "trigger",
    "trigger_all",
    "unset_variable",
    "unused_objects",
    "update_schedule",
    "use_link",
    "use_token",
    "variable",
    "variables",
    "variables_to_reseal",
    "wake",
    "warm",
    "work_off",
]
