"""Settings: read once at start-up from `TORPOR_*` variables. docs/settings.md says the same; a test compares them.

A value that can't be used is a ConfigError that names the variable and what it should look like.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from torpor.errors import ConfigError

_CHOICES = {
    "isolation": ("auto", "full", "off"),
    "trust": ("own", "foreign"),
    "network": ("host", "private", "none"),
}


@dataclass(frozen=True)
class Settings:
    """Every setting of server, worker and command line. `X_y` is read from `TORPOR_X_Y`; durations are in seconds."""

    database_url: str | None = None
    """A Postgres to use, 15 or newer. Without it we start our own under the data directory."""
    data_dir: Path = Path(".torpor")
    """Where the embedded database, checkpoint images, keys and the worker's identity live."""
    host: str = "127.0.0.1"
    """The address that the server listens on."""
    port: int = 8787
    """The port that the server listens on; 0 takes any free one."""
    public_url: str | None = None
    """How the outside reaches the server (callback URLs of wait tokens, presigned URLs). Default: http://host:port."""
    proxies: str = "127.0.0.1"
    """Addresses or networks of the proxies before the server, separated by commas, or *: what they say in X-Forwarded-For is
    believed."""
    api_url: str | None = None
    """The server, for workers, the command line and clients. TRIGGER_API_URL is read too."""
    secret_key: str | None = None
    """An environment's secret key, `tr_dev_…`. TRIGGER_SECRET_KEY is read too."""
    access_token: str | None = None
    """A personal token, `tr_pat_…`, for commands and clients without a secret key. TRIGGER_ACCESS_TOKEN is read too."""
    worker_token: str | None = None
    """The secret that servers share with workers of all environments; or, of a worker, one of its environment."""
    project: str = "default"
    """The project of the environment that a worker serves."""
    environment: str = "dev"
    """The environment that a worker serves."""
    worker_slots: int = 20
    """How many runs one worker lets work at once. Runs that wait don't count."""
    worker_held: int = 200
    """How many waiting runs a worker holds in memory beside those; only further ones take a slot."""
    worker_cpu: float = 0.0
    """How many CPUs a worker has to give to runs; 0: all that it may use."""
    worker_memory_mb: float = 0.0
    """How much memory a worker has to give to runs; 0: all of the machine's, or of its control group's."""
    cpu_oversubscription: float = 8.0
    """So many times its CPUs a worker gives away, as runs seldom use what they may."""
    memory_oversubscription: float = 2.0
    """The same for its memory."""
    worker_labels: str | None = None
    """What a worker has besides: names, or name=value, separated by commas. Presets can ask for it."""
    machines: str | None = None
    """Presets to add to the built-in ones or to change: JSON, or the path of a file with it."""
    default_machine: str = "small-1x"
    """The preset of runs whose task, project and trigger name none."""
    start_patience_s: float = 120.0
    """How long a worker tries to start or restore a run again when that fails for what may pass, such as a full disk."""
    lease_s: float = 30.0
    """How long a worker may be silent before its runs are taken back."""
    boot_timeout_s: float = 120.0
    """A run that its worker has not started this long after its patience was over is taken back, though the worker lives."""
    heartbeat_interval_s: float = 10.0
    """How often a worker renews its leases."""
    hold_s: float = 5.0
    """A time wait that is due sooner than this is held in memory; a longer one is frozen."""
    hold_child_s: float = 1.0
    """How long a run that waits for a child run is held before it is frozen."""
    memory_floor_percent: float = 10.0
    """When less of the machine's memory (or of the control group's limit) is free, waiting runs are frozen at once, the
    idlest first; 0 never does that."""
    drain_s: float = 30.0
    """How long a worker that is to stop tries to move its runs: those with open connections not before half of it is over."""
    lazy_bytes: int = 100_000_000
    """A run whose image has more bytes of memory than that goes on before all of it is there; 0: none does."""
    freeze_retry_s: float = 30.0
    """After a freeze that failed: how long the run is held before the next try (doubled each time, up to ten minutes)."""
    tidy_interval_s: float = 60.0
    """How often a worker deletes checkpoint images that no run needs any longer."""
    cancel_grace_s: float = 30.0
    """How long a run's process may take to end by itself after a cancel; then its worker kills it. Less than a
    minute: after that the server ends the run without its worker."""
    max_rescues: int = 5
    """A run that was taken back this often in a row, without progress, is a system failure."""
    retention_days: int = 30
    """Runs, batches and tokens that ended longer ago are deleted, with all that belongs to them; 0 keeps them for ever."""
    logs_retention_days: int = 14
    """What runs that ended longer ago have said is deleted; 0 keeps it as long as the run."""
    streams_retention_days: int = 28
    """What came into a stream longer ago is deleted, also while its run lives; 0 keeps it as long as the run."""
    stream_bytes: int = 314572800
    """The most bytes that one stream of a run may hold."""
    checkpoint_retention_s: float = 86400.0
    """How long the checkpoints of a run are kept after its end, for forks; a task may say otherwise."""
    checkpoint_grace_s: float = 600.0
    """How long nothing may refer to a checkpoint's image before it is deleted."""
    unfit_patience_s: float = 600.0
    """How long a run waits for a worker that can use its checkpoint, when those that are here can't; then it goes on from
    an earlier one, or from the top."""
    encryption_keys: str | None = None
    """Master keys, each 32 bytes in base64: the first wraps the keys that checkpoints are sealed with, others only unwrap.
    Else one is made, in `server.key` in the data directory."""
    object_store: str | None = None
    """Where large payloads and outputs go: s3://bucket/prefix, gs://…, az://…, file:///…; else into the data directory."""
    offload_bytes: int = 524288
    """A payload or output with more bytes of JSON than this goes to the object store instead of the database."""
    criu: str | None = None
    """The criu to use; else one that passes a real dump and restore is looked for."""
    cpu_baseline: str | None = None
    """What images need of a CPU: x86-64-v2, x86-64-v3 or x86-64-v4. Default: all that the CPU has on which they are made."""
    isolation: str = "auto"
    """How much of a room of its own each run gets: auto (as much as there is), full (or the worker doesn't start), off."""
    trust: str = "own"
    """Whose code the tasks are: own, or foreign (then nothing of it ever runs as root)."""
    run_env: str | None = None
    """Which of the worker's variables foreign code has besides those that tell nothing; names, also with a `*`."""
    import_timeout_s: float = 120.0
    """How long the import of a version may take."""
    network: str = "host"
    """What runs reach: host (what the worker reaches), private (outwards only), none."""
    network_reaches: str | None = None
    """Addresses that runs with a private network reach though they are nobody's on the internet: 10.1.2.0/24, 10.3.0.7."""
    readable: str | None = None
    """Further paths of the machine that runs may read, separated by colons."""
    writable: str | None = None
    """Paths of the machine that runs may write to as well, separated by colons."""
    run_uids: str = "200000-299999"
    """From which range each run takes its user; the first one is the group of all."""
    output_bytes: int = 100 << 20
    """How much of a run's output is kept; a line counts for 64 bytes more than its text."""
    cpu_cap: bool = False
    """A run never gets more CPU than its machine's size says, also when nobody else wants it."""
    max_request_bytes: int = 3145728
    """The most bytes that a request of the public API may have, and an item of a batch."""
    max_batch_items: int = 100000
    """How many items a batch may announce; for each that never comes a line is written."""
    max_metadata_bytes: int = 262144
    """The most bytes of JSON that a run's metadata may have."""
    max_tags: int = 10
    """How many tags a run may have, and a wait token."""
    max_attempts: int = 100
    """How many attempts a trigger may ask for."""
    max_ttl_s: float = 0.0
    """The longest ttl that a trigger may ask for; 0: any."""
    max_schedules: int = 0
    """How many schedules may be made through the API; 0: any number. Those declared in code don't count."""
    max_public_token_s: float = 2592000.0
    """How long a public token that the server makes may be good."""
    max_variables: int = 500
    """How many variables an environment may have."""
    key_requests_per_s: float = 0.0
    """How often one key may ask the server, lastingly; 0: as often as it likes."""
    key_requests_burst: int = 750
    """How many requests of one key are taken at once, after a pause."""
    token_requests_per_s: float = 10.0
    """How often one public token may ask the server, lastingly; 0: as often as it likes."""
    token_requests_burst: int = 100
    """How many requests with one public token are taken at once, after a pause."""
    realtime_subscriptions: int = 0
    """How many realtime subscriptions and readers of streams of one environment a server holds open; 0: as many as there are."""
    oidc_issuer: str | None = None
    """The OpenID provider that people may sign in with, such as https://accounts.google.com."""
    oidc_client_id: str | None = None
    """What the provider knows this server as."""
    oidc_client_secret: str | None = field(default=None, repr=False)
    """And by what it is sure of that; none for a public client."""
    oidc_allow: str | None = None
    """Who may enter: ada@example.com, @example.com, group:ops, or * for everybody whom the provider knows; with commas."""
    oidc_scopes: str = "openid email profile"
    """What the provider is asked for."""
    oidc_groups_claim: str = "groups"
    """Where the provider says in which groups somebody is; dots lead into what is nested."""
    oidc_button: str = "Sign in with OpenID"
    """What the button says."""
    oidc_only: bool = False
    """True: passwords open nothing. One-time links still do."""
    freeze: bool = True
    """False holds every waiting run in memory, as on a machine without CRIU."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> "Settings":
        """The settings of this process.

        Raises:
            ConfigError: a variable's text can't be used.
        """
        environ = os.environ if environ is None else environ
        values: dict[str, object] = {}
        for each in fields(cls):
            name = "TORPOR_" + each.name.upper()
            text = environ.get(name)
            if not text and each.name in ("api_url", "secret_key", "access_token"):
                text = environ.get("TRIGGER_" + each.name.upper())
            if text:
                values[each.name] = _parse(name, text, each.default)
            if (choices := _CHOICES.get(each.name)) and values.get(each.name, choices[0]) not in choices:
                raise ConfigError(f"{name}={text!r} can't be used: it should be {' or '.join(choices)}")
        return cls(**values)  # pyright: ignore[reportArgumentType]


def _parse(name: str, text: str, default: object) -> object:
    try:
        match default:
            case bool():
                return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}[text.lower()]
            case int():
                return int(text)
            case float():
                return float(text)
            case Path():
                return Path(text)
            case _:
                return text
    except (ValueError, KeyError):
        wanted = {bool: "yes or no", int: "a whole number", float: "a number of seconds"}[type(default)]
        raise ConfigError(f"{name}={text!r} can't be used: it should be {wanted}") from None
