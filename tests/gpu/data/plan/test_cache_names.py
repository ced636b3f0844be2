"""Only directories with the name of an entry are listed."""

from __future__ import annotations

from pathlib import Path

from events.settings import JobSettings, ModelSettings
from gpu.data.plan.cache import cache_name
from gpu.data.plan.cache_names import cache_directories, job_of

JOB = "ab" * 32


def test_what_is_kept_is_known_by_its_name_and_so_is_whose_it_is(tmp_path: Path) -> None:
    name = cache_name(JOB, "cd" * 32, JobSettings(model=ModelSettings(path="m")))
    for other in (name, f".staging-{name}", f".staging-{name}.parts", "notes", JOB, f"{JOB}-short"):
        (tmp_path / other).mkdir()
    (tmp_path / name.replace("ab", "ef", 1)).write_text("a file of that name")
    found = cache_directories(tmp_path)
    assert {path.name for path in found} == {name, f".staging-{name}", f".staging-{name}.parts"}
    assert {path.name: job_of(path) for path in found}[name] == JOB
    assert {job_of(path) for path in found if path.name != name} == {None}


def test_where_nothing_was_ever_kept_there_is_nothing(tmp_path: Path) -> None:
    assert cache_directories(tmp_path / "cache" / "tokens") == []
