"""A home is made for a model that can be trained, by one process at a time, and refused for files that cannot."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from cli.commands.init import create_home, init, lay_out
from cli.config.schema import load_config
from cli.errors import STORAGE_FAILED, UserError
from cli.home.paths import Home
from gpu.model.problems import find_problem
from journal.errors import NoSpace
from tests.harness.tiny_model import make_model_files


@pytest.mark.parametrize("name", ["model.gguf", "adapter", "empty", "no-weights"])
def test_model_that_cannot_be_trained_is_refused_and_nothing_is_made(tmp_path: Path, name: str) -> None:
    """With the words of `find_problem`."""
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    (make_model_files(tmp_path / "no-weights") / "model.safetensors").unlink()
    problem = find_problem(tmp_path / name)
    assert problem is not None
    with pytest.raises(UserError) as refused:
        create_home(tmp_path / "home", model=str(tmp_path / name))
    assert (refused.value.reason, refused.value.advice) == (f"{tmp_path / name} {problem.what}", problem.advice)
    assert not (tmp_path / "home").exists()


def test_model_by_its_directory_or_its_hub_id_is_taken(tmp_path: Path) -> None:
    for name in (str(make_model_files(tmp_path / "model")), "owner/name"):
        assert create_home(tmp_path / "homes" / Path(name).name, model=name).config.exists()


def test_missing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no model directory"):
        create_home(tmp_path / "home", model=str(tmp_path / "nowhere"))


def test_a_second_init_waits_for_nobody_and_overwrites_nothing(tmp_path: Path) -> None:
    """One creates the home; the other is refused."""
    (tmp_path / "home").mkdir()
    fd = os.open(tmp_path / "home", os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with pytest.raises(UserError, match="another `keepstep init`"):
        create_home(tmp_path / "home", model="nowhere")
    os.close(fd)
    create_home(tmp_path / "home", model="first")
    with pytest.raises(UserError, match="a home already"):  # it had looked before the first one was done
        lay_out(Home(tmp_path / "home"), b"[model]\npath = 'second'\n")
    assert load_config(tmp_path / "home" / "keepstep.toml").job.model.path == "first"


def test_home_inside_a_home_is_refused(tmp_path: Path) -> None:
    """The outer one deletes what it does not know."""
    create_home(tmp_path / "home", model="nowhere")
    for place in ("inner", "versions/inner", "inbox"):
        with pytest.raises(UserError, match=f"is inside the home {tmp_path}/home"):
            create_home(tmp_path / "home" / place, model="nowhere")


@pytest.mark.parametrize("name", ["data", "versions", "journal", "logs"])
def test_directory_whose_files_keepstep_would_delete_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    create_home(tmp_path / "empty", model="nowhere")
    (tmp_path / name / "mine.txt").touch()
    with pytest.raises(UserError, match=f"{tmp_path}/{name} has files already"):
        create_home(tmp_path, model="nowhere")
    assert not (tmp_path / "keepstep.toml").exists()


def test_directory_with_other_files_and_with_files_in_its_inbox_becomes_a_home(tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox" / "a.jsonl").touch()
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    create_home(tmp_path, model="nowhere")
    assert (tmp_path / "notes.txt").read_text(encoding="utf-8") == "mine"
    assert (tmp_path / "inbox" / "a.jsonl").exists()


def test_home_that_a_killed_init_left_is_completed(tmp_path: Path) -> None:
    """Its journal has a record already."""
    home = create_home(tmp_path / "home", model="nowhere")
    home.config.unlink()
    (home.logs / "daemon.log").touch()
    assert create_home(tmp_path / "home", model="nowhere").config.exists()


def test_place_where_no_home_can_be_is_named(tmp_path: Path) -> None:
    model = str(make_model_files(tmp_path / "model"))
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    for place, says in [
        ("file", "is a file, and a home is a directory"),
        ("file/below", "cannot be created: Not a directory"),
        ("loop", "cannot be created"),
    ]:
        with pytest.raises(UserError, match=says):
            init(tmp_path / place, model=model)
    with pytest.raises(UserError, match="there is no group of-nobody"):
        init(tmp_path / "new", model=model, group="of-nobody")
    assert not (tmp_path / "new").exists()


def test_init_says_what_it_chose_and_the_next_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same reasons are in the file. What a directory of the user loses is said: others may not read it now."""
    model = make_model_files(tmp_path / "model", max_position_embeddings=256, auto_map={"AutoModel": "m.M"})
    (tmp_path / "a place").mkdir()
    init(tmp_path / "a place", model=str(model))
    said = capsys.readouterr().out
    file = (tmp_path / "a place" / "keepstep.toml").read_text(encoding="utf-8")
    assert "made for 256 tokens" in said
    assert "made for 256 tokens" in file
    assert "only you can read the directory now" in said
    assert "the code that comes with the model does not run" in said
    *_, enter, check, add, run = said.splitlines()
    assert enter == f"  cd '{tmp_path}/a place'"
    assert [line.split()[:2] for line in (check, add, run)] == [
        ["keepstep", "data"],
        ["keepstep", "add"],
        ["keepstep", "run"],
    ]
    config = load_config(tmp_path / "a place" / "keepstep.toml")
    assert (config.consolidation.schedule, config.disk.soft_gb, config.retention.versions) == ("03:00", "auto", 10)
    assert config.job.data.max_length == 256


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), NoSpace(Path("x"), OSError(errno.ENOSPC, ""))]
)
def test_full_disk_has_its_exit_code_and_says_how_to_continue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    model = str(make_model_files(tmp_path / "model"))

    def fill(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("cli.commands.init.lay_out", fill)
    with pytest.raises(UserError, match="the disk is full") as refused:
        init(tmp_path / "home", model=model)
    assert refused.value.exit_code == STORAGE_FAILED
    assert "run the same command again" in str(refused.value.advice)
