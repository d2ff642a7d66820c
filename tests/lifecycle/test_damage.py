"""What can't be frozen is held and says why; what was damaged on disk is never restored."""

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from stack import Stack, eventually

pytestmark = pytest.mark.criu


def suspended(stack: Stack) -> tuple[str, str, Path]:
    """A token, the run that waits for it, and the manifest of its image."""
    store = stack.directory / "data" / "worker" / "store"
    eventually(lambda: list((store / "images").glob("warm_*")), what="the warm image is stored")
    stored_before = set(packs(store))
    token = stack.client.create_token()["id"]
    run_id = stack.trigger("waits_for_token", {"journal": str(stack.journal()), "token_id": token})
    stack.await_event(run_id, "run.suspended")
    checkpoint_id = stack.events(run_id, "run.suspended")[-1]["checkpoint_id"]
    manifest = store / "images" / checkpoint_id
    own_packs[manifest] = sorted(set(packs(store)) - stored_before)
    return token, run_id, manifest


own_packs: dict[Path, list[Path]] = {}
"""Of an image: those that were stored for it, and not before, for its base or for others."""


def packs(store: Path) -> list[Path]:
    return list((store / "packs").iterdir())


def flip(manifest: Path) -> None:
    for pack in own_packs[manifest]:
        data = bytearray(pack.read_bytes())
        data[len(data) // 2] ^= 0xFF
        pack.write_bytes(data)


def truncate(manifest: Path) -> None:
    for pack in own_packs[manifest]:
        pack.write_bytes(pack.read_bytes()[: pack.stat().st_size // 2])


def forge(manifest: Path) -> None:
    data = bytearray(manifest.read_bytes())
    data[-40] ^= 1
    manifest.write_bytes(data)


def lose(manifest: Path) -> None:
    manifest.unlink()


def swap(manifest: Path) -> None:
    """The manifest of another run's image takes its place."""

    def others() -> list[Path]:
        return [path for path in manifest.parent.glob("checkpoint_*") if path != manifest]

    [other] = eventually(lambda: found if len(found := others()) == 1 else None, what="images of ended runs are gone")
    manifest.write_bytes(other.read_bytes())


@pytest.mark.parametrize("damage", [flip, truncate, forge, lose, swap])
def test_a_damaged_image_is_found_before_the_restore_and_the_run_begins_anew(
    stack: Stack, damage: Callable[[Path], None]
) -> None:
    """BB5: a restore that can't be is no loop: the run goes on from what is left, and its story says why."""
    other_token, other = "", ""
    if damage is swap:
        other_token = stack.client.create_token()["id"]
        other = stack.trigger("waits_for_token", {"journal": str(stack.journal("other")), "token_id": other_token})
        stack.await_event(other, "run.suspended")
    token, run_id, manifest = suspended(stack)
    damage(manifest)
    stack.client.complete_token(token, "the answer")
    assert stack.output(run_id) == "the answer"
    [refusal] = stack.events(run_id, "run.checkpoint_refused")
    assert any(word in refusal["reason"] for word in ("changed", "cut short", "not in the object store", "not the one"))
    assert stack.lines() == ["before", "before", "after"]
    assert stack.run(run_id)["attemptCount"] == 2
    if damage is swap:
        stack.client.complete_token(other_token, "unharmed")
        assert stack.output(other) == "unharmed"
        assert stack.lines("other") == ["before", "after"]
    stack.assert_nothing_left()


def held_for(stack: Stack, task: str, **payload: object) -> str:
    """Why a run of this task could not be frozen; it is then answered in memory and completes."""
    token = stack.client.create_token()["id"]
    run_id = stack.trigger(task, {"token_id": token, **payload} if payload else token)
    stack.await_event(run_id, "run.waiting" if task != "waits_with_thread" else "run.held")
    reasons = ""
    if "run.held" not in stack.kinds(run_id):
        eventually(
            lambda: {"run.held", "run.freeze_failed"} & set(stack.kinds(run_id)), what=f"{task} is held and says why"
        )
    for kind in ("run.held", "run.freeze_failed"):
        reasons += str(stack.events(run_id, kind))
    assert stack.process_of(run_id)
    assert "run.suspended" not in stack.kinds(run_id)
    stack.client.complete_token(token, 7)
    assert stack.output(run_id) == 7
    stack.assert_nothing_left()
    return reasons


def test_a_thread_that_the_loop_waits_for_keeps_the_run_awake(stack: Stack) -> None:
    assert "thread" in held_for(stack, "waits_with_thread")


def test_a_unix_socket_to_another_process_keeps_the_run_in_memory(stack: Stack, tmp_path: Path) -> None:
    path = tmp_path / "peer.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o777)  # the run is not root
        listener.listen()
        assert "unix socket" in held_for(stack, "waits_with_socket", path=str(path))


def occupied(port: int) -> socket.socket | None:
    """A socket at this port, unless somebody is there."""
    occupant = socket.socket()
    try:
        occupant.bind(("127.0.0.1", port))
    except OSError:
        occupant.close()
        return None
    return occupant


def test_a_restore_that_fails_for_a_while_costs_nothing_but_time(stack: Stack) -> None:
    token = stack.client.create_token()["id"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    run_id = stack.trigger("listens", {"port": port, "token_id": token})
    stack.await_event(run_id, "run.suspended")
    with eventually(lambda: occupied(port), what="the frozen process has let go of its port") as occupant:
        occupant.listen()
        stack.client.complete_token(token)
        stack.await_event(run_id, "run.start_failed")
    assert stack.output(run_id) == f"listens on {port}"
    assert stack.run(run_id)["attemptCount"] == 1
    assert stack.kinds(run_id).count("run.started") == 1
