"""Trained weights in numbered models: exact over many nights, checked before it counts, nothing else touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from events.messages import BackedUp, Consolidate, Merged, Verified, VersionWritten
from events.settings import LoraSettings
from events.trained import TrainedFile
from events.values import backup_before, version_id
from gpu.artifacts.artifact import find_problem
from gpu.artifacts.backup import BackupDirectory
from gpu.artifacts.commit import STAGING
from gpu.artifacts.version_manifest import VersionDirectory, read_version_manifest, training_base
from gpu.errors import CheckpointBroken, MergeRefused, ModelUnusable, PreflightFailed, StorageFailed, YieldRequested
from gpu.model.base import base_sha256
from gpu.model.build import build
from gpu.versions import consolidate
from gpu.versions import merged_model as merging
from gpu.versions.logit_check import Reference, logit_distance
from tests.gpu.helpers import FULL, LORA, QLORA, FakeChannel, Home, settings
from tests.harness.tiny_model import make_rows, make_tiny_model

CPU = torch.device("cpu")
DORA = LoraSettings(r=4, use_dora=True, use_rslora=True)


class Night(NamedTuple):
    """What came of one."""

    version: str
    facts: list[Any]

    def fact(self, kind: type[Any]) -> Any:
        (found,) = [fact for fact in self.facts if isinstance(fact, kind)]
        return found


class Nights:
    """A home that trains on a file a night and consolidates it."""

    def __init__(self, path: Path, method: Any, dtype: Any = None) -> None:
        self.path, self.home, self.settings = path, Home(path), settings(method)
        if dtype is not None:
            self.settings = replace(self.settings, model=replace(self.settings.model, dtype=dtype))
        self.count = 0
        self.global_step = 0

    @property
    def base(self) -> str | None:
        return version_id(self.count) if self.count else None

    def train_job(self) -> str:
        """Train a checkpoint on the newest version."""
        job = self.home.add(make_rows(6, start=10 * self.count))
        session = self.home.new_session()
        checkpoint = self.home.train_job(session, job, self.settings, global_step=self.global_step, base=self.base)
        self.global_step = int(checkpoint.split("-")[1])
        return checkpoint

    def order(self, checkpoint: str, **other: Any) -> Consolidate:
        version = version_id(self.count + 1)
        return replace(
            Consolidate(
                attempt=100 + self.count,
                version=version,
                parent=self.base,
                checkpoint=checkpoint,
                backup=backup_before(version, 100 + self.count),
                description="a | night",
                files=(TrainedFile(name="a|b.jsonl", sha256="ab" * 32, rows=6, epochs=1, steps=(1, 2)),),
                space_factor=3.0,
            ),
            **other,
        )

    def night(self) -> Night:
        return self.consolidated(self.train_job())

    def consolidated(self, checkpoint: str) -> Night:
        """A version of a checkpoint."""
        channel = FakeChannel()
        order = self.order(checkpoint)
        consolidate.consolidate(self.path, order, channel)
        self.count += 1
        return Night(order.version, channel.facts)

    def weights(self, version: str) -> dict[str, torch.Tensor]:
        return load_file(self.path / "versions" / version / "model.safetensors")  # type: ignore[no-any-return]


@pytest.fixture(params=["lora", "dora", "qlora", "full"])
def nights(request: pytest.FixtureRequest, tmp_path: Path) -> Nights:
    make_tiny_model(tmp_path / "model")
    return Nights(tmp_path, {"lora": LORA, "dora": DORA, "qlora": QLORA, "full": FULL}[request.param])


def test_a_version_is_complete_and_ordinary_and_answers_as_base_and_adapter_do(nights: Nights) -> None:
    first = nights.night()
    directory = nights.path / "versions" / first.version
    model, found = AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True)
    assert not any(found[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert AutoTokenizer.from_pretrained(directory).chat_template
    assert model.generation_config.eos_token_id is not None
    assert [type(fact) for fact in first.facts if type(fact).__name__ != "Heartbeat"] == [
        BackedUp,
        Merged,
        Verified,
        VersionWritten,
    ]
    assert first.fact(Merged).applied == pytest.approx(1.0, abs=0.01)
    assert first.fact(Verified).difference < first.fact(Verified).tolerance
    made = read_version_manifest(directory)
    assert (made.version, made.parent, made.origin_sha256) == ("v001", None, base_sha256(nights.path / "model"))
    written = first.fact(VersionWritten)
    assert find_problem(VersionDirectory(directory), written.manifest_sha256, every_byte=True) is None
    card = (directory / "README.md").read_text(encoding="utf-8")
    assert "# v001" in card
    assert "| a\\|b.jsonl | 6 | 1 | 1-2 |" in card


def test_the_second_version_is_trained_on_the_first_and_merged_from_the_origin(
    nights: Nights,
) -> None:
    for _ in range(3):
        last = nights.night()
    directory = nights.path / "versions" / last.version
    made = read_version_manifest(directory)
    assert made.parent == "v002"
    assert made.origin_sha256 == base_sha256(nights.path / "model")
    next_to = training_base(nights.path, "v002")
    assert made.checkpoint.lineage.base_sha256 == base_sha256(next_to)
    full = nights.settings.method == FULL
    assert len(made.trained) == (1 if full else 3)
    assert logit_distance(directory, Reference(next_to)) > 1e-4  # training has changed it


def test_a_version_is_rounded_once_however_many_nights_went_into_it(tmp_path: Path) -> None:
    """In bfloat16: its weights are the float32 sum of the origin and all deltas, rounded."""
    model = make_tiny_model(tmp_path / "model")
    AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).save_pretrained(model)
    nights = Nights(tmp_path, LORA, dtype="bfloat16")
    for _ in range(3):
        nights.night()
    origin, made = load_file(model / "model.safetensors"), nights.weights("v003")
    adapters = sorted((tmp_path / "versions" / "v003" / "learned").iterdir())
    assert len(adapters) == 3
    for name in ("model.layers.0.mlp.up_proj.weight", "model.layers.1.self_attn.q_proj.weight"):
        delta = sum(of_adapter(directory, name) for directory in adapters)
        assert torch.equal(made[name], (origin[name].float() + delta).to(torch.bfloat16))


def test_qlora_is_merged_into_the_unquantized_weights(tmp_path: Path) -> None:
    """Whose SHA-256 is what version and checkpoint name as their origin."""
    nights = Nights(tmp_path, QLORA)
    model = make_tiny_model(tmp_path / "model")
    for _ in range(2):
        nights.night()
    name = "model.layers.0.mlp.up_proj.weight"
    rounded = build(nights.settings, tmp_path, CPU).model.get_submodule(f"base_model.model.{name[:-7]}").base_layer
    assert rounded.weight.dtype == torch.uint8
    made = read_version_manifest(tmp_path / "versions" / "v002")
    assert made.origin_sha256 == base_sha256(model)
    trained = sum(of_adapter(tmp_path / "versions" / "v002" / "learned" / each, name) for each in made.trained)
    made, origin = nights.weights("v002")[name], load_file(model / "model.safetensors")[name]
    assert torch.equal(made, origin + trained)


def of_adapter(directory: Path, weight: str) -> torch.Tensor:
    tensors = load_file(directory / "adapter_model.safetensors")
    name = f"base_model.model.{weight.removesuffix('.weight')}"
    scale = LORA.alpha / LORA.r
    product: torch.Tensor = tensors[f"{name}.lora_B.weight"] @ tensors[f"{name}.lora_A.weight"]
    return product * scale


def test_nothing_that_was_there_is_touched(nights: Nights) -> None:
    checkpoint = nights.path / "checkpoints" / nights.train_job()
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in checkpoint.iterdir()}
    consolidate.consolidate(nights.path, nights.order(checkpoint.name), FakeChannel())
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in checkpoint.iterdir()} == before
    copy = nights.path / "backups" / "before-v001-attempt-0100" / checkpoint.name
    for path in checkpoint.iterdir():
        assert (copy / path.name).read_bytes() == path.read_bytes()
        assert (copy / path.name).stat().st_ino != path.stat().st_ino


def test_files_that_repeat_are_one_file_on_the_disk(tmp_path: Path) -> None:
    """Trained weights, in every version that contains them; and shards of the model without a trained weight."""
    make_tiny_model(tmp_path / "whole")
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    whole.save_pretrained(tmp_path / "model", max_shard_size="30KB")
    AutoTokenizer.from_pretrained(tmp_path / "whole").save_pretrained(tmp_path / "model")
    nights = Nights(tmp_path, LORA)
    for _ in range(2):
        nights.night()
    first, second = (tmp_path / "versions" / version for version in ("v001", "v002"))
    (adapter,) = (first / "learned").iterdir()
    kept = second / "learned" / adapter.name / "adapter_model.safetensors"
    assert kept.samefile(adapter / "adapter_model.safetensors")
    shards = [path.name for path in first.glob("model-*.safetensors")]
    same = [name for name in shards if (first / name).samefile(second / name)]
    assert 0 < len(same) < len(shards)  # embeddings and norms did not learn
    assert logit_distance(second, Reference(training_base(tmp_path, "v001"), None)) > 0.0


def test_too_little_room_or_memory_is_found_before_anything_is_written(
    nights: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = nights.order(nights.train_job(), space_factor=1e12)
    with pytest.raises(PreflightFailed, match=r"free, and merging this model"):
        consolidate.consolidate(nights.path, order, FakeChannel())
    monkeypatch.setattr(consolidate, "MEMORY_FACTOR", 1e12)
    with pytest.raises(PreflightFailed, match="of memory are free"):
        consolidate.consolidate(nights.path, replace(order, space_factor=1.0), FakeChannel())
    assert not (nights.path / "backups").exists()
    assert not (nights.path / "versions").exists()


def test_a_damaged_head_is_not_merged(nights: Nights) -> None:
    checkpoint = nights.train_job()
    weights = next((nights.path / "checkpoints" / checkpoint).glob("*model.safetensors"))
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    with pytest.raises(CheckpointBroken):
        consolidate.consolidate(nights.path, nights.order(checkpoint), FakeChannel())
    assert not (nights.path / "versions").exists()


def test_a_merge_that_answers_otherwise_gets_no_name(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    write, order = merging.write_merged, nights.order(nights.train_job())  # type: ignore[attr-defined]

    def wrong(file: Any, target: Path, **how: Any) -> None:
        write(file, target, **how)
        data = bytearray(target.read_bytes())
        half = len(data) // 2
        data[half:] = bytes(len(data) - half)
        target.write_bytes(data)

    monkeypatch.setattr(merging, "write_merged", wrong)
    with pytest.raises(MergeRefused, match="does not predict what base and checkpoint predict"):
        consolidate.consolidate(nights.path, order, FakeChannel())
    assert [path.name for path in (nights.path / "versions").iterdir()] == [f"{STAGING}v001"]  # the daemon sweeps it


def test_asked_to_yield_it_stops_and_there_is_no_version(nights: Nights) -> None:
    order = nights.order(nights.train_job())
    with pytest.raises(YieldRequested):
        consolidate.consolidate(nights.path, order, FakeChannel(yield_after=0))
    assert not (nights.path / "versions").exists()


@pytest.mark.parametrize("place", ["backups", "versions"])
def test_a_place_that_cannot_be_written_to_is_named(nights: Nights, place: str) -> None:
    (nights.path / place).write_text("no directory", encoding="utf-8")
    with pytest.raises(StorageFailed, match=place):
        consolidate.consolidate(nights.path, nights.order(nights.train_job()), FakeChannel())


def test_a_changed_version_is_neither_trained_on_nor_merged(nights: Nights) -> None:
    nights.night()
    checkpoint = nights.train_job()
    weights = training_base(nights.path, "v001") / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ModelUnusable, match="versions/v001 is not what was published"):
        build(nights.settings, nights.path, CPU, version="v001")
    with pytest.raises(MergeRefused, match=r"has changed since .* was trained on it"):
        consolidate.consolidate(nights.path, nights.order(checkpoint), FakeChannel())


def test_a_backup_is_read_back_and_damage_to_it_is_found(nights: Nights) -> None:
    made = nights.night().fact(BackedUp)
    directory = nights.path / "backups" / "before-v001-attempt-0100"
    assert find_problem(BackupDirectory(directory), made.manifest_sha256, every_byte=True) is None
    weights = next(directory.glob("*/*model.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert "does not have the SHA-256" in str(
        find_problem(BackupDirectory(directory), made.manifest_sha256, every_byte=True)
    )
