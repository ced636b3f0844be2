"""A home that an earlier keepstep wrote: this one replays it, verifies it, and continues it to the same bits.

The homes are in `tests/homes/`. Their journals have the event kinds of the time, and their files its formats. Whatever
is renamed since, this keepstep must read them. The tests compare figures, states and bits, never messages.
"""

from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.homes.old_home import (
    HERE,
    asked,
    consolidate,
    facts,
    journal_events,
    keepstep,
    train,
    unpack,
    verified,
    what_decides_bits,
)

ARCHIVES = sorted(HERE.glob("*.tar.zst"))


class OldHome:
    """An unpacked home, and what is expected of it."""

    def __init__(self, archive: Path, root: Path) -> None:
        self.archive = archive
        self.path = unpack(archive, root)
        self.expected: dict[str, Any] = json.loads((HERE / archive.name.replace(".tar.zst", ".json")).read_bytes())
        self.weights: dict[str, str] = {}
        """SHA-256 of the weights that this keepstep made in it, by file or version."""

    def copy(self, root: Path) -> Path:
        """Copy the home as it is now below `root`."""
        shutil.copytree(self.path, root / "home")
        return root / "home"

    def skip_unless_comparable(self) -> None:
        """Skip the test if the libraries are others than those that the expected bits were computed with."""
        then, now = self.expected["environment"], what_decides_bits(self.path)
        changed = [f"{name}: {then[name]} → {now[name]}" for name in then if then[name] != now[name]]
        if changed:
            pytest.skip(f"it works, but its bits are not compared; other libraries compute others: {changed}")


@pytest.fixture(scope="module", params=ARCHIVES, ids=lambda archive: archive.name.partition(".")[0])
def old(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> OldHome:
    """The home as the earlier keepstep left it. A test that changes it takes a copy."""
    return OldHome(request.param, tmp_path_factory.mktemp("old"))


@pytest.fixture(scope="module")
def trained(old: OldHome, tmp_path_factory: pytest.TempPathFactory) -> OldHome:
    """The home after this keepstep trained what was left: one file from its middle on, and one that waited.

    With the operations of the time: a file that begins now would get faster ones, which round differently.
    """
    home = OldHome(old.archive, tmp_path_factory.mktemp("trained"))
    keepstep(home.path, "config", "set", "training.kernels=plain")
    home.weights = train(home.path)
    return home


def test_a_home_of_an_earlier_keepstep_replays(old: OldHome, tmp_path: Path) -> None:
    """From its own views, and from the first record: the same state, and the one that it had."""
    assert facts(old.path) == old.expected["facts"]
    home = old.copy(tmp_path)
    shutil.rmtree(home / "status")
    assert asked(home, "journal", "replay")["records"] == old.expected["facts"]["last_record"]
    assert facts(home) == old.expected["facts"]


def test_a_home_of_an_earlier_keepstep_verifies(old: OldHome) -> None:
    """The journal, and every byte of every checkpoint, version and backup."""
    assert verified(old.path) == old.expected["verified"]


def test_the_commands_show_a_home_of_an_earlier_keepstep(old: OldHome) -> None:
    """A user who upgrades can look at the past."""
    there = old.expected["facts"]
    files, versions = [name for name, _, _ in there["trained"]], list(there["versions"])
    assert there["running"]["name"] in keepstep(old.path, "status")
    assert set(files) <= set(keepstep(old.path, "lineage").split())
    for name in (files[0], there["running"]["name"], *there["failed"], versions[-1], there["head"]["checkpoint"]):
        assert asked(old.path, "explain", name)["moments"], name
    assert versions[0] in keepstep(old.path, "versions", "show", versions[0])
    assert keepstep(old.path, "versions", "diff", *versions[:2])
    assert keepstep(old.path, "data", "report", files[0])
    assert keepstep(old.path, "logs", "-n", "5")
    assert keepstep(old.path, "config", "check")


def test_an_unpacked_home_has_the_modes_of_one(old: OldHome) -> None:
    """Else keepstep would refuse it, or the other tests would show too little."""
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (old.path, *old.path.rglob("*"))}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}


def test_a_home_of_an_earlier_keepstep_trains_to_the_same_bits(trained: OldHome) -> None:
    """Adapter and moments, after the file that was in progress and after the one that waited."""
    found, before = facts(trained.path), trained.expected["facts"]
    assert found["running"] is None
    assert found["counts"] == {**before["counts"], "trained": before["counts"]["trained"] + len(trained.weights)}
    assert list(found["held"].values()) == [True]  # the one that a person held
    trained.skip_unless_comparable()
    assert len(trained.weights) == 2
    assert trained.weights.items() <= trained.expected["weights"].items()


@pytest.mark.long
def test_a_file_in_progress_keeps_the_operations_that_it_began_with(old: OldHome, tmp_path: Path) -> None:
    """The settings say "auto", and the file that waited gets the faster ones."""
    home = OldHome(old.archive, tmp_path)
    begun = old.expected["facts"]["running"]["name"]
    weights = train(home.path)
    kernels = [event["environment"].get("kernels") for event in journal_events(home.path) if "environment" in event]
    assert kernels[-2:] == ["plain", "lora-1 loss-1 onednn-1"]
    old.skip_unless_comparable()
    assert weights[begun] == old.expected["weights"][begun]


def test_steps_of_an_earlier_keepstep_run_again_to_the_same_bits(trained: OldHome) -> None:
    """From the base on, with the batch that was left out and the step that was run in parts: as they were committed."""
    (wanted,) = [each for each in trained.expected["facts"]["left"] if each in trained.expected["proved"]]
    proof = json.loads(keepstep(trained.path, "lineage", wanted, "--prove", "--json", code=None))
    assert len(proof["steps"]) == trained.expected["proved"][wanted]
    trained.skip_unless_comparable()
    assert proof["proved"], proof


def test_a_home_of_an_earlier_keepstep_makes_a_version_of_the_same_bits(trained: OldHome, tmp_path: Path) -> None:
    """Both keepsteps trained the weights in it. Every earlier version and checkpoint can still be restored."""
    home = trained.copy(tmp_path)
    made = consolidate(home)
    for each in (*trained.expected["facts"]["versions"], *trained.expected["facts"]["left"], *made):
        keepstep(home, "versions", "restore", each)
    assert asked(home, "versions", "list")["head"] == {"version": next(iter(made)), "checkpoint": None}
    trained.skip_unless_comparable()
    assert {**trained.weights, **made} == trained.expected["weights"]
