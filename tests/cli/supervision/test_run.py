"""`keepstep run`: the banner."""

from __future__ import annotations

from cli.config.schema import load_config
from cli.home.paths import Home
from cli.supervision.run import banner


def test_the_banner_says_what_is_trained_and_where(home: Home) -> None:
    """Home, model, method, device and queue, one a line."""
    rows = dict(line.split(maxsplit=1) for line in banner(home, load_config(home.config)).splitlines())
    assert rows["home"] == str(home.root)
    assert rows["model"] == "nowhere"
    assert rows["method"] == "lora, rank 16"
    assert rows["queue"] == "0 files waiting"
    assert rows["device"]
    assert rows["times"].startswith("local (")
