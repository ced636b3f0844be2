"""The samples of the machine: a file of bounded size that may end anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from projections import machine_samples
from projections.machine import GpuView, MachineView, MemoryView
from projections.machine_samples import append_sample, older, read_samples, sample_of, thinned


def view(at: float, **changes: object) -> MachineView:
    memory = MemoryView(total_bytes=10, available_bytes=4, worker_bytes=3)
    values = {"cores": 2, "cpu": 0.5, "disk_free_bytes": 7, "read_bytes_per_s": None, "written_bytes_per_s": 2.0}
    return MachineView(at=at, memory=memory, **{**values, **changes})


def test_samples_are_read_in_order(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    for at in (1.0, 2.0):
        append_sample(path, sample_of(view(at)))
    first, second = read_samples(path)
    assert (first.at, first.cpu, first.memory_used_bytes, first.worker_bytes, first.disk_free_bytes) == (
        1,
        0.5,
        6,
        3,
        7,
    )
    assert first.read_bytes_per_s is None
    assert second.at == 2.0


def test_a_partial_line_costs_one_sample(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    append_sample(path, sample_of(view(1.0)))
    append_sample(path, sample_of(view(2.0)))
    path.write_bytes(path.read_bytes()[:-5])
    append_sample(path, sample_of(view(3.0)))
    assert [each.at for each in read_samples(path)] == [1.0, 3.0]


def test_the_files_stay_small_and_keep_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_samples, "FILE_BYTES_MAX", 1_000)
    path = tmp_path / "samples.jsonl"
    for at in range(200):
        append_sample(path, sample_of(view(float(at))))
    assert sum(each.stat().st_size for each in (path, older(path)) if each.exists()) < 2_300
    assert [each.at for each in read_samples(path)][-1] == 199.0


def test_missing_files_are_no_samples(tmp_path: Path) -> None:
    assert read_samples(tmp_path / "samples.jsonl") == []


def test_gpus_are_added_up() -> None:
    gpus = (
        GpuView(name="a", utilisation=0.5, memory_used_bytes=1),
        GpuView(name="b", utilisation=1.0),
        GpuView(name="c"),
    )
    found = sample_of(view(1.0, gpus=gpus))
    assert (found.gpu, found.gpu_memory_used_bytes) == (0.75, 1)
    assert sample_of(view(1.0)).gpu is None


@pytest.mark.parametrize(("number", "points"), [(0, 5), (5, 5), (11, 5), (100, 1)])
def test_thinned_samples_end_with_the_newest(number: int, points: int) -> None:
    samples = [sample_of(view(float(at))) for at in range(number)]
    found = thinned(samples, points)
    assert len(found) <= points
    assert found[-1:] == samples[-1:]
