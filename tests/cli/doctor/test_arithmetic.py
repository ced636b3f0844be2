"""The doctor warns of bfloat16 on a processor that is slow at it."""

from __future__ import annotations

import pytest

from cli.doctor import arithmetic
from cli.doctor.context import DoctorContext
from cli.home.paths import Home
from core.state import State
from core.topics.training import Training
from events.values import ARITHMETIC, FP32_INSTEAD


def asks_for(home: Home, precision: str, monkeypatch: pytest.MonkeyPatch, support: str) -> DoctorContext:
    monkeypatch.setattr(arithmetic, "bf16_support", lambda: support)
    monkeypatch.setattr("shutil.which", lambda _: None)
    config = home.config.read_text(encoding="utf-8")
    home.config.write_text(config.replace('precision = "fp32"', f'precision = "{precision}"'), encoding="utf-8")
    return DoctorContext(home)


@pytest.mark.parametrize(
    ("precision", "support", "level", "message"),
    [
        ("fp32", "none", "pass", "fp32"),
        ("bf16", "native", "pass", "has instructions for it"),
        ("bf16", "none", "warn", "computes in float32 here"),
        ("bf16", "unclear", "pass", "measures which is faster"),
    ],
)
def test_doctor_compares_the_precision_with_the_processor(
    home: Home, monkeypatch: pytest.MonkeyPatch, precision: str, support: str, level: str, message: str
) -> None:
    found = arithmetic.check(asks_for(home, precision, monkeypatch, support))
    assert (found.level, bool(found.advice)) == (level, level == "warn")
    assert message in found.message


def test_doctor_knows_what_was_measured(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the journal: a CPU whose features do not tell was measured when training started."""
    context = asks_for(home, "bf16", monkeypatch, "unclear")
    monkeypatch.setattr(arithmetic, "cpu_model", lambda: "this one")
    for cpu, level in (("this one", "warn"), ("another", "pass")):
        context.__dict__["state"] = State(training=Training(environment={"cpu": cpu, ARITHMETIC: FP32_INSTEAD}))
        assert arithmetic.check(context).level == level
