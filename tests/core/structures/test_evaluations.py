"""Trained files with held-out rows: which of them are evaluated, under the settings that each was trained with."""

from __future__ import annotations

from core.structures.evaluations import FILES_KEPT, Evaluated, EvaluatedFile, Evaluations, Pending, chosen_files
from events.evaluation import ResultsFile
from events.settings import EvaluationSettings
from tests.core.topics.evaluation.test_versions import made
from tests.core.world import settings


def files(count: int) -> list[EvaluatedFile]:
    return [EvaluatedFile(f"{number * 7919 % 10_007:064x}", f"{number}.jsonl", 0, number) for number in range(count)]


def test_the_first_and_the_newest_files_are_always_chosen() -> None:
    every = files(100)
    chosen = chosen_files(every, 10)
    assert len(chosen) == 10
    assert chosen[0] == every[0]
    assert list(chosen[-5:]) == every[-5:]
    assert [each.global_step for each in chosen] == sorted(each.global_step for each in chosen)


def test_a_new_file_changes_the_choice_little() -> None:
    """So that most scores of a version can be compared with those of its parent."""
    every = files(100)
    before, after = set(chosen_files(every[:-1], 20)), set(chosen_files(every, 20))
    assert len(after - before) <= 2


def test_limits_of_none_and_one() -> None:
    every = files(5)
    assert chosen_files(every, 0) == ()
    assert list(chosen_files(every, 1)) == every[:1]
    assert list(chosen_files(every, 5)) == every


def test_files_keep_the_settings_that_they_were_trained_with() -> None:
    first, second = settings(held_out=True), settings(held_out=True, seed=2)
    evaluations = Evaluations().with_file("a" * 64, "a", first, 3).with_file("b" * 64, "b", second, 5)
    assert len(evaluations.hold_outs) == 1  # the seed decides nothing here
    suites = evaluations.suites(EvaluationSettings(), since_step=3)
    assert [file.job for file in suites.files] == ["a" * 64, "b" * 64]
    assert suites.new == ("b" * 64,)
    assert evaluations.with_file("c" * 64, "c", settings(), 7) == evaluations


def test_a_file_that_is_trained_again_moves_to_the_end() -> None:
    how = settings(held_out=True)
    evaluations = Evaluations().with_file("a" * 64, "a", how, 3).with_file("b" * 64, "b", how, 5)
    again = evaluations.with_file("a" * 64, "again", how, 9)
    assert [(file.name, file.global_step) for file in again.files] == [("b", 5), ("again", 9)]
    assert again.name_of("a" * 64) == "again"
    assert again.name_of("c" * 64) == "c" * 12


def test_the_state_keeps_a_bounded_number_of_files() -> None:
    evaluations, how = Evaluations(), settings(held_out=True)
    for number in range(FILES_KEPT + 3):
        evaluations = evaluations.with_file(f"{number:064x}", "f", how, number + 1)
    assert len(evaluations.files) == FILES_KEPT


def test_a_deleted_version_takes_only_its_own_entries_along() -> None:
    world = made("warn")
    version = world.state.retention.version("v001")
    assert version is not None
    results = ResultsFile(id="v001-attempt-0001", sha256="0" * 64, size_bytes=1)
    names = ("v001", "v002")
    every = Evaluations(
        pending=tuple(map(Pending, names)), evaluated=tuple(Evaluated(each, results, "") for each in names)
    )
    left = every.deleted(version)
    assert [each.version for each in left.pending] == ["v002"]
    assert [each.version for each in left.evaluated] == ["v002"]
