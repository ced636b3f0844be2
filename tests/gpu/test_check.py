"""Files looked through as preparation would."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from events.settings import DataSettings, JobSettings, ModelSettings
from events.worker import Prepare, Prepared
from gpu.check import check
from gpu.exchange import Check, Checked
from tests.fakes.tiny_model import make_rows
from tests.gpu.helpers import LORA, Home, settings


def order(home: Home, *files: tuple[str, bytes], validation: str | None = None, **data: Any) -> Check:
    for name, content in files:
        (home.path / name).write_bytes(content)
    how = JobSettings(model=ModelSettings(path="model"), data=DataSettings(**data))
    paths = tuple(str(home.path / name) for name, _ in files)
    return Check(home=str(home.path), files=paths, settings=how, validation=validation)


def test_the_report_is_the_one_that_preparation_writes(home: Home) -> None:
    """But for the name that the file has."""
    (found,) = check(order(home, ("a.jsonl", make_rows(20)))).reports
    home.cold().prepare(Prepare(attempt=1, job=home.add(make_rows(20)), name="a.jsonl", settings=settings(LORA)))
    (written,) = (home.path / "reports").glob("*.json")
    assert written.read_bytes() == found.encode()
    plan = home.desk.of(Prepared)[0].plan
    assert (found.learned, found.tokens, found.trained_tokens) == (plan.rows, plan.tokens, plan.trained_tokens)


def test_the_home_is_only_read(home: Home) -> None:
    asked = order(home, ("a.jsonl", make_rows(3) + b"{oops\n"), bad_rows="skip", bad_rows_max=0.5)
    before = sorted(home.path.rglob("*"))
    (report,) = check(asked).reports
    assert (report.bad_rows, report.verdict) == (1, "good")
    assert sorted(home.path.rglob("*")) == before


def test_each_file_has_a_report_and_the_validation_set_is_known(home: Home) -> None:
    (home.path / "held.jsonl").write_bytes(make_rows(1))
    asked = order(home, ("a.jsonl", make_rows(3)), ("b", b""), validation=str(home.path / "held.jsonl"))
    first, second = check(asked).reports
    assert (first.verdict, first.held_out_rows) == ("good", 1)
    assert [finding.name for finding in second.findings] == ["empty_file"]


def test_it_is_a_process_that_loads_no_torch(home: Home, tmp_path: Path) -> None:
    asked = msgspec.json.encode(order(home, ("a.jsonl", make_rows(3)))).decode()
    program = "import sys; from gpu.check import main; main(); sys.exit(bool(sys.modules.get('torch')))"
    ran = subprocess.run([sys.executable, "-P", "-c", program, asked], capture_output=True, text=True, check=True)
    assert msgspec.json.decode(ran.stdout, type=Checked).reports[0].learned == 3
