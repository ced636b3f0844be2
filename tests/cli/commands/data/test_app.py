"""`keepstep data check`: what a person sees before any GPU time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.commands.data.app import show_report
from cli.commands.data.check import Wanted, check_files
from cli.config.schema import Config
from cli.config.template import config_text
from cli.errors import UserError
from cli.home.paths import Home
from events.settings import DataSettings, JobSettings, ModelSettings
from gpu.data.examine.examination import Examination, FileFacts
from tests.cli.commands.test_checkpoints import keepstep
from tests.harness.tiny_model import make_rows, make_tokenizer

pytestmark = pytest.mark.usefixtures("warm")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer is all that is needed of it."""
    directory = tmp_path_factory.mktemp("model")
    make_tokenizer().save_pretrained(directory)
    return directory


def test_a_file_is_shown_with_what_is_wrong_and_how_long_its_rows_are(home: Home, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "notes.jsonl"
    path.write_bytes(make_rows(12) + b'{"prompt": "p", oops}\n{"text": "t"}\n')
    code, shown = keepstep(home, "data", "check", str(path), "--model", str(model))
    assert code == 1
    for line in (
        "notes.jsonl  (JSON Lines of prompt_completion",
        "verdict  refused",
        "14, 2 bad",
        "refuse   broken_json: ",
        "row 13 (line 13, column 17)",
        "refuse   mixed_formats: ",
        "lengths",
        "█",
    ):
        assert line in shown
    path.write_bytes(make_rows(12))
    assert keepstep(home, "data", "check", str(path), "--model", str(model))[0] == 0


def test_scripts_get_reports(home: Home, model: Path, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(make_rows(2))
    (tmp_path / "b").write_bytes(b"")
    paths = [str(tmp_path / name) for name in ("a", "b")]
    code, shown = keepstep(home, "data", "check", *paths, "--model", str(model), "--json")
    reports = json.loads(shown)
    assert code == 1
    assert [(report["file"], report["verdict"]) for report in reports] == [("a", "good"), ("b", "refused")]


def test_the_settings_are_the_homes(home: Home, model: Path, tmp_path: Path) -> None:
    """And the validation set is the one that they name."""
    (home.root / "held.jsonl").write_bytes(make_rows(1))
    job = JobSettings(model=ModelSettings(path=str(model)), data=DataSettings(validation="held.jsonl", max_length=40))
    home.config.write_text(config_text(Config(job=job)), encoding="utf-8")
    (tmp_path / "a").write_bytes(make_rows(5))
    _, shown = keepstep(home, "data", "check", str(tmp_path / "a"))
    assert "1 held out (20.0%)" in shown
    assert "3 cut (60.0%)" in shown
    assert "many_too_long" in shown
    (home.root / "held.jsonl").unlink()
    with pytest.raises(UserError, match="there is no validation set at"):
        check_files([tmp_path / "a"], Wanted(home=home.root))


def test_without_a_home_a_model_is_enough(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KEEPSTEP_HOME", raising=False)
    (tmp_path / "a").write_bytes(make_rows(5))
    assert check_files([Path("a")], Wanted(model=str(model), json=True))
    with pytest.raises(UserError, match="no keepstep home here"):
        check_files([Path("a")], Wanted(json=True))
    with pytest.raises(UserError, match="does not exist; nothing was checked"):
        check_files([Path("b")], Wanted(model=str(model), json=True))


def test_a_model_that_is_not_there_is_named(home: Home, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(make_rows(1))
    with pytest.raises(UserError, match="the files could not be checked: there is no model at"):
        check_files([tmp_path / "a"], Wanted(model="/nowhere/at/all", home=home.root))


def test_the_report_of_a_file_that_was_prepared_is_shown_again(home: Home) -> None:
    """By its name, or by the first digits of its hash; what cannot be read is passed over."""
    examination = Examination(JobSettings(model=ModelSettings(path="m")))
    file = FileFacts("a.jsonl", "ab" * 32, 9, "JSON Lines", "text")
    made = examination.report(file, trained=0, tokens=0, trained_tokens=0)
    (home.reports / f"{'ab' * 32}.json").write_bytes(made.encode())
    (home.reports / f"{'cd' * 32}.json").write_bytes(b"{}")
    for name in ("a.jsonl", "ababab"):
        code, shown = keepstep(home, "data", "report", name)
        assert code == 0
        assert "a.jsonl  (JSON Lines of text" in shown
        assert "empty_file" in shown
    assert json.loads(keepstep(home, "data", "report", "a.jsonl", "--json")[1])[0]["verdict"] == "refused"
    with pytest.raises(UserError, match="there is no report on 'b'"):
        show_report(home, "b", json=False)
