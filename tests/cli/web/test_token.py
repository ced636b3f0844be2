"""The token of a server."""

from __future__ import annotations

from cli.home.paths import Home
from cli.monitor.access import TOKEN
from cli.web.token import read_token


def test_the_token_is_private_and_stays_the_same(home: Home) -> None:
    token = read_token(home, TOKEN)
    assert (home.run / "monitor-token").stat().st_mode & 0o777 == 0o600
    assert read_token(home, TOKEN) == token
    assert len(token) >= 40
