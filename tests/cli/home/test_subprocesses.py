"""Modules of `gpu` as subprocesses."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from cli.home.subprocesses import ARGUMENT_BYTES, ask
from events.settings import JobSettings, ModelSettings
from gpu.ipc.protocol import LocateRows, Locations, TrainedJob


@pytest.mark.parametrize("files", [1, 200])
def test_an_order_of_any_length_is_answered(tmp_path: Path, files: int) -> None:
    """About hundreds of files, each with its settings, too: more than an argument of a process may be long."""
    settings = JobSettings(model=ModelSettings(path=str(tmp_path / "none")))
    trained = tuple(TrainedJob(job=f"{n:064}", settings=settings, tokenizer_sha256="") for n in range(files))
    order = msgspec.json.encode(LocateRows(home=str(tmp_path), trained=trained)).decode()
    assert (len(order) > 2 * ARGUMENT_BYTES) == (files > 1)
    said = ask("gpu.data.processes.row_locator", order, otherwise="fix transformers")
    located = msgspec.json.decode(said, type=Locations).located
    assert len(located) == files
    assert all(each.problem for each in located)
