"""[self_correction] is checked with the settings that it needs."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from cli.config.checks.correction import correction_conflicts, find_program_problem
from events.self_correction import SelfCorrectionSettings
from events.settings import CheckSettings, DataSettings, JobSettings, ModelSettings

CONFIG = Path("/home/keepstep.toml")
JOB = JobSettings(model=ModelSettings(path="model"))
ON = SelfCorrectionSettings(kind="rejection")


@pytest.mark.parametrize(
    ("job", "settings", "says"),
    [
        (JOB, replace(ON, match="regex"), "needs self_correction.pattern"),
        (JOB, replace(ON, match="regex", pattern="("), "is not a regular expression"),
        (JOB, replace(ON, match="command"), "and it is empty"),
        (JOB, replace(ON, match="command", command="'a"), "cannot be split into words"),
        (replace(JOB, data=DataSettings(format="sharegpt")), ON, 'data.format = "sharegpt" would refuse them'),
        (replace(JOB, data=DataSettings(prompt="q", completion="a")), ON, "data.prompt is set"),
        (replace(JOB, checks=CheckSettings(trained_before="refuse")), ON, "checks.trained_before"),
        (replace(JOB, checks=CheckSettings(contradictions="refuse")), ON, "checks.contradictions"),
    ],
)
def test_what_cannot_work_is_refused_by_name_if_it_is_on(
    job: JobSettings, settings: SelfCorrectionSettings, says: str
) -> None:
    """With what to do; nothing is said while it is off."""
    (error,) = correction_conflicts(CONFIG, job, settings)
    assert says in error.reason
    assert error.advice
    assert not [*correction_conflicts(CONFIG, job, replace(settings, kind="off"))]


def test_the_defaults_work() -> None:
    for kind in ("reflect", "rejection"):
        assert not [*correction_conflicts(CONFIG, JOB, replace(ON, kind=kind))]
    without_gold = replace(ON, kind="reflect", gold_share=0.0)
    checks = CheckSettings(trained_before="refuse", contradictions="refuse")
    assert not [*correction_conflicts(CONFIG, replace(JOB, checks=checks), without_gold)]


def test_a_program_that_cannot_be_run_is_named(tmp_path: Path) -> None:
    """Where the config is set or checked; a missing program must not stop a daemon."""
    wanted = replace(ON, match="command", command="./check.py")
    assert "check.py" in (find_program_problem(tmp_path, wanted) or "")
    program = tmp_path / "check.py"
    program.write_text("#!/bin/sh\n", encoding="utf-8")
    program.chmod(0o755)
    assert find_program_problem(tmp_path, wanted) is None
    assert find_program_problem(tmp_path, ON) is None
