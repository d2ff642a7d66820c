"""What a task says of its checkpoints."""

from datetime import timedelta

import pytest

from torpor import Checkpoints, Retry, task


def test_a_task_says_when_it_is_saved_and_how_long_that_is_kept() -> None:
    @task(id="trained", checkpoints=Checkpoints(every="10m", keep=timedelta(days=7), keep_last=3))
    def trained() -> None: ...

    policy = trained.manifest().checkpoints
    assert (policy.every_s, policy.keep_s, policy.keep_last) == (600, 7 * 86400, 3)


def test_without_a_word_nothing_is_saved_by_itself() -> None:
    assert Checkpoints().policy.every_s is None


def test_a_failed_attempt_may_go_on_from_a_checkpoint() -> None:
    assert Retry(resume="checkpoint").policy.resume == "checkpoint"
    assert Retry().policy.resume == "top"


@pytest.mark.parametrize("wrong", [{"every": "1s"}, {"every": -1}, {"keep": "soon"}, {"keep_last": 0}])
def test_what_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"Checkpoints|duration"):
        Checkpoints(**wrong)  # pyright: ignore[reportArgumentType]


def test_other_things_are_refused_by_name() -> None:
    with pytest.raises(TypeError, match="Checkpoints"):

        @task(id="wrong", checkpoints="10m")  # pyright: ignore[reportArgumentType, reportCallIssue]
        def wrong() -> None: ...

    with pytest.raises(ValueError, match="resume"):
        Retry(resume="newest")  # pyright: ignore[reportArgumentType]
