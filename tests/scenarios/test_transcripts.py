"""Whole scenarios, word for word: commands and facts in, events and effects out.

`scenarios.txt` has the inputs (`script.py` explains the steps). The transcript of each scenario stands next to it under
its name. When the machine changes, `pytest tests/scenarios --update-golden` rewrites them: read the diff before you
commit it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.scenarios.script import SCENARIOS, ScriptError, play, read_scenarios

ALL = read_scenarios(SCENARIOS.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", sorted(ALL))
def test_a_scenario_gives_its_transcript(name: str, golden: Callable[[Path, str], None]) -> None:
    """Event for event, effect for effect; every committed step is in it once."""
    book = play(ALL[name])
    if "diverges" not in name:
        book.check_timeline()
    golden(SCENARIOS.with_name(f"{name}.txt"), f"{ALL[name].shows}\n\n{book.transcript}")


def test_every_transcript_has_its_scenario() -> None:
    """No transcript is left over."""
    assert {path.stem for path in SCENARIOS.parent.glob("*.txt")} - {SCENARIOS.stem} == set(ALL)


@pytest.mark.parametrize("step", ["fly", "refused Pause", "do Pause loudly=true", "until job_trained"])
def test_a_step_that_cannot_be_played_is_an_error(step: str) -> None:
    """A scenario that does less than it says would prove less."""
    (scenario,) = read_scenarios(f"== one\nIt shows nothing.\nstart\n{step}\n").values()
    with pytest.raises(ScriptError, match=step):
        play(scenario)
