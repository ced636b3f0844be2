"""The file check gives the report of a preparation."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from events.messages import Prepare, Prepared, Step
from events.settings import DataSettings, JobSettings, ModelSettings
from gpu.data.processes.file_check import check
from gpu.ipc.protocol import Check, Checked
from tests.gpu.helpers import FULL, LORA, Home, settings
from tests.harness.tiny_model import make_rows, make_tokenizer


def order(home: Home, *files: tuple[str, bytes], validation: str | None = None, **data: Any) -> Check:
    for name, content in files:
        (home.path / name).write_bytes(content)
    how = JobSettings(model=ModelSettings(path="model"), data=DataSettings(**data))
    paths = tuple(str(home.path / name) for name, _ in files)
    return Check(home=str(home.path), files=paths, settings=how, validation=validation)


def test_the_report_is_the_one_that_preparation_writes(home: Home) -> None:
    """Only the name of the file differs."""
    (found,) = check(order(home, ("a.jsonl", make_rows(20)))).reports
    home.new_session().prepare(Prepare(attempt=1, job=home.add(make_rows(20)), name="a.jsonl", settings=settings(LORA)))
    (written,) = (home.path / "reports").glob("*.json")
    assert written.read_bytes() == found.encode()
    plan = home.channel.of(Prepared)[0].plan
    assert (found.trained, found.tokens, found.trained_tokens) == (plan.rows, plan.tokens, plan.trained_tokens)


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


def test_a_file_is_opened_once_and_no_exchange_is_seen(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name stands for other bytes, or for a pipe, as soon as it is open."""
    asked = order(
        home, ("a.md", b"Prose.\n\nMore of it.\n"), ("b.jsonl", make_rows(3)), validation=str(home.path / "held")
    )
    asked = replace(asked, plain_text=(asked.files[0],))
    (home.path / "held").write_bytes(make_rows(1))
    names, opened, really = {*asked.files, asked.validation}, list[str](), os.open

    def open_and_exchange(path: Any, flags: int, mode: int = 0o777, **more: Any) -> int:
        fd = really(path, flags, mode, **more)
        if str(path) in names:
            assert flags & os.O_NOFOLLOW
            assert flags & os.O_NONBLOCK
            opened.append(str(path))
            Path(path).unlink()
            os.mkfifo(path)
        return fd

    monkeypatch.setattr(os, "open", open_and_exchange)
    prose, rows = check(asked).reports
    assert sorted(opened) == sorted(names)  # type: ignore[type-var]
    assert (prose.file, prose.kind, prose.verdict) == ("a.md", "plain text", "good")
    assert rows.sha256 == hashlib.sha256(make_rows(3)).hexdigest()
    assert (rows.verdict, rows.held_out_rows) == ("good", 1)


def gpt2(home: Home, **config: Any) -> None:
    """The home's model is a GPT-2, which has a table of positions, and no other test's."""
    from transformers import GPT2Config, GPT2LMHeadModel

    known = {"vocab_size": 262, "n_embd": 8, "n_layer": 1, "n_head": 2, "bos_token_id": 1, "eos_token_id": 2}
    (home.path / "model").unlink()
    GPT2LMHeadModel(GPT2Config(**{**known, **config})).save_pretrained(home.path / "model")
    make_tokenizer().save_pretrained(home.path / "model")


def test_rows_are_held_to_the_positions_of_the_model(home: Home) -> None:
    """The check and the training both limit rows."""
    gpt2(home, n_positions=64)
    (report,) = check(order(home, ("a.jsonl", make_rows(20)))).reports
    assert report.verdict == "good"
    assert report.truncated_rows > 0
    assert report.cut_tokens > 0
    assert "max_length_beyond_positions" in {finding.name for finding in report.findings}
    home.train_job(home.new_session(), home.add(make_rows(4)), settings(FULL, epochs=1))
    assert home.channel.of(Step)


def test_a_file_of_tokens_that_the_model_lacks_is_refused_with_both_numbers(home: Home) -> None:
    gpt2(home, vocab_size=100)
    (report,) = check(order(home, ("a.jsonl", make_rows(3)))).reports
    assert (report.verdict, report.refusal and report.refusal.name) == ("refused", "token_out_of_range")
    assert "100 rows (the tokenizer has 262 tokens)" in report.findings[0].message


def test_one_row_that_is_too_long_does_not_refuse_three_hundred(home: Home) -> None:
    """Whose answer is cut off: `long` says what becomes of it, and not `bad_rows`."""
    long = b'{"prompt": "' + b"p" * 2000 + b'", "completion": "c"}\n'
    (report,) = check(order(home, ("a.jsonl", make_rows(299) + long))).reports
    assert (report.verdict, report.trained, report.dropped_rows, report.bad_rows) == ("good", 299, 1, 0)
    (output,) = [finding for finding in report.findings if finding.name == "answer_cut_off"]
    assert (output.severity, output.count, output.places[0].line) == ("warn", 1, 300)
    assert report.cut_tokens > 2000


def test_it_is_a_process_that_loads_no_torch(home: Home, tmp_path: Path) -> None:
    asked = msgspec.json.encode(order(home, ("a.jsonl", make_rows(3)))).decode()
    program = (
        "import sys; from gpu.data.processes.file_check import main; main(); sys.exit(bool(sys.modules.get('torch')))"
    )
    ran = subprocess.run([sys.executable, "-P", "-c", program, asked], capture_output=True, text=True, check=True)
    assert msgspec.json.decode(ran.stdout, type=Checked).reports[0].trained == 3


def test_rows_of_earlier_files_are_mixed_in_as_for_a_job(home: Home) -> None:
    """A file that was trained before is not mixed into itself."""
    asked = order(home, ("a.jsonl", make_rows(8)), replay=0.5)
    earlier = tuple(home.add(content) for content in (make_rows(8), make_rows(9, start=20)))
    settings = replace(asked.settings, sources=replace(asked.settings.sources, replay=earlier))
    (mixed,) = check(replace(asked, settings=settings)).reports
    assert (mixed.trained, mixed.replayed) == (8, 4)
    alone = replace(settings, sources=replace(settings.sources, replay=earlier[:1]))
    assert check(replace(asked, settings=alone)).reports[0].replayed == 0


def test_one_row_is_previewed_without_a_report(home: Home) -> None:
    """Every other row may be broken; a file without the row has no preview."""
    asked = order(home, ("a.jsonl", b"{oops\n" + make_rows(1) + b"{oops\n"), ("b.jsonl", make_rows(1)))
    found = check(replace(asked, row=2))
    assert found.reports == ()
    assert [[row.row for row in rows] for rows in found.previews] == [[2], []]
    assert found.previews[0][0].verdict == "trained"
    assert found.shape is not None
