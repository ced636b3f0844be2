"""Self-correction: rounds, files, and the guards against collapse."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from core import commands
from core.effects import MakeCorrectionFile
from core.errors import IllegalEvent, Refused
from core.evolve import evolve
from core.job import Job
from core.topics.attempts import ATTEMPTS_WITHOUT_PROGRESS
from core.topics.evaluation.self_correction import (
    Figures,
    SelfCorrection,
    concern_of,
    correction_plan,
    described,
    put_off_text,
    why_not_now,
)
from events import kinds, messages
from events.self_correction import AnsweredPrompt, CorrectionPlan, OwnAnswer, SelfCorrectionSettings
from tests.core.world import World, job_id

ASKED, RUNS = job_id(1), job_id(2)

SETTINGS = SelfCorrectionSettings(kind="rejection", queue_every=4)


def training(steps: int = 6, at: int = 3) -> World:
    """A file is trained, and the next job has reached a step."""
    world = World()
    world.start()
    world.add(2)
    world.run()
    world.add(steps)
    world.run_until(kinds.StepReached, at)
    return world


def job(world: World) -> Job:
    found = world.state.training.current
    assert found is not None
    return found


def prompt(line: int, right: int = 1, wrong: int = 1) -> AnsweredPrompt:
    """A prompt with different answers."""
    answers = [OwnAnswer(text=f"{line} right {number}", right=True) for number in range(right)]
    answers += [OwnAnswer(text=f"{line} wrong {number}", right=False) for number in range(wrong)]
    return AnsweredPrompt(job=ASKED, line=line, answers=tuple(answers))


def corrected(world: World, **changes: object) -> messages.SelfCorrected:
    """A round where the world stands: two prompts, two rows."""
    reached, attempt = world.state.attempts.reached, world.state.attempts.current
    assert attempt is not None
    fact = messages.SelfCorrected(
        attempt=attempt,
        global_step=reached.global_step,
        step=reached.step,
        seed=7,
        settings=SETTINGS,
        prompts=(prompt(1), prompt(2)),
        chat=True,
        answers=4,
        right=2,
        distinct=0.5,
        mean_tokens=3.0,
        kl=0.1,
        tokens=12,
        seconds=0.25,
    )
    return replace(fact, **changes)


def test_a_round_is_journaled_with_the_weights_that_gave_the_answers() -> None:
    """Its rows are counted, and its step gets no second one."""
    world = training()
    world.execute(corrected(world))
    (event,) = [each for each in world.journal if isinstance(each, kinds.SelfCorrectionAnswered)]
    assert (event.round, event.base, event.rows, event.global_step) == (1, None, 2, 5)
    head = world.state.head.checkpoint
    assert head is not None
    assert event.checkpoint == head.id
    own = world.state.self_correction
    assert (own.rounds, own.first, own.waiting, own.round_s) == (1, 1, 2, 0.25)
    assert job(world).evaluation.corrected_step == 3


def test_prompts_come_from_trained_files_of_people() -> None:
    """Not from the job that runs, which has trained only a part, and not from files that self-correction made."""
    world = training()
    plan = correction_plan(world.state, job(world))
    assert plan is not None
    assert plan.sources == (ASKED,)
    own = replace(world.state.self_correction, own=(ASKED,))
    state = replace(world.state, self_correction=own)
    assert correction_plan(state, job(world)) is None
    assert "no trained file" in (why_not_now(state) or "")


def test_own_rows_are_not_replayed_either() -> None:
    """They were made of rows that are replayed themselves."""
    world = training()
    world.state = replace(world.state, self_correction=SelfCorrection(own=(ASKED,)))
    world.run()
    world.config = replace(world.config, data=replace(world.config.data, replay=0.5))
    world.add(2)
    world.run_until(kinds.AttemptStarted)
    (started, *_) = [each for each in reversed(world.journal) if isinstance(each, kinds.AttemptStarted)]
    assert started.settings.sources.replay == (RUNS,)


def filed(world: World) -> kinds.SelfCorrectionFileStarted:
    """Two rounds lead to a file."""
    world.execute(corrected(world))
    world.run_until(kinds.StepReached)
    world.execute(corrected(world))
    (event,) = [each for each in world.journal if isinstance(each, kinds.SelfCorrectionFileStarted)]
    return event


def test_enough_rows_become_a_file_when_nothing_trains() -> None:
    """The intent comes with the round; the file is written before anything else starts, once."""
    world = training()
    started = filed(world)
    assert (started.name, started.first_round, started.last_round) == ("self-correction-0001.jsonl", 1, 2)
    assert started.replay == (ASKED,)
    assert "to be queued first" in (why_not_now(world.state) or "")
    assert not any(isinstance(each, MakeCorrectionFile) for each in world.pending_effects())
    world.add(2)
    world.run_until(kinds.JobTrained)
    assert world.pending_effects() == (MakeCorrectionFile(file=started),)
    queued = kinds.SelfCorrectionFileQueued(
        number=1, job=job_id(9), name=started.name, rows=4, references=2, replayed=2
    )
    record = commands.RecordCorrectionFile(queued=queued)
    world.execute(record)
    world.execute(record)  # as a daemon that was killed and carries the effect out again
    assert len([each for each in world.journal if isinstance(each, kinds.SelfCorrectionFileQueued)]) == 1
    own = world.state.self_correction
    assert (own.files, own.own, own.bases, own.waiting, own.building) == (1, (job_id(9),), ("",), 0, None)


def test_a_version_has_one_file() -> None:
    """The next answers come from the next version, after the file was trained."""
    world = training()
    filed(world)
    world.run_until(kinds.SelfCorrectionFileQueued)
    assert "file-3.jsonl is to be trained first" in (why_not_now(world.state) or "")
    world.run()
    assert "has had its file" in (why_not_now(world.state) or "")
    published = replace(world.state.head, base="v001")
    assert why_not_now(replace(world.state, head=published)) is None


def test_a_report_that_comes_too_late_leads_to_nothing() -> None:
    """The worker did not know yet that the file was started."""
    world = training()
    filed(world)
    seen = len(world.journal)
    world.run_until(kinds.StepReached)
    before = len(world.journal)
    world.execute(corrected(world))
    assert len(world.journal) == before > seen


def test_rows_of_weights_that_the_head_left_are_dropped() -> None:
    """They are the answers of another model."""
    world = training()
    world.execute(corrected(world))
    world.run()
    assert world.state.self_correction.waiting == 2
    world.execute(commands.MoveHead())
    assert world.state.self_correction.waiting == 0


@pytest.mark.parametrize(
    ("right", "distinct", "cause"),
    [(0, 0.5, "pass_rate"), (2, 0.1, "distinct")],
)
def test_it_stops_when_answers_get_worse_or_alike(right: int, distinct: float, cause: str) -> None:
    """The mean of three rounds counts. A person resumes it, and it compares from there on."""
    world = training(steps=12, at=1)
    often = replace(SETTINGS, queue_every=1000)
    for _ in range(3):
        world.execute(corrected(world, settings=often))
        world.run_until(kinds.StepReached)
    for _ in range(3):
        if not world.state.self_correction.stopped:
            world.execute(corrected(world, settings=often, right=right, distinct=distinct))
            world.run_until(kinds.StepReached)
    (event,) = [each for each in world.journal if isinstance(each, kinds.SelfCorrectionStopped)]
    assert event.cause == cause
    assert correction_plan(world.state, job(world)) is None
    assert "keepstep self-correction resume" in (why_not_now(world.state) or "")
    world.execute(commands.ResumeSelfCorrection())
    assert correction_plan(world.state, job(world)) is not None
    assert world.state.self_correction.best is None
    with pytest.raises(Refused, match="has not stopped"):
        world.execute(commands.ResumeSelfCorrection())


def test_few_rounds_say_nothing() -> None:
    """One of them has few prompts."""
    figures = (Figures(0.1, 0.1),) * 2
    assert concern_of(SelfCorrection(recent=figures, best=Figures(0.9, 0.9)), SETTINGS) is None


def test_it_stops_with_a_reason_and_keeps_the_file_to_make() -> None:
    """A data file is missing, for example; `resume` tries again."""
    world = training()
    started = filed(world)
    world.execute(commands.StopSelfCorrection(cause="data", message="a file is gone"))
    world.run()
    world.execute(commands.StopSelfCorrection(cause="data", message="a file is gone"))
    assert world.pending_effects() == ()
    world.execute(commands.ResumeSelfCorrection())
    assert world.pending_effects() == (MakeCorrectionFile(file=started),)


def test_a_round_that_failed_or_was_put_off_is_journaled() -> None:
    """A failed one ends the round at this step; one that was put off keeps its cost."""
    world = training()
    at = {"attempt": corrected(world).attempt, "global_step": 5, "step": 3}
    world.execute(messages.SelfCorrectionPutOff(**at, round_s=9.0, trained_s=1.0, cost_max=0.1, next_step=None))
    assert world.state.self_correction.round_s == 9.0
    world.execute(messages.SelfCorrectionFailed(**at, failure="code", message="a bug", seconds=0.5))
    assert job(world).evaluation.corrected_step == 3
    assert world.state.self_correction.spent_s == 0.5


@pytest.mark.parametrize("failure", ["hang", "out_of_memory", "code", "driver"])
def test_a_worker_that_is_lost_in_a_round_costs_the_rounds_of_the_job(failure: str) -> None:
    """The job never fails for it."""
    world = training()
    world.state = replace(
        world.state,
        training=world.state.training.with_current(replace(job(world), failures=ATTEMPTS_WITHOUT_PROGRESS - 1)),
    )
    attempt = corrected(world).attempt
    world.execute(commands.ReportWorkerLost(attempt=attempt, failure=failure, message="m", phase="self_correct"))
    assert [type(each) for each in world.journal[-2:]] == [kinds.SelfCorrectionAbandoned, kinds.AttemptFailed]
    assert correction_plan(world.state, job(world)) is None


def test_events_that_cannot_follow_are_illegal() -> None:
    """A round of another step or number, a file that was not started, an end that came before."""
    world = training()
    report = corrected(world)
    fields = {name: getattr(report, name) for name in report.__struct_fields__}
    event = kinds.SelfCorrectionAnswered(job=RUNS, round=1, base=None, checkpoint=None, rows=2, **fields)
    for wrong in (replace(event, round=2), replace(event, step=2), replace(event, job=ASKED)):
        with pytest.raises(IllegalEvent):
            evolve(world.state, wrong)
    for wrong_file in (
        kinds.SelfCorrectionFileQueued(number=1, job=ASKED, name="f", rows=1, references=0, replayed=0),
        kinds.SelfCorrectionResumed(),
    ):
        with pytest.raises(IllegalEvent):
            evolve(world.state, wrong_file)


def test_a_worse_version_stops_it_if_it_made_rows() -> None:
    """Else the version is worse for another reason."""
    from core.topics.evaluation.self_correction import stopped_by_gate

    world = training()
    assert not stopped_by_gate(world.state, "v002", "the loss rose")
    world.execute(corrected(world))
    (event,) = stopped_by_gate(world.state, "v002", "the loss rose")
    assert isinstance(event, kinds.SelfCorrectionStopped)
    assert (event.cause, event.message) == ("gate", "v002 is worse than the version before: the loss rose")


def test_a_round_is_described_in_a_sentence() -> None:
    """With the divergence, where it is known."""
    world = training()
    world.execute(corrected(world))
    event = next(each for each in world.journal if isinstance(each, kinds.SelfCorrectionAnswered))
    assert described(event) == (
        "self-correction after step 3: 2 of 4 own answers right, 2 rows, KL to the first base 0.1 (0.2 s)"
    )
    put_off = kinds.SelfCorrectionPutOff(
        job=RUNS, attempt=1, global_step=5, step=3, round_s=9.0, trained_s=1.0, cost_max=0.1, next_step=None
    )
    end = "more than 10 % of the training since the last one; this job ends before the next"
    assert put_off_text(put_off).endswith(end)


def test_the_plan_says_where_to_continue() -> None:
    """A step that was answered in an earlier attempt gets no second round."""
    world = training()
    world.execute(corrected(world))
    plan = correction_plan(world.state, job(world))
    assert plan == CorrectionPlan(
        settings=SelfCorrectionSettings(), sources=(ASKED,), corrected_to=3, trained_s=0.0, round_s=0.25
    )
