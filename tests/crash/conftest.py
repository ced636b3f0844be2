"""What is trained where nothing goes wrong."""

from __future__ import annotations

import pytest

from tests.crash.homes import trained
from tests.crash.on_disk import Running, plain_home
from tests.crash.torture import check


@pytest.fixture(scope="session")
def calm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What is trained on a healthy disk, by the slow worker."""
    root = tmp_path_factory.mktemp("calm")
    home = plain_home(root / "home")
    daemon = Running(home, root / "run.log")
    try:
        assert daemon.process.wait(timeout=60) == 0, daemon.said
    finally:
        daemon.end()
    check(home)
    return trained(home)
