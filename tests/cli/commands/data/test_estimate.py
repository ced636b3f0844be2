"""`keepstep estimate`: steps, time and memory before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from cli.commands.data.check import Place
from cli.commands.data.cost import Machine, cost_of
from cli.commands.data.estimate import PARTS, estimate_rows, show_estimates
from cli.errors import UserError
from cli.home.paths import Home
from cli.output.terminal import ATTENTION
from events.settings import JobSettings, ModelSettings, QloraSettings
from gpu.model.training_memory import MemoryEstimate
from tests.cli.commands.data.test_advice import SIZE, report
from tests.cli.commands.test_checkpoints import keepstep
from tests.harness.tiny_model import make_rows, make_tiny_model

MACHINE = Machine(device="main memory", on_cpu=True, total_bytes=8 * 10**9, available_bytes=10**9)
SETTINGS = JobSettings(model=ModelSettings(path="m"))


def rows_of(settings: JobSettings, machine: Machine) -> dict[str, tuple[str, str]]:
    cost = cost_of(report(*[100] * 40), settings, SIZE, machine, None)
    place = Place(Home(Path("/nowhere")), settings, is_home=False)
    return {row.name.strip(): (row.text, row.style) for row in estimate_rows(cost, place, machine)}


def test_each_part_of_the_memory_has_a_line() -> None:
    assert PARTS.keys() == set(MemoryEstimate.__struct_fields__)
    rows = rows_of(SETTINGS, MACHINE)
    assert {name for name, _ in PARTS.values()} <= rows.keys()
    assert rows["weights"][0].endswith("frozen, float32")
    assert rows["trained"][0].endswith("lora, float32")
    assert rows["steps"][0].startswith("3 (1 epoch of 3, ")
    four_bit = rows_of(replace(SETTINGS, method=QloraSettings()), MACHINE)
    assert four_bit["weights"][0].endswith("frozen, 4 bits")


def test_memory_that_the_device_does_not_have_stands_out() -> None:
    """With the setting that gradient checkpointing then gets."""
    text, style = rows_of(SETTINGS, replace(MACHINE, total_bytes=10**8))["memory"]
    assert "more than the 70.0 MB that training may use" in text
    assert style == ATTENTION
    assert "checkpointing is on" in rows_of(SETTINGS, replace(MACHINE, total_bytes=10**8))["activations"][0]


@pytest.mark.usefixtures("warm")
def test_files_are_estimated_and_nothing_is_changed(home: Home, tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path / "model")
    (tmp_path / "a.jsonl").write_bytes(make_rows(12))
    (tmp_path / "b.jsonl").write_bytes(b"")
    paths = [str(tmp_path / name) for name in ("a.jsonl", "b.jsonl")]
    before = sorted(home.root.rglob("*"))
    code, said = keepstep(home, "estimate", *paths, "--model", str(model))
    assert code == 1
    assert "a.jsonl: 12 rows" in said
    assert "memory" in said
    assert "b.jsonl: refused; nothing of it is trained. `keepstep data check` says why" in said
    code, said = keepstep(home, "estimate", paths[0], "--model", str(model), "--json")
    (found,) = json.loads(said)
    assert (code, found["verdict"], found["training"]["steps"]) == (0, "good", 1)
    assert found["training"]["memory"]["trained_bytes"] > 0
    assert sorted(home.root.rglob("*")) == before
    with pytest.raises(UserError, match="does not exist; nothing was estimated"):
        show_estimates([tmp_path / "c"], str(model), home.root, json=False)
