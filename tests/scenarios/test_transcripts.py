"""Whole stories, word for word: commands and facts in, events and effects out.

Each scenario tells one story; its transcript stands beside this file under the same name. When the machine changes,
`pytest tests/scenarios --update-golden` rewrites them: read the diff before it is committed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from core import commands
from events import kinds, messages
from events.kinds import BatchSkipped, EvaluationDone, MicrobatchSplit
from tests.core.simulated_worker import plan
from tests.core.world import job_id, settings
from tests.scenarios.playbook import Playbook

Story = Callable[[Playbook], None]

TIMELINES: dict[str, Story] = {}


def timeline(tell: Story) -> Story:
    """Register a scenario under its function's name."""
    TIMELINES[tell.__name__] = tell
    return tell


@timeline
def two_files(book: Playbook) -> None:
    """Two files are learned one after another; the daemon is stopped when nothing is left."""
    book.start()
    book.add(3)
    book.add(1, "high")
    book.run()
    book.execute(commands.Stop(alive=True))
    book.run()


@timeline
def killed_while_training(book: Playbook) -> None:
    """Daemon and worker are killed behind a commit; the steps since then are run again, and give the same bits."""
    book.start()
    book.add(5)
    book.run_until(kinds.StepReached, 4)
    book.note("kill -9, daemon and worker")
    book.start()
    book.run()


@timeline
def killed_before_the_first_commit(book: Playbook) -> None:
    """Nothing was committed, so the next attempt starts from the base, under the settings of now."""
    book.start()
    book.add(2)
    book.run_until(kinds.StepReached)
    book.note("kill -9, daemon and worker; the config gets another seed")
    book.config = settings(seed=2)
    book.start()
    book.run()


@timeline
def a_step_run_again_diverges(book: Playbook) -> None:
    """Another machine, other bits: the journal says so, and work goes on."""
    book.start()
    book.add(3)
    book.run_until(kinds.StepReached)
    book.note("kill -9, daemon and worker")
    book.start()
    book.run_until(kinds.TrainingStarted)
    assert book.worker is not None
    book.worker.act()
    (step,) = book.worker.outbox
    assert isinstance(step, messages.Step)
    book.worker.outbox[0] = type(step)(
        **{name: getattr(step, name) for name in step.__struct_fields__ if name != "loss"}, loss="NaN"
    )
    book.run()


@timeline
def a_step_does_not_fit_into_memory(book: Playbook) -> None:
    """It is run again in smaller parts, and later ones with it; killed, the next attempt cuts them in the same way."""
    job = job_id(1)
    book.room = {(job, 3): 1}
    book.start()
    book.add(6)
    book.run_until(kinds.StepReached, 5)
    book.note("kill -9, daemon and worker")
    book.start()
    book.run()


@timeline
def a_validation_loss_rises(book: Playbook) -> None:
    """It is told, and nothing else; killed, the next attempt does not say again what it finds again."""
    book.validation = {2: 0.9, 4: 1.4, 6: "NaN"}
    book.config = settings(held_out=True)
    book.start()
    book.add(6)
    book.run_until(EvaluationDone, 3)
    book.note("kill -9, daemon and worker")
    book.start()
    book.run()


@timeline
def a_worker_hangs_in_an_evaluation(book: Playbook) -> None:
    """The next attempt goes on without; nothing else depends on it."""
    book.config = settings(held_out=True)
    book.start()
    book.add(4)
    book.run_until(EvaluationDone, 2)
    book.execute(
        commands.ReportWorkerLost(attempt=1, failure="hang", message="no progress in an evaluation", evaluating=True)
    )
    book.run()


@timeline
def killed_behind_a_split(book: Playbook) -> None:
    """It was journaled and nobody told: the next attempt is."""
    book.room = {(job_id(1), 2): 2}
    book.start()
    book.add(3)
    book.run_until(MicrobatchSplit)
    book.note("kill -9, daemon and worker")
    book.start()
    book.run()


@timeline
def one_row_does_not_fit(book: Playbook) -> None:
    """There is nothing left to cut: it fails, is tried again, and is given up."""
    book.room = {(job_id(1), 3): 0}
    book.start()
    book.add(3)
    book.run()


@timeline
def memory_runs_out_within_an_update(book: Playbook) -> None:
    """What is in memory may be half-changed: the next attempt begins at the last commit, in smaller parts then."""
    book.start()
    book.add(4)
    book.run_until(kinds.StepReached, 3)
    book.execute(
        messages.OutOfMemory(attempt=1, global_step=4, step=4, sequences=4, during="update", message="no memory")
    )
    book.run()


@timeline
def a_batch_is_left_out(book: Playbook) -> None:
    """Its numbers ran away: back to the last commit, and on without it; killed, it is left out again."""
    book.poisoned = {(job_id(1), 4)}
    book.start()
    book.add(6)
    book.run_until(BatchSkipped)
    book.run_until(kinds.StepReached, 3)
    book.note("kill -9, daemon and worker")
    book.start()
    book.run()


@timeline
def a_second_batch_is_suspect(book: Playbook) -> None:
    """The job is given up, and the queue goes on; a person who looked has it go on without that batch."""
    book.poisoned = {(job_id(1), 2), (job_id(1), 5)}
    book.start()
    book.add(6)
    book.add(1)
    book.run()
    book.execute(commands.Retry(job=job_id(1)))
    book.run()


@timeline
def paused_and_resumed(book: Playbook) -> None:
    """In the middle of training: what was reached is committed first, and training goes on from there."""
    book.start()
    book.add(4)
    book.run_until(kinds.StepReached)
    book.execute(commands.Pause())
    book.run()
    book.refused(commands.Pause())
    book.execute(commands.Resume())
    book.run()


@timeline
def paused_while_preparing(book: Playbook) -> None:
    """The worker has nothing to commit and yields at once."""
    book.start()
    book.add(2)
    book.run_until(kinds.AttemptStarted)
    book.turn()
    book.execute(commands.Pause())
    book.run()
    book.execute(commands.Resume())
    book.run()


@timeline
def paused_before_a_worker_is_up(book: Playbook) -> None:
    """Nobody has to be waited for."""
    book.start()
    book.add(2)
    book.run_until(kinds.AttemptStarted)
    book.execute(commands.Pause())
    book.run()


@timeline
def moved_in_the_queue(book: Playbook) -> None:
    """To the front, before another, into another lane; the job in hand is left alone."""
    book.start()
    for priority in ("normal", "normal", "normal", "low"):
        book.add(1, priority)
    book.run_until(kinds.AttemptStarted)
    book.execute(commands.MoveJob(job=job_id(3), first=True))
    book.execute(commands.MoveJob(job=job_id(4), before=job_id(2)))
    book.execute(commands.MoveJob(job=job_id(2), priority="high"))
    book.refused(commands.MoveJob(job=job_id(1), priority="low"))
    book.refused(commands.MoveJob(job=job_id(2), first=True))
    book.run()


@timeline
def held_and_released(book: Playbook) -> None:
    """It is passed over; when nothing else is left, nothing is done; released, it is learned."""
    book.start()
    book.add(1)
    book.add(1)
    book.execute(commands.HoldJob(job=job_id(1)))
    book.refused(commands.HoldJob(job=job_id(1)))
    book.run()
    book.note("only the held job is left")
    book.execute(commands.ReleaseJob(job=job_id(1)))
    book.refused(commands.ReleaseJob(job=job_id(1)))
    book.run()


@timeline
def removed_and_dropped_in_again(book: Playbook) -> None:
    """Its file goes to rejected/ and is known no more; one that weights hold a part of is not taken back."""
    book.start()
    book.add(3)
    book.add(1)
    book.execute(commands.RemoveJob(job=job_id(2)))
    book.run_until(kinds.CheckpointCommitted)
    book.refused(commands.RemoveJob(job=job_id(1)))
    book.execute(commands.AddFile(job=job_id(2), name="file-2.jsonl", size_bytes=200, priority="normal", known=False))
    book.run()


@timeline
def learned_again(book: Playbook) -> None:
    """A second pass over the same bytes, when the first has come to its end; taken back, the file stays."""
    book.start()
    book.add(1)
    book.again(job_id(1))
    book.run()
    book.again(job_id(1))
    book.run()
    book.again(job_id(1))
    book.execute(commands.RemoveJob(job=job_id(1)))
    book.run()


@timeline
def paused_when_ready(book: Playbook) -> None:
    """The plan is kept, the training not begun."""
    book.start()
    book.add(2)
    book.run_until(kinds.JobPrepared)
    book.execute(commands.Pause())
    book.run()
    book.execute(commands.Resume())
    book.run()


@timeline
def paused_and_resumed_before_it_yields(book: Playbook) -> None:
    """The worker was asked already: its attempt ends, and the next one begins at once."""
    book.start()
    book.add(3)
    book.run_until(kinds.StepReached)
    book.execute(commands.Pause())
    book.turn()
    book.execute(commands.Resume())
    book.run()


@timeline
def paused_while_idle_and_stopped(book: Playbook) -> None:
    """The pause outlives the daemon; a file that comes meanwhile waits."""
    book.start()
    book.execute(commands.Pause())
    book.execute(commands.Stop(alive=True))
    book.run()
    book.add(1)
    book.start()
    book.run()
    book.execute(commands.Resume())
    book.run()


@timeline
def stopped_while_training(book: Playbook) -> None:
    """What was reached is committed, and the next daemon goes on."""
    book.start()
    book.add(4)
    book.run_until(kinds.StepReached, 3)
    book.execute(commands.Stop(alive=True))
    book.refused(commands.Stop(alive=True))
    book.run()
    book.start()
    book.run()


@timeline
def stopped_while_preparing(book: Playbook) -> None:
    """The job is queued again, ahead of all others."""
    book.start()
    book.add(2)
    book.run_until(kinds.AttemptStarted)
    book.turn()
    book.execute(commands.Stop(alive=True))
    book.run()
    book.start()
    book.run()


@timeline
def skipped_while_training(book: Playbook) -> None:
    """What it has learned stays learned; the next job goes on from there."""
    book.start()
    book.add(6)
    book.add(1)
    book.run_until(kinds.StepReached, 3)
    book.execute(commands.Skip())
    book.refused(commands.Skip())
    book.run()


@timeline
def skipped_while_preparing(book: Playbook) -> None:
    """It ends as soon as the worker looks up."""
    book.start()
    book.add(6)
    book.run_until(kinds.AttemptStarted)
    book.turn()
    book.execute(commands.Skip())
    book.run()


@timeline
def skipped_while_waiting(book: Playbook) -> None:
    """A job in the queue leaves it; so does a begun one while the daemon is off."""
    book.start()
    book.add(9)
    second = book.add(3)
    book.execute(commands.Skip(job=second))
    book.run_until(kinds.CheckpointCommitted)
    book.execute(commands.Stop(alive=True))
    book.run()
    book.execute(commands.Skip())


@timeline
def two_nights(book: Playbook) -> None:
    """What was learned becomes a version, and what is learned beside that the next one."""
    book.start()
    for _ in range(2):
        book.add(2)
        book.run()
        book.execute(commands.RequestConsolidation(description="a night"))
        book.run()


@timeline
def killed_while_consolidating(book: Playbook) -> None:
    """The old state is whole, the wish stands, and it begins again under another number."""
    book.start()
    book.add(2)
    book.run()
    book.execute(commands.RequestConsolidation(description=""))
    book.run_until(kinds.ConsolidationMerged)
    book.start()
    book.run()


@timeline
def rolled_back_and_gone_forward_again(book: Playbook) -> None:
    """What is left behind stays, and can be gone back to."""
    book.start()
    book.add(2)
    book.run()
    book.execute(commands.RequestConsolidation(description=""))
    book.run()
    book.add(2)
    book.run()
    head = book.state.head.checkpoint
    assert head is not None
    book.execute(commands.RollBack())
    book.execute(commands.MoveHead(checkpoint=head.id))
    book.add(1)
    book.run()


@timeline
def brought_back_from_a_backup(book: Playbook) -> None:
    """The head of before a consolidation, out of the backup that was made before it."""
    book.start()
    book.add(2)
    book.run()
    book.execute(commands.RequestConsolidation(description=""))
    book.run()
    (backup,) = book.state.retention.backups
    book.execute(commands.MoveHead(backup=backup.id))
    book.add(1)
    book.run()


@timeline
def a_consolidation_makes_way_for_a_pause(book: Playbook) -> None:
    """It ends at once, and is made when work goes on."""
    book.start()
    book.add(2)
    book.run()
    book.execute(commands.RequestConsolidation(description=""))
    book.run_until(kinds.ConsolidationBackedUp)
    book.execute(commands.Pause())
    book.run()
    book.execute(commands.Resume())
    book.run()


@timeline
def skipped_and_killed(book: Playbook) -> None:
    """The wish outlives the daemon that heard it."""
    book.start()
    book.add(6)
    book.run_until(kinds.StepReached)
    book.execute(commands.Skip())
    book.note("kill -9, daemon and worker")
    book.start()
    book.run()


@timeline
def a_file_is_rejected(book: Playbook) -> None:
    """It is moved, with its report, and the next file is learned."""
    book.start()
    book.add(0)
    book.add(1)
    book.run()


@timeline
def killed_before_a_rejected_file_was_moved(book: Playbook) -> None:
    """The intent is in the journal, so the next daemon carries it out."""
    book.start()
    book.add(0)
    book.run_until(kinds.JobRejected)
    book.note("kill -9, daemon and worker")
    book.start()
    book.run()


@timeline
def tried_until_it_fails_and_retried(book: Playbook) -> None:
    """Five deaths without progress give the job up; a person brings it back."""
    book.start()
    job = book.add(2)
    for _ in range(5):
        book.run_until(kinds.TrainingStarted)
        book.note("the worker dies")
        book.lose_worker()
    book.run()
    book.execute(commands.Retry(job=job))
    book.run()


@timeline
def a_worker_hangs(book: Playbook) -> None:
    """It is ended, the job waits a little, and goes on from the last commit; late words are dropped."""
    book.start()
    book.add(4)
    book.run_until(kinds.CheckpointCommitted)
    assert book.worker is not None
    book.worker.act()
    book.note("no word for too long")
    book.lose_worker("hang")
    book.note("what it had said arrives late")
    book.execute(book.facts[-1])
    book.run()


@timeline
def a_checkpoint_is_bad(book: Playbook) -> None:
    """The ancestor takes over; the lost steps are run again first, and then the job goes on."""
    book.start()
    book.add(6)
    book.run_until(kinds.CheckpointCommitted, 2)
    book.note("kill -9, daemon and worker; the head rots")
    assert book.state.head.checkpoint is not None
    book.spoiled.add(book.state.head.checkpoint.id)
    book.start()
    book.run()


@timeline
def checkpoints_of_two_files_are_bad(book: Playbook) -> None:
    """Both come back, in the order in which they were learned, before the third goes on."""
    book.config = settings(keep=9)
    book.start()
    book.add(2)
    book.add(2)
    book.run()
    book.note("two checkpoints rot")
    book.spoiled.update(checkpoint.id for checkpoint in book.state.head.checkpoints)
    book.add(1)
    book.start()
    book.run()


@timeline
def the_only_checkpoint_is_bad(book: Playbook) -> None:
    """There is no way back, so a person is asked; an undamaged copy puts it right."""
    book.config = settings(keep=1)
    book.start()
    book.add(4)
    book.run()
    book.note("it rots")
    assert book.state.head.checkpoint is not None
    book.spoiled.add(book.state.head.checkpoint.id)
    book.add(1)
    book.start()
    book.run()
    book.note("a copy is put back")
    book.spoiled.clear()
    book.execute(commands.Resume())
    book.run()


@timeline
def an_ancestor_is_bad(book: Playbook) -> None:
    """The head is good, so training goes on from it; when it rots as well, the one behind the bad one takes over."""
    book.config = settings(keep=9)
    book.start()
    book.add(7)
    book.run_until(kinds.CheckpointCommitted, 3)
    book.note("kill -9, daemon and worker; the second of three checkpoints rots")
    bad, head = book.state.head.checkpoints[1:]
    book.start()
    book.execute(commands.QuarantineCheckpoint(checkpoint=bad.id, problem="a flipped bit"))
    book.run_until(kinds.TrainingStarted)
    book.note("kill -9, daemon and worker; the head rots")
    book.start()
    book.execute(commands.QuarantineCheckpoint(checkpoint=head.id, problem="a flipped bit"))
    book.refused(commands.QuarantineCheckpoint(checkpoint=head.id, problem="a flipped bit"))
    book.run()


@timeline
def the_disk_is_full(book: Playbook) -> None:
    """Nothing is begun, by this daemon or the next, until there is room enough; then work goes on by itself."""
    book.start()
    book.add(4)
    book.run_until(kinds.StepReached, 3)
    book.note("another program fills the disk")
    book.free_bytes = 4096
    book.fails("disk_full")
    book.turn()
    book.note("kill -9, the daemon")
    book.start()
    book.turn()
    book.note("some room, and then enough")
    book.free_bytes = 2**20
    book.turn()
    book.free_bytes = 2**30
    book.run()


@timeline
def the_disk_is_full_while_paused(book: Playbook) -> None:
    """Room does not unpause, `resume` makes no room; a rejected file is moved once its report can be written."""
    book.start()
    book.add(0)
    book.add(1)
    book.run_until(kinds.JobRejected)
    book.execute(commands.Pause())
    book.runs_out()
    book.turn()
    book.free_bytes = 2**30
    book.run()
    book.runs_out()
    book.execute(commands.Resume())
    book.turn()
    book.execute(commands.Stop(alive=True))
    book.run()
    book.free_bytes = 2**30
    book.start()
    book.run()


@timeline
def the_config_no_longer_fits(book: Playbook) -> None:
    """Another base for what was learned on this one: work is held until the old value is back."""
    book.start()
    book.add(1)
    book.run()
    book.config = settings(model="other")
    book.add(1)
    book.run()
    book.config = settings()
    book.execute(commands.Resume())
    book.run()


@timeline
def the_model_cannot_be_loaded(book: Playbook) -> None:
    """Held with the reason; `resume` tries again."""
    book.start()
    book.add(1)
    book.run_until(kinds.JobPrepared)
    book.fails("model")
    book.run()
    book.note("it is put right")
    book.execute(commands.Resume())
    book.run()


@timeline
def the_plan_changes_under_a_begun_job(book: Playbook) -> None:
    """The tokenizer was replaced: the committed steps no longer belong to these batches."""
    book.start()
    book.add(4)
    book.run_until(kinds.CheckpointCommitted)
    book.start()
    book.run_until(kinds.AttemptStarted)
    assert book.state.attempts.current is not None
    book.execute(messages.Prepared(attempt=book.state.attempts.current, plan=plan(9)))
    book.run()


@timeline
def a_file_comes_twice(book: Playbook) -> None:
    """The same bytes are learned once."""
    book.start()
    job = book.add(1)
    book.execute(commands.AddFile(job=job, name="copy.jsonl", size_bytes=200, priority="high", known=False))
    book.run()


@pytest.mark.parametrize("name", sorted(TIMELINES))
def test_a_story_goes_as_it_was_written_down(name: str, golden: Callable[[Path, str], None]) -> None:
    """Event for event, effect for effect; and every committed step is in it once."""
    tell = TIMELINES[name]
    book = Playbook()
    tell(book)
    book.end()
    if "diverges" not in name:
        book.check_timeline()
    golden(Path(__file__).parent / f"{name}.txt", f"{tell.__doc__}\n\n{book.transcript}")


def test_every_transcript_has_its_story() -> None:
    """None is left over from a story that is no longer told."""
    assert {path.stem for path in Path(__file__).parent.glob("*.txt")} == set(TIMELINES)
