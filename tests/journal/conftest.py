"""Fixtures of the journal's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.journal.helpers import create


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A directory with a journal of one record."""
    return create(tmp_path / "journal")
