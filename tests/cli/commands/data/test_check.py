"""`keepstep data check` with its options: preview, single rows, JSON, and writing advised settings."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from cli.commands.data import advice
from cli.commands.data.check import Wanted, check_files
from cli.config.schema import load_config
from cli.errors import UserError
from cli.home.paths import Home
from tests.cli.commands.test_checkpoints import keepstep
from tests.harness.tiny_model import make_rows, make_tokenizer

pytestmark = pytest.mark.usefixtures("warm")

ROWS = make_rows(3)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer is all that is needed of it."""
    directory = tmp_path_factory.mktemp("model")
    make_tokenizer().save_pretrained(directory)
    return directory


@pytest.fixture
def own(home: Home, model: Path) -> Home:
    """A home whose model has a tokenizer."""
    text = home.config.read_text(encoding="utf-8")
    home.config.write_text(re.sub(r'^path = ".*?"', f'path = "{model}"', text, flags=re.MULTILINE), encoding="utf-8")
    return home


def written(tmp_path: Path, name: str, content: bytes) -> str:
    (tmp_path / name).write_bytes(content)
    return str(tmp_path / name)


def test_a_preview_shows_the_rows_of_every_file(own: Home, tmp_path: Path) -> None:
    array = b"[" + b",\n".join(ROWS.splitlines()) + b"]"
    paths = [written(tmp_path, "a.jsonl", ROWS + b"{oops\n"), written(tmp_path, "b.json", array)]
    code, shown = keepstep(own, "data", "check", *paths, "--preview", "4")
    assert code == 1
    answer = "<|assistant|>⟦It is not much. <|end|>⟧"
    assert shown.count(f"  <|user|>What is 0 and 0?<|end|>\n  {answer}") == 2
    assert "row 4: rejected\n  reject broken_json: " in shown
    assert "steps    1 (1 epoch of 1, up to 16 rows a step)" in shown
    assert "time     unknown until the first run" in shown


def test_one_row_is_found_by_its_number(own: Home, tmp_path: Path) -> None:
    """Blank lines do not count, so the number is that of the report; the other rows are not encoded."""
    path = written(tmp_path, "a.jsonl", b"\n{oops\n" + ROWS)
    report = json.loads(keepstep(own, "data", "check", path, "--json")[1])[0]
    (place,) = report["findings"][0]["places"]
    assert (place["row"], place["line"]) == (1, 2)
    code, shown = keepstep(own, "data", "check", path, "--row", str(place["row"]))
    assert (code, "row 1 (line 2): rejected" in shown) == (1, True)
    code, shown = keepstep(own, "data", "check", path, "--row", "4", "--json")
    ((row,),) = [each["preview"] for each in json.loads(shown)]
    assert (code, row["row"], row["line"], row["verdict"]) == (0, 4, 5, "trained")
    with pytest.raises(UserError, match="has no row 5"):
        check_files([Path(path)], Wanted(home=own.root, row=5))
    assert keepstep(own, "data", "check", path, "--row", "1", "--preview", "2")[0] == 2


def test_json_has_everything_with_units_and_utc(own: Home, tmp_path: Path) -> None:
    _, shown = keepstep(own, "data", "check", written(tmp_path, "a.jsonl", ROWS), "--preview", "2", "--json")
    (report,) = json.loads(shown)
    assert report["checked_at"].endswith("Z")
    assert abs(datetime.fromisoformat(report["checked_at"]).timestamp() - own.clock.now()) < 300
    training = report["training"]
    assert (training["steps"], training["epochs"], training["time_s"]) == (1, 1, None)
    assert training["machine"]["total_bytes"] > 0
    assert [row["row"] for row in report["preview"]] == [1, 2]
    parts = report["preview"][0]["pieces"][0]["parts"]
    assert {"text": "<|end|>", "trained": True, "special": True} in parts
    assert report["advice"] == []
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", key) for key in keys(report))


def keys(value: Any) -> set[str]:
    if isinstance(value, dict):
        return {*value, *(key for each in value.values() for key in keys(each))}
    return {key for each in value for key in keys(each)} if isinstance(value, list) else set()


LONG = json.dumps({"prompt": "long " * 300, "completion": "x" * 200}).encode() + b"\n"
"""A row of 1,708 tokens, cut at 1,024."""


def test_advice_is_written_only_with_consent(own: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, before = written(tmp_path, "a.jsonl", ROWS + LONG), own.config.read_bytes()
    _, shown = keepstep(own, "data", "check", path)
    advised = int(re.search(r"data\.max_length = (\d+) instead of 1024", shown)[1])  # type: ignore[index]
    assert "--auto-adjust" in shown
    with pytest.raises(UserError, match="there is no terminal to ask you"):
        check_files([Path(path)], Wanted(home=own.root, auto_adjust=True))
    with pytest.raises(UserError, match="--json asks nothing"):
        check_files([Path(path)], Wanted(home=own.root, auto_adjust=True, json=True))
    assert own.config.read_bytes() == before
    monkeypatch.setattr(advice, "refuse_without_consent", lambda **_: None)
    monkeypatch.setattr("typer.confirm", lambda _: False)
    check_files([Path(path)], Wanted(home=own.root, auto_adjust=True))
    assert own.config.read_bytes() == before
    _, shown = keepstep(own, "data", "check", path, "--auto-adjust", "--yes")
    assert f"data.max_length: 1024 → {advised}, from the next job on" in shown
    assert load_config(own.config).job.data.max_length == advised
    _, shown = keepstep(own, "data", "check", path, "--auto-adjust", "--yes", "--json")
    (report,) = json.loads(shown)
    assert (report["changed_keys"], report["advice"], report["truncated_rows"]) == ([], [], 0)


def test_locked_values_are_named_and_stay(
    home: Home, model: Path, tmp_path: Path, drop: Callable[..., Path], run: Callable[..., Any]
) -> None:
    drop("a.jsonl", "ok ok ok")
    run()  # training that is in no version locks max_length
    path = written(tmp_path, "b.jsonl", ROWS + LONG)
    with pytest.raises(UserError, match="--model names another"):
        check_files([Path(path)], Wanted(model=str(model), home=home.root, auto_adjust=True, yes=True))
    locked = advice.keys_locked_now(home)
    assert "data.max_length" in locked
    changes = [
        advice.Change("data.max_length", 1024, 1728, "long"),
        advice.Change("training.batch_size", 4, 2, "memory"),
    ]
    made = advice.adjust(home, changes, locked, yes=True)
    assert [change.key for change in made] == ["training.batch_size"]
    job = load_config(home.config).job
    assert (job.data.max_length, job.training.batch_size) == (1024, 2)
    assert json.loads(keepstep(home, "data", "check", path, "--model", str(model), "--json")[1])[0]["advice"] == [
        {"key": "data.max_length", "now": 1024, "advised": 1712, "reason": "rows are longer than max_length"}
        | {"locked": True}
    ]


def test_a_damaged_journal_does_not_prevent_a_check(own: Home, tmp_path: Path) -> None:
    """Only the time and the locked keys are in the journal."""
    segment = next(own.journal.glob("*.jsonl"))
    segment.write_bytes(b"x" * 20 + segment.read_bytes()[20:])
    own.snapshot.unlink(missing_ok=True)
    code, shown = keepstep(own, "data", "check", written(tmp_path, "a.jsonl", ROWS))
    assert code == 0
    assert "time     unknown: the journal cannot be read (" in shown


def test_yes_without_auto_adjust_is_a_usage_error(own: Home, tmp_path: Path) -> None:
    assert keepstep(own, "data", "check", written(tmp_path, "a", ROWS), "--yes")[0] == 2
