"""The state's own small parts: the trail, and where a job is found."""

from __future__ import annotations

from tests.core.world import World, job_id


def test_a_job_is_found_wherever_it_is() -> None:
    """In progress, waiting or failed; what has ended is gone."""
    world = World()
    world.start()
    first, second = world.add(1), world.add(1)
    world.turn()
    assert [job.name if job else None for job in (world.state.job(first), world.state.job(second))] == [
        "file-1.jsonl",
        "file-2.jsonl",
    ]
    world.run()
    assert world.state.job(first) is None
    assert world.state.job(job_id(99)) is None
