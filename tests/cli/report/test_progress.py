"""The cursors of the writers, and what `keepstep status` says of those that fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.home.paths import Home
from cli.report.progress import Progress, Sent, failing, forget_errors, progress_file, read_progress, write_progress
from cli.status.report import show_status, status_report
from tests.harness.metrics_home import metrics_home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home without steps."""
    return metrics_home(tmp_path)


def test_a_cursor_is_read_as_it_was_written(home: Home) -> None:
    progress = Progress(sent={"train": Sent(7, 5)}, run="r", done_at=2.0)
    write_progress(home, "wandb", progress)
    assert read_progress(home, "wandb") == progress


def test_a_damaged_cursor_is_the_beginning(home: Home) -> None:
    write_progress(home, "wandb", Progress(sent={"train": Sent(7, 5)}))
    path = progress_file(home, "wandb")
    path.write_bytes(path.read_bytes().replace(b"7", b"8"))
    assert read_progress(home, "wandb") == Progress()


def test_the_status_names_a_tool_that_fails(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_report(home)["failing_reports"] == {}
    write_progress(home, "trackio", Progress(done_at=1.0))
    write_progress(home, "wandb", Progress(error="no network", failed_at=1.0))
    assert status_report(home)["failing_reports"] == {"wandb": "no network"}
    show_status(home.root, json=False)
    assert "wandb fails: no network" in capsys.readouterr().out


def test_an_error_is_forgotten_with_its_writer(home: Home) -> None:
    write_progress(home, "wandb", Progress(sent={"train": Sent(7, 5)}, error="no network", failed_at=1.0))
    forget_errors(home, ["wandb"])
    assert failing(home)
    forget_errors(home, [])
    assert not failing(home)
    assert read_progress(home, "wandb").sent == {"train": Sent(7, 5)}
