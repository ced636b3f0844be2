"""`keepstep versions push`, against a hub on loopback: what is sent, what is not, and what an interruption leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cli.commands.exports.push import _without_paths
from cli.home.paths import Home
from tests.cli.commands.test_checkpoints import keepstep
from tests.cli.conftest import ROOT
from tests.harness.fake_hub import TOKEN, FakeHub, fake_hub

REPO = "someone/my-model"


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with fake_hub() as running:
        yield running


@pytest.fixture
def published(home: Home, drop: Callable[..., Path], run: Callable[..., list[str]]) -> Home:
    """A home with the version v001 of a file with a private name."""
    drop("secret-project.jsonl", "ok ok ok")
    run()
    assert keepstep(home, "consolidate", "-d", "first notes")[0] == 0
    run()
    return home


def environment(hub: FakeHub, **more: str) -> dict[str, str]:
    own = {key: value for key, value in os.environ.items() if key not in {"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"}}
    # The library's own protocol for large files needs a second service; the older one sends the same bytes.
    return {**own, "HF_ENDPOINT": hub.address, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", **more}


def command(home: Home, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "cli", "versions", "push", *arguments, "--home", str(home.root)]


def push(hub: FakeHub, home: Home, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(home, *arguments),
        env=environment(hub, **more),
        cwd=ROOT,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
    )


def test_version_is_pushed_with_its_card_and_nothing_private(hub: FakeHub, published: Home) -> None:
    pushed = push(hub, published, "v001", "my-model", "--yes", "--json")
    assert pushed.returncode == 0, pushed.stderr
    said = json.loads(pushed.stdout)
    assert said["url"] == f"{hub.address}/{REPO}"
    assert said["commit"] == hub.commits[REPO][-1]
    assert hub.private[REPO] is True
    assert {*hub.files[REPO]} == {"weights", "README.md"}  # no keepstep.json, which has paths and names
    assert hub.files[REPO]["weights"] == (published.versions / "v001" / "weights").read_bytes()
    card = hub.files[REPO]["README.md"].decode()
    assert "first notes" in card
    assert "| 3 | 1-3 |" in card.replace("  ", " ")
    for private in ("secret-project", "nowhere", str(published.root), TOKEN):
        assert private not in card
    assert TOKEN not in pushed.stdout + pushed.stderr


@pytest.mark.parametrize(
    ("config", "sent"),
    [
        ({"_name_or_path": "/home/me/secret", "a": "ü"}, {"_name_or_path": "", "a": "ü"}),
        ({"name_or_path": "~/secret"}, {"name_or_path": ""}),
        ({"_name_or_path": "org/name"}, None),
    ],
)
def test_local_paths_in_configs_are_not_sent(
    tmp_path: Path, config: dict[str, str], sent: dict[str, str] | None
) -> None:
    for name in ("config.json", "tokenizer_config.json"):
        path = tmp_path / name
        path.write_text(json.dumps(config), encoding="utf-8")
        found = _without_paths(path)
        assert found == path if sent is None else isinstance(found, bytes) and json.loads(found) == sent


def test_second_push_changes_nothing_and_names_are_sent_when_asked(hub: FakeHub, published: Home) -> None:
    assert push(hub, published, "1", REPO, "--yes").returncode == 0
    again = push(hub, published, "1", REPO, "--yes")
    assert f"{hub.address}/{REPO} has this version already; nothing was changed" in again.stdout
    assert len(hub.commits[REPO]) == 2
    assert push(hub, published, "1", REPO, "--yes", "--with-names").returncode == 0
    assert "secret-project.jsonl" in hub.files[REPO]["README.md"].decode()
    assert len(hub.puts) == 1


def test_weights_of_an_earlier_version_do_not_stay_next_to_new_ones(hub: FakeHub, published: Home) -> None:
    assert push(hub, published, "1", REPO, "--yes").returncode == 0
    hub.files[REPO] |= {"model-00001-of-00002.safetensors": b"old", "notes.txt": b"mine"}
    assert push(hub, published, "1", REPO, "--yes", "--with-names").returncode == 0
    assert {*hub.files[REPO]} == {"weights", "README.md", "notes.txt"}


def test_push_that_was_killed_shows_nothing_and_the_next_one_continues(hub: FakeHub, published: Home) -> None:
    hub.hold_commit.clear()
    killed = subprocess.Popen(
        command(published, "v001", "my-model", "--yes"), env=environment(hub), cwd=ROOT, stdout=subprocess.DEVNULL
    )
    assert hub.at_commit.wait(60)
    killed.kill()
    killed.wait()
    assert hub.files[REPO] == {}
    hub.hold_commit.set()
    continued = push(hub, published, "v001", "my-model", "--yes")
    assert continued.returncode == 0, continued.stderr
    assert len(hub.puts) == 1  # what was uploaded is not sent again
    assert "weights" in hub.files[REPO]


def test_dropped_connections_end_in_one_sentence_and_the_next_push_continues(hub: FakeHub, published: Home) -> None:
    hub.drop_puts = {1}
    once = push(hub, published, "v001", "my-model", "--yes")
    assert once.returncode == 0, once.stderr  # the library tries again by itself
    assert len(hub.puts) == 2


def test_hub_that_is_gone_or_refuses_is_explained(hub: FakeHub, published: Home) -> None:
    gone = push(hub, published, "v001", "my-model", "--yes", HF_ENDPOINT="http://127.0.0.1:9")
    assert gone.returncode == 1
    assert "the hub cannot be reached" in gone.stderr
    assert "nothing was sent" in gone.stderr
    hub.refuse_writes = True
    refused = push(hub, published, "v001", "my-model", "--yes")
    assert refused.returncode == 1
    assert "the hub refused" in refused.stderr
    assert "a token that may write" in " ".join(refused.stderr.split())
    assert "Traceback" not in gone.stderr + refused.stderr
    assert TOKEN not in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "more", "says"),
    [
        (("v001", "a/b/c", "--yes"), {}, "is no name of a repository"),
        (("v001", "a--b", "--yes"), {}, "is no name of a repository"),
        (("v001", "my-model"), {}, "add --yes"),
        (("v002", "my-model", "--yes"), {}, "v002"),
        (("v001", "my-model", "--yes"), {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE"),
        (("v001", "my-model", "--yes"), {"HF_TOKEN": "", "HF_HOME": "/nonexistent"}, "hf auth login"),
    ],
)
def test_what_cannot_be_pushed_creates_no_repository(
    hub: FakeHub, published: Home, arguments: tuple[str, ...], more: dict[str, str], says: str
) -> None:
    refused = push(hub, published, *arguments, **more)
    assert refused.returncode == 1
    assert says in " ".join(refused.stderr.split())
    assert not any("create" in each for each in hub.requests)


def test_damaged_version_is_not_pushed(hub: FakeHub, published: Home) -> None:
    weights = published.versions / "v001" / "weights"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    refused = push(hub, published, "v001", "my-model", "--yes")
    assert refused.returncode == 1
    assert "is damaged" in refused.stderr
    assert hub.requests == []


def test_public_repository_is_not_used_for_a_private_push(hub: FakeHub, published: Home) -> None:
    assert push(hub, published, "v001", "my-model", "--yes", "--public").returncode == 0
    assert hub.private[REPO] is False
    commits = list(hub.commits[REPO])
    refused = push(hub, published, "v001", "my-model", "--yes")
    assert refused.returncode == 1
    assert "exists and is public, not private" in refused.stderr
    assert hub.commits[REPO] == commits
