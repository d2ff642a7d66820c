"""What a worker offers to runs."""

import pytest

from torpor.config import Settings
from torpor.errors import ConfigError
from torpor.images.workspace import memory_limit
from torpor.worker.capacity import cpus, offer, read_labels

GIB = 1 << 30


def test_settings_come_first_and_both_are_oversubscribed() -> None:
    told = offer(Settings(worker_cpu=2, worker_memory_mb=1024, cpu_oversubscription=3, memory_oversubscription=1.5))
    assert (told.cpu, told.memory_bytes, told.labels) == (6.0, int(1.5 * GIB), {})


def test_without_settings_it_is_what_the_machine_has() -> None:
    told = offer(Settings())
    assert (told.cpu, told.memory_bytes) == (8 * cpus(), 2 * memory_limit())
    assert cpus() > 0


def test_labels_are_names_with_or_without_a_value() -> None:
    assert read_labels(" gpu, zone=eu ,a.b/c=x=y") == {"gpu": "", "zone": "eu", "a.b/c": "x=y"}
    with pytest.raises(ConfigError, match=r"TORPOR_WORKER_LABELS='=eu' can't be used"):
        read_labels("=eu")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("worker_cpu", -1),
        ("worker_memory_mb", -1),
        ("cpu_oversubscription", 0.5),
        ("memory_oversubscription", float("nan")),
    ],
)
def test_a_setting_that_can_not_be_used_is_named(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"TORPOR_{name.upper()}="):
        offer(Settings(**{name: value}))  # pyright: ignore[reportArgumentType]
