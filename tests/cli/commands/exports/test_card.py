"""The model card: a licence only if the base names one, evaluations, and nothing that breaks its tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.commands.exports.card import Licence, _evaluation, _line, _metadata, hub_id_of, read_licence
from events.settings import ModelSettings
from projections.metrics import EvaluationPoint


@pytest.mark.parametrize(
    ("front", "expected"),
    [
        ("license: apache-2.0", Licence("apache-2.0")),
        (
            "license: other\nlicense_name: llama3\nlicense_link: https://example.org/l",
            Licence("other", "llama3", "https://example.org/l"),
        ),
        ("license: [apache-2.0, mit]", Licence()),
        ('license: "a\\nbase_model: x"', Licence()),
        ("language: en", Licence()),
    ],
)
def test_licence_is_that_of_the_bases_card(tmp_path: Path, front: str, expected: Licence) -> None:
    (tmp_path / "README.md").write_text(f"---\n{front}\n---\n# Model\n", encoding="utf-8")
    assert read_licence(tmp_path / "README.md") == expected


def test_base_without_a_card_names_no_licence(tmp_path: Path) -> None:
    assert read_licence(tmp_path / "README.md") == Licence()
    assert not any("license" in line for line in _metadata("", Licence()))


def test_only_a_model_of_the_hub_is_named() -> None:
    assert hub_id_of(ModelSettings(path="org/name", revision="a" * 40)) == "org/name"
    assert hub_id_of(ModelSettings(path="models/private")) == ""


def test_evaluations_are_a_table_and_their_absence_is_said() -> None:
    points = [EvaluationPoint(step, loss, None, seq=step, at=0.0) for step, loss in ((10, 2.5), (20, None), (30, 1.25))]
    table = [line for line in _evaluation(points) if line.startswith("| ")]
    assert table[2:] == ["| 10 | 2.5000 |", "| 30 | 1.2500 |"]
    assert "It was not evaluated on held-out rows." in list(_evaluation([]))


def test_name_of_a_file_cannot_break_the_table() -> None:
    assert _line("a|b\nc") == "a\\|b c"
