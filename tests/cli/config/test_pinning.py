"""A hub id is pinned to a commit by `init`; a home that has none says how to pin it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.commands.data.check import settings_for
from cli.commands.init import create_home
from cli.config.pinning import resolve_model, unpinned_note
from cli.config.schema import load_config
from cli.errors import UserError
from cli.home.paths import Home
from events.settings import ModelSettings
from gpu.errors import ModelUnusable
from gpu.model.hub import AccessRefused
from tests.harness.hub_cache import put_in_cache
from tests.harness.tiny_model import make_model_files, make_rows, make_tiny_model

FIRST, SECOND = "1" * 40, "2" * 40
MODEL = "org/name"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """It has one commit of org/name."""
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    put_in_cache(tmp_path / "hf" / "hub", MODEL, FIRST, make_tiny_model(tmp_path / "source"))
    return tmp_path / "hf" / "hub"


def keepstep(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from cli.main import main; main()", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_init_writes_the_commit_that_a_hub_id_means(cache: Path, tmp_path: Path) -> None:
    """With a comment, and says so. A second `init` of the same place is refused before anything is asked."""
    made = keepstep("init", tmp_path / "home", "--model", MODEL)
    assert made.returncode == 0, made.stderr
    assert f"{MODEL} is pinned to commit {FIRST}" in made.stdout
    assert f'revision = "{FIRST}" # commit' in (tmp_path / "home" / "keepstep.toml").read_text(encoding="utf-8")
    assert load_config(tmp_path / "home" / "keepstep.toml").job.model == ModelSettings(path=MODEL, revision=FIRST)
    assert "is a home already" in keepstep("init", tmp_path / "home", "--model", f"{MODEL}@next").stderr


@pytest.mark.long
def test_init_pins_a_hub_id_and_later_uploads_do_not_reach_the_home(cache: Path, tmp_path: Path) -> None:
    """Trained, looked at and exported with the pinned commit, though the cache has a newer main branch by then."""
    home = Home(tmp_path / "home")
    made = keepstep("init", home.root, "--model", MODEL)
    assert made.returncode == 0, made.stderr
    put_in_cache(cache, MODEL, SECOND, make_tiny_model(tmp_path / "newer", seed=8, hidden_size=64))
    (home.inbox / "a.jsonl").write_bytes(make_rows(8))
    ran = keepstep("run", "--home", home.root, "--until-idle")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "revision is not set" not in ran.stdout
    (checkpoint,) = home.checkpoints.iterdir()
    adapter = json.loads((checkpoint / "adapter_config.json").read_bytes())
    assert (adapter["base_model_name_or_path"], adapter["revision"]) == (MODEL, FIRST)
    exported = keepstep("checkpoints", "export", "--home", home.root, "--to", tmp_path / "out")
    assert exported.returncode == 0, exported.stderr
    assert json.loads((tmp_path / "out" / "config.json").read_bytes())["hidden_size"] == 32
    assert f"`{MODEL}` at commit `{FIRST}`" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    moved = keepstep("config", "set", "--home", home.root, "model.revision", SECOND)
    assert moved.returncode == 1
    assert "model.revision is locked" in moved.stderr


@pytest.mark.long
def test_a_home_without_a_commit_keeps_working_and_can_be_pinned(cache: Path, tmp_path: Path) -> None:
    """As one that an earlier keepstep made: it stays with what it was trained on."""
    home = create_home(tmp_path / "home", model=MODEL)
    (home.inbox / "a.jsonl").write_bytes(make_rows(8))
    ran = keepstep("run", "--home", home.root, "--until-idle")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    how = f"keepstep config set model.revision {FIRST}"
    assert how in ran.stdout
    put_in_cache(cache, MODEL, SECOND, make_tiny_model(tmp_path / "newer", seed=8, hidden_size=64))
    assert how in unpinned_note(home)
    assert how in keepstep("config", "check", "--home", home.root).stdout
    (home.inbox / "b.jsonl").write_bytes(make_rows(8, start=8))
    assert keepstep("run", "--home", home.root, "--until-idle").returncode == 0
    assert len(list(home.checkpoints.iterdir())) == 2
    assert keepstep("config", "set", "--home", home.root, "model.revision", FIRST).returncode == 0
    assert unpinned_note(home) == ""
    (home.inbox / "c.jsonl").write_bytes(make_rows(8, start=16))
    assert keepstep("run", "--home", home.root, "--until-idle").returncode == 0
    assert len(list(home.checkpoints.iterdir())) == 3


def test_a_snapshot_that_is_named_as_a_directory_is_one(cache: Path, tmp_path: Path) -> None:
    """There is nothing to pin."""
    snapshot = cache / "models--org--name" / "snapshots" / FIRST
    named = resolve_model(str(snapshot))
    assert (named.path, named.revision, named.note) == (str(snapshot), "", "")
    assert unpinned_note(create_home(tmp_path / "home", model=named.path)) == ""


@pytest.mark.parametrize(
    ("named", "path", "revision"),
    [
        (MODEL, MODEL, FIRST),
        (f"{MODEL}@main", MODEL, FIRST),
        (f"{MODEL}@{FIRST}", MODEL, FIRST),
        (f"{MODEL}@{SECOND}", MODEL, SECOND),
    ],
)
def test_a_name_means_a_commit(cache: Path, named: str, path: str, revision: str) -> None:
    """A commit needs neither hub nor cache."""
    found = resolve_model(named)
    assert (found.path, found.revision) == (path, revision)
    assert (found.directory is None) == (revision == SECOND)


@pytest.fixture
def hub(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[object], None]:
    """A hub with the commit SECOND of org/name. What it is given becomes the size of its weights, or is raised."""
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("gpu.model.hub._ask_hub", lambda *_: SECOND)
    small = make_model_files(tmp_path / "small")
    (small / "model.safetensors").unlink()

    def answers(answer: object) -> None:
        def fetch(model: str, commit: str, *, weights: bool) -> Path:
            assert not weights
            if isinstance(answer, Exception):
                raise answer
            return put_in_cache(cache, model, commit, small)

        monkeypatch.setattr("gpu.model.hub.fetch", fetch)
        monkeypatch.setattr("gpu.model.hub.weights_bytes", lambda *_: answer)

    return answers


def test_model_of_the_hub_is_checked_by_its_small_files(hub: Callable[[object], None], cache: Path) -> None:
    """They are downloaded; the weights come with the first job."""
    hub(1000)
    found = resolve_model(MODEL)
    assert found.directory == cache / "models--org--name" / "snapshots" / SECOND
    assert (found.revision, found.weights_bytes) == (SECOND, 1000)
    (found.directory / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="has no tokenizer"):
        resolve_model(MODEL)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (0, "no weights as safetensors on the hub"),
        (AccessRefused("org/name is gated"), "hf auth login"),
    ],
)
def test_model_whose_files_the_hub_does_not_give_is_refused(
    hub: Callable[[object], None], answer: object, says: str
) -> None:
    hub(answer)
    with pytest.raises(UserError) as refused:
        resolve_model(MODEL)
    assert says in f"{refused.value.reason} {refused.value.advice}"


def test_hub_that_breaks_off_leaves_the_rest_to_the_first_job(hub: Callable[[object], None]) -> None:
    hub(ModelUnusable("the hub cannot be reached"))
    found = resolve_model(MODEL)
    assert (found.revision, found.directory) == (SECOND, None)
    assert "keepstep has not checked it" in found.note


def test_a_directory_is_no_hub_id(cache: Path, tmp_path: Path) -> None:
    """Nor has it revisions, whatever its name looks like."""
    make_model_files(tmp_path / "a@b")
    assert resolve_model(str(tmp_path / "a@b")).path == str(tmp_path / "a@b")
    with pytest.raises(UserError, match="a directory has no revisions"):
        resolve_model(f"{tmp_path}/source@main")


@pytest.mark.parametrize(
    ("named", "says"),
    [
        (f"{MODEL}@next", "cache has no next"),
        ("other/name", "other/name is not a model that can be found here: HF_HUB_OFFLINE is set, and the cache has no"),
        ("missing", "the cache has no main of missing"),
        (f"{MODEL}@", "names no revision"),
        (f"{MODEL}@../x", "is not a revision"),
        ("a/b/c", "is not a hub id"),
    ],
)
def test_a_revision_that_means_nothing_is_refused(cache: Path, named: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        resolve_model(named)


def test_keepstep_toml_takes_commits_of_hub_ids_only(cache: Path, tmp_path: Path) -> None:
    """A branch would move, and a directory has none."""
    home = create_home(tmp_path / "home", model=MODEL, revision=FIRST)
    text = home.config.read_text(encoding="utf-8")
    for old, new, says in [
        (FIRST, "main", "40 hexadecimal digits"),
        (f'path = "{MODEL}"', f'path = "{tmp_path}/source"', "is a directory, which has none"),
        (f'path = "{MODEL}"', f'path = "{MODEL}@main"', "has a revision in it"),
    ]:
        home.config.write_text(text.replace(old, new), encoding="utf-8")
        with pytest.raises(UserError) as refused:
            load_config(home.config)
        assert says in f"{refused.value.reason} {refused.value.advice}"


@pytest.mark.parametrize(
    ("model", "path", "revision"),
    [
        ("{tmp}/source", "{tmp}/source", ""),
        (f"{MODEL}@main", MODEL, FIRST),
        (f"other/name@{FIRST}", "other/name", FIRST),
        (f"home/name@{SECOND}", "home/name", SECOND),
    ],
)
def test_data_is_checked_with_the_model_that_is_named(
    cache: Path, tmp_path: Path, model: str, path: str, revision: str
) -> None:
    """The home's revision belongs to its model only."""
    home = create_home(tmp_path / "home", model="home/name", revision=SECOND)
    settings = settings_for(model.format(tmp=tmp_path), home.root).settings
    assert (settings.model.path, settings.model.revision) == (path.format(tmp=tmp_path), revision)
