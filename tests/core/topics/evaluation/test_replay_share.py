"""`[data] replay = "auto"`: the share follows the forgetting that was measured."""

from __future__ import annotations

import doctest

import pytest
from msgspec.structs import replace

from core.topics.evaluation import replay_share
from core.topics.evaluation.replay_share import START, ReplayShare, described, next_share, resolved
from events import kinds
from events.settings import DataSettings, JobSettings, ModelSettings, Sources
from tests.core.world import World, job_id, settings
from tests.projections.evaluation.test_matrix import A, B, C, evaluated

AUTO = DataSettings(replay="auto", replay_min=0.05, replay_max=0.5)
SETTINGS = JobSettings(model=ModelSettings(path="m"), data=AUTO)


def started(job: str, share: float) -> kinds.AttemptStarted:
    settings = replace(SETTINGS, sources=Sources(replay_share=share, replay=(A,)))
    return kinds.AttemptStarted(job=job, attempt=1, settings=settings)


def test_the_examples_are_right() -> None:
    assert doctest.testmod(replay_share).failed == 0


def test_a_home_without_measurements_uses_the_default() -> None:
    sources = resolved(Sources(), AUTO, ReplayShare())
    assert (sources.replay_share, sources.replay_forgetting) == (START, None)
    assert "forgetting was not measured since the last file" in described(
        replace(SETTINGS, sources=replace(sources, replay=(A,)))
    )


def test_the_share_rises_while_files_are_forgotten_and_falls_while_they_are_not() -> None:
    """Three jobs: the loss on a rises from 1.0 to 1.5, then returns to 1.0."""
    known = ReplayShare().started(started(A, 0.1)).measured(evaluated(A, 10, {A: 1.0}))
    assert known.forgetting is None
    known = known.started(started(B, 0.1)).measured(evaluated(B, 20, {A: 1.5, B: 2.0}))
    assert known.forgetting == 0.5
    sources = resolved(Sources(), AUTO, known)
    assert (sources.replay_share, sources.replay_forgetting) == (0.2, 0.5)
    known = known.started(started(C, 0.2))
    assert known.forgetting is None
    known = known.measured(evaluated(C, 30, {A: 1.0, B: 1.0, C: 1.0}))
    assert known.forgetting == 0.0
    assert resolved(Sources(), AUTO, known).replay_share == pytest.approx(0.16)


def test_another_attempt_at_a_job_has_the_same_share() -> None:
    known = ReplayShare(share=0.1, forgetting=0.5, job=A)
    sources = resolved(Sources(), AUTO, known)
    again = known.started(started(B, sources.replay_share))
    assert resolved(Sources(), AUTO, again).replay_share == sources.replay_share == 0.2


def test_a_file_that_gains_does_not_make_up_for_one_that_is_forgotten() -> None:
    """A rises from 1.0 to 1.4, B falls from 2.0 to 1.0: the mean of 0.4 and 0."""
    known = ReplayShare().measured(evaluated(B, 20, {A: 1.0, B: 2.0}))
    assert known.measured(evaluated(C, 30, {A: 1.4, B: 1.0, C: 1.0})).forgetting == pytest.approx(0.2)


def test_the_share_is_journaled_with_the_job_and_the_same_when_it_continues() -> None:
    """Killed after a commit; forgetting that is measured meanwhile changes nothing of a job that has begun."""
    world = World()
    world.config = replace(settings(held_out=True), data=DataSettings(holdout=0.1, replay="auto"))
    world.start()
    world.add(4)
    world.run()
    job = world.add(4)
    world.run_until(kinds.CheckpointCommitted, count=1)
    current = world.state.training.current
    assert current is not None
    assert current.settings is not None
    assert (current.id, current.settings.replay_share, current.settings.sources.replay) == (job, START, (job_id(1),))
    share = replace(world.state.replay_share, forgetting=5.0, job="")
    world.state = replace(world.state, replay_share=share)
    world.lose_worker()
    world.run_until(kinds.AttemptStarted)
    again = world.state.training.current
    assert again is not None
    assert again.settings == current.settings


@pytest.mark.parametrize("forgetting", [0.2, 0.0])
def test_the_share_stays_within_the_bounds(forgetting: float) -> None:
    share: float | None = None
    for _ in range(20):
        share = next_share(share, forgetting, AUTO)
        assert 0.05 <= share <= 0.5
    assert share == (0.5 if forgetting > 0 else 0.05)
    assert next_share(0.001, 0.2, replace(AUTO, replay_min=0.0)) == START


def test_other_rows_and_losses_that_are_not_finite_are_no_measurement() -> None:
    """With more files fewer rows of each are scored: the next evaluation of the same rows is compared again."""
    known = ReplayShare().measured(evaluated(A, 10, {A: 1.0}))
    known = known.measured(evaluated(B, 20, {A: 3.0, B: 1.0}, rows=2))
    assert known.forgetting is None
    known = known.measured(evaluated(C, 30, {A: "NaN", B: 1.25}, rows=2))
    assert known.forgetting == 0.25
    assert known.measured(evaluated(C, 40, {})) == known
    assert known.moved() == ReplayShare()


def test_a_fixed_share_stays_fixed() -> None:
    fixed = replace(SETTINGS, data=DataSettings(replay=0.25))
    assert fixed.replay_share == 0.25
    assert described(fixed) == ""
    assert resolved(Sources(), fixed.data, ReplayShare(share=0.1)) == Sources()
    event = replace(started(A, 0.3), settings=fixed)
    assert ReplayShare().started(event) == ReplayShare()
    assert replace(SETTINGS, sources=Sources(replay_share=0.3)).replay_share == 0.3
