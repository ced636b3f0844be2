"""What the next step starts from, loaded and let go of."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from cli.commands.init import create_home
from cli.daemon.loop import Daemon
from events.settings import JobSettings, LoraSettings, ModelSettings
from gpu.errors import CheckpointForeign, ModelUnusable
from gpu.ipc.protocol import Refusal
from gpu.versions.rehearse import Rehearse, Rehearsed, rehearse
from tests.harness.tiny_model import make_rows, make_tiny_model

HEAD = "step-00000002-attempt-0001"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = create_home(tmp_path_factory.mktemp("rehearsed") / "home", model="model")
    make_tiny_model(made.root / "model")
    (made.inbox / "a.jsonl").write_bytes(make_rows(32))
    assert Daemon(made, until_idle=True, write=lambda _: None).run() == 0
    return made.root


def order(home: Path, **other: object) -> Rehearse:
    settings = JobSettings(model=ModelSettings(path="model"))
    return msgspec.structs.replace(Rehearse(home=str(home), settings=settings, version=None, checkpoint=HEAD), **other)


def test_the_head_is_loaded_with_its_base(home: Path) -> None:
    """Strictly, and nothing is written."""
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}
    done = rehearse(order(home))
    assert done.global_step == 2
    assert done.parameters > 0
    assert done.environment["device"]
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*")} == before


def test_the_base_alone_is_loaded_where_nothing_was_trained(home: Path) -> None:
    """Before the first commit."""
    assert rehearse(order(home, checkpoint=None)).global_step is None


def test_what_does_not_belong_there_is_refused(home: Path) -> None:
    """As the worker would refuse it, in the same words."""
    other = JobSettings(model=ModelSettings(path="model"), method=LoraSettings(r=8))
    with pytest.raises(CheckpointForeign, match="r=16"):
        rehearse(order(home, settings=other))
    with pytest.raises(ModelUnusable):
        rehearse(order(home, settings=JobSettings(model=ModelSettings(path="./none"))))


@pytest.mark.long
def test_it_is_asked_as_a_process(home: Path) -> None:
    """One line of JSON: an answer, or a refusal."""
    for checkpoint, kind in ((HEAD, Rehearsed), ("step-00000009-attempt-0001", Refusal)):
        asked = msgspec.json.encode(order(home, checkpoint=checkpoint)).decode()
        ended = subprocess.run(
            [sys.executable, "-P", "-m", "gpu.versions.rehearse", asked], capture_output=True, text=True, check=True
        )
        assert isinstance(msgspec.json.decode(ended.stdout, type=Rehearsed | Refusal), kind)
