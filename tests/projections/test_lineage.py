"""The lineage is right after any sequence of failures."""

from __future__ import annotations

from random import Random

from core import commands
from core.evolve import evolve
from core.state import State
from core.values import DetachedCheckpoint
from events import kinds
from events.course import Course, Split
from projections.lineage import Lineage, fold_lineage
from tests.core.world import World, job_id, settings
from tests.projections.timeline import records


def lineage_of(world: World) -> Lineage:
    """The fold over all that was journaled."""
    state, lineage = State(), Lineage()
    for event in world.journal:
        lineage.observe(state, event)
        state = evolve(state, event)
    return lineage


def steps(world: World, global_step: int) -> list[tuple[str, int]]:
    """(job, step) of each global step, as the parts have it."""
    found = []  # type: ignore[var-annotated]
    for part in lineage_of(world).until(global_step).parts:
        assert part.global_to - part.global_from == part.step_to - part.step_from
        assert part.global_from == len(found)
        found += [(part.job, step) for step in range(part.step_from + 1, part.step_to + 1)]
    return found


def quarantine(world: World) -> None:
    head = world.state.head.checkpoint
    assert head is not None
    world.execute(commands.QuarantineCheckpoint(checkpoint=head.id, problem="rot"))


def home_with(*files: int) -> World:
    world = World()
    world.config = settings(every_steps=2, keep=3)
    world.start()
    for count in files:
        world.add(count)
    return world


def test_each_file_is_a_part_with_its_plan_and_settings() -> None:
    world = home_with(5, 3)
    world.run()
    first, second = lineage_of(world).until(8).parts
    assert (first.job, first.name, first.step_from, first.step_to, first.global_to) == (
        job_id(1),
        "file-1.jsonl",
        0,
        5,
        5,
    )
    assert (second.job, second.global_from, second.global_to, second.attempts) == (job_id(2), 5, 8, (2,))
    assert first.settings == world.config
    assert first.plan.steps_total == 5
    assert (first.size_bytes, first.keepstep) == (600, "0")


def test_a_part_knows_what_was_done_otherwise_than_planned() -> None:
    """A rerun of its steps has to do the same. A longer part has the later course."""
    world = World()
    world.room, world.poisoned = {(job_id(1), 3): 2}, {(job_id(1), 5)}
    world.config = settings(every_steps=2, keep=9)
    world.start()
    world.add(6)
    world.add(1)
    world.run()
    first, second = lineage_of(world).parts
    assert first.course == Course(splits=(Split(step=3, parts=2, steps=64),), skipped=(5,))
    assert (first.step_to, second.course) == (6, Course())


def test_as_of_an_earlier_step_it_ends_there() -> None:
    world = home_with(5, 3)
    world.run()
    assert [(part.step_to, part.global_to) for part in lineage_of(world).until(6).parts] == [(5, 5), (1, 6)]
    assert [(part.step_to, part.global_to) for part in lineage_of(world).until(2).parts] == [(2, 2)]
    assert lineage_of(world).until(0).parts == []


def test_an_attempt_that_died_is_named_for_what_it_committed_and_for_nothing_else() -> None:
    world = home_with(6)
    world.run_until(kinds.CheckpointCommitted)
    world.start()  # the daemon was killed
    world.run()
    (part,) = lineage_of(world).until(6).parts
    assert part.attempts == (1, 2)


def test_steps_that_ran_again_are_listed_as_they_ran_last() -> None:
    world = home_with(6)
    world.run()
    quarantine(world)
    world.run()
    assert steps(world, 6) == [(job_id(1), step) for step in range(1, 7)]
    assert [part.attempts for part in lineage_of(world).until(6).parts] == [(1, 2)]
    assert [step for step, _ in lineage_of(world).commits] == [2, 4, 6]


def test_a_quarantined_checkpoint_restored_from_a_backup_keeps_its_lineage() -> None:
    """Its steps were run again meanwhile, by an attempt whose checkpoint has another name."""
    world = home_with(2)
    world.run()
    head, meaning = world.state.head.checkpoint, world.state.head.weight_settings
    assert head is not None
    assert meaning is not None
    held = DetachedCheckpoint(base=None, checkpoint=head, weight_settings=meaning)
    world.execute(commands.RecordBackup(backup="manual-0001", reason="", held=held, size_bytes=1, manifest_sha256=""))
    quarantine(world)
    world.add(2)
    world.run()
    world.execute(commands.MoveHead(backup="manual-0001"))
    world.add(2)
    world.run()
    assert steps(world, 4) == [(job_id(1), 1), (job_id(1), 2), (job_id(3), 1), (job_id(3), 2)]
    assert lineage_of(world).commits[0] == (2, head.id)


def test_other_settings_begin_another_part() -> None:
    world = home_with(2)
    world.run()
    world.config = settings(every_steps=2, keep=3, seed=9)
    world.add(2)
    world.run()
    assert [part.settings.training.seed for part in lineage_of(world).until(4).parts] == [1, 9]


def test_the_state_at_an_earlier_record_is_of_that_record() -> None:
    """The lineage too; the latest state is of the end."""
    world = home_with(2, 4)
    world.run()
    seq, _ = next((n, each) for n, each in enumerate(world.journal, 1) if isinstance(each, kinds.JobTrained))
    found = fold_lineage(records(world), seq)
    assert found.state is not None
    assert (found.state.head.global_step, found.lineage.parts[-1].job) == (2, job_id(1))
    assert (found.latest.head.global_step, found.last_seq) == (6, len(world.journal))


def test_it_agrees_with_the_simulated_world_in_every_run() -> None:
    """Workers lost, daemons killed, checkpoints quarantined, at random."""
    quarantined = 0
    for seed in range(100):
        random = Random(seed)
        world = home_with(*(random.randint(1, 6) for _ in range(4)))
        for _ in range(12):
            for _ in zip(range(random.randint(1, 60)), world.steady(), strict=False):
                pass
            what = random.choice(["lose", "kill", "condemn"])
            if what == "lose":
                world.lose_worker()
                continue
            world.start()
            if what == "condemn" and world.state.head.checkpoint is not None:
                order = commands.QuarantineCheckpoint(checkpoint=world.state.head.checkpoint.id, problem="rot")
                quarantined += world.refused(order) is None
            assert steps(world, world.state.head.global_step) == world.timeline
        assert steps(world, world.state.head.global_step) == world.timeline
    assert quarantined > 100
