"""A model that cannot be trained is known by its files, with what to do about it."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from gpu.errors import ModelUnusable
from gpu.model.problems import MERGE, find_problem, own_code, refuse_problem
from tests.harness.tiny_model import EMPTY_SAFETENSORS, make_model_files, make_tiny_model

INDEXED = "model.safetensors.index.json"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 538090408\n"

Change = Callable[[Path], object]


def rename(old: str, new: str) -> Change:
    return lambda model: (model / old).rename(model / new)


def write(name: str, content: bytes) -> Change:
    return lambda model: (model / name).write_bytes(content)


def config(**fields: object) -> Change:
    return lambda model: make_model_files(model, **fields)


@pytest.mark.parametrize(
    ("change", "what", "advice"),
    [
        (rename("model.safetensors", "pytorch_model.safetensors"), "only pytorch_model.safetensors", "rename it"),
        (rename("model.safetensors", "pytorch_model.bin"), "has no weights as safetensors", "save_pretrained"),
        (rename("model.safetensors", "adapter_model.safetensors"), "has no weights as safetensors", "save_pretrained"),
        (rename("config.json", "params.json"), "is not a model: it has no config.json", "Name a directory with"),
        (rename("tokenizer.json", "words.json"), "has no tokenizer", "Copy the files"),
        (write("adapter_config.json", b"{}"), "contains an adapter", "move the adapter out"),
        (write("config.json", b"{"), "its config.json is not valid JSON", "hf download NAME --local-dir"),
        (write("config.json", b"[]"), "its config.json is not a JSON object", "hf download"),
        (write("config.json", LFS), "git-lfs pointer in place of config.json", "lfs pull"),
        (write("model.safetensors", LFS), "git-lfs pointer in place of model.safetensors", "lfs pull"),
        (write("tokenizer.json", LFS), "git-lfs pointer in place of tokenizer.json", "lfs pull"),
        (write("model.safetensors", b""), "has an empty model.safetensors", "hf download"),
        (write("model.safetensors", b"weights..."), "has a damaged model.safetensors", "may be incomplete"),
        (write("model.safetensors", EMPTY_SAFETENSORS + b"x"), "has a damaged model.safetensors", "may be incomplete"),
        (config(transformers_weights="w.safetensors"), "names w.safetensors as its weights", "Rename the file"),
        (config(quantization_config={"bits": 4}), "is quantized on disk", "16-bit or 32-bit original"),
        (config(model_type="bert_of_mine"), "is of the type bert_of_mine", "continues text"),
        (config(model_type="mine", auto_map={"AutoModel": "m.M"}), "needs its own code (auto_map", "Choose a model"),
    ],
)
def test_model_that_cannot_be_trained_says_why_and_what_to_do(
    tmp_path: Path, change: Change, what: str, advice: str
) -> None:
    model = make_model_files(tmp_path / "model")
    assert find_problem(model) is None
    change(model)
    problem = find_problem(model)
    assert problem is not None
    assert what in problem.what
    assert advice in problem.advice
    with pytest.raises(
        ModelUnusable, match=re.escape(f"the model at {model} ([model] path) {problem.what}. {problem.advice}.")
    ):
        refuse_problem(model)


def test_weights_that_are_not_downloaded_yet_are_no_problem(tmp_path: Path) -> None:
    model = make_model_files(tmp_path / "model")
    (model / "model.safetensors").unlink()
    assert find_problem(model, weights=False) is None


def test_own_code_of_an_architecture_that_transformers_has_is_left_out(tmp_path: Path) -> None:
    """The model can be trained, and `init` says which code runs."""
    model = make_model_files(tmp_path / "model")
    assert not own_code(model)
    make_model_files(model, auto_map={"AutoModelForCausalLM": "mine.Model"})
    assert own_code(model)
    assert find_problem(model) is None


@pytest.mark.parametrize(
    ("name", "content", "what", "advice"),
    [
        ("model.gguf", b"GGUF\x03", "is a GGUF file", "-m gpu.model.gguf"),
        ("renamed", b"GGUF\x03", "is a GGUF file", "-m gpu.model.gguf"),
        ("notes.txt", b"hello", "is a file, not the directory of a model", "config.json"),
        ("nothing", b"", "is an empty file", "config.json"),
        ("model/config.json", b"{}", "is a file of a model, not its directory", "Name the directory: {tmp}/model"),
    ],
)
def test_file_in_place_of_a_directory_is_named_for_what_it_is(
    tmp_path: Path, name: str, content: bytes, what: str, advice: str
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / name).write_bytes(content)
    problem = find_problem(tmp_path / name)
    assert problem is not None
    assert what in problem.what
    assert advice.format(tmp=tmp_path) in problem.advice


@pytest.mark.parametrize(
    ("files", "what", "advice"),
    [
        ([], "is empty", "hf download NAME --local-dir"),
        (["model-q4.gguf"], "only model-q4.gguf", "-m gpu.model.gguf"),
        (["inner/config.json"], "has no config.json, but {tmp}/model/inner has one", "Name that directory"),
        (["snapshots/abc/config.json"], "but {tmp}/model/snapshots/abc has one", "Name that directory"),
    ],
)
def test_directory_without_a_config_says_what_it_has_instead(
    tmp_path: Path, files: list[str], what: str, advice: str
) -> None:
    (tmp_path / "model").mkdir()
    for name in files:
        (tmp_path / "model" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "model" / name).touch()
    problem = find_problem(tmp_path / "model")
    assert problem is not None
    assert what.format(tmp=tmp_path) in problem.what
    assert advice in problem.advice


def test_lone_adapter_names_its_base_and_the_command_that_merges_both(tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}', encoding="utf-8")
    problem = find_problem(adapter)
    assert problem is not None
    assert "is an adapter of org/base, not a model" in problem.what
    assert "name the base: org/base" in problem.advice
    assert MERGE.format(model="org/base", adapter=adapter, merged=f"{adapter}-merged") in problem.advice
    (adapter / "adapter_config.json").write_text("{}", encoding="utf-8")
    problem = find_problem(adapter)
    assert problem is not None
    assert "its card says" in problem.advice


def test_shard_that_the_index_names_and_nobody_has_is_named(tmp_path: Path) -> None:
    model = make_model_files(tmp_path / "model")
    (model / "model.safetensors").rename(model / "one.safetensors")
    shards = {"a": "one.safetensors", "b": "two.safetensors"}
    (model / INDEXED).write_text(json.dumps({"weight_map": shards}), encoding="utf-8")
    problem = find_problem(model)
    assert problem is not None
    assert problem.what == f"lacks two.safetensors, which {INDEXED} names"
    (model / "two.safetensors").write_bytes(EMPTY_SAFETENSORS)
    assert find_problem(model) is None
    (model / INDEXED).write_text(json.dumps({"weight_map": {"a": "../one.safetensors"}}), encoding="utf-8")
    problem = find_problem(model)
    assert problem is not None
    assert "names files outside of the directory" in problem.what


def test_advice_about_an_adapter_in_the_directory_works_to_the_letter(tmp_path: Path) -> None:
    """Both ways out: the base alone, and one model of base and adapter, as peft merges them."""
    model = make_tiny_model(tmp_path / "model")
    tuned = get_peft_model(AutoModelForCausalLM.from_pretrained(model), LoraConfig(r=2, init_lora_weights=False))
    tuned.save_pretrained(model)
    problem = find_problem(model)
    assert problem is not None
    move, merge = re.findall(r"`([^`]+)`", problem.advice)
    subprocess.run(move, shell=True, check=True)  # as a person pastes it
    assert find_problem(model) is None
    lone = find_problem(tmp_path / "model-adapter")
    assert lone is not None
    assert f"is an adapter of {model}" in lone.what
    subprocess.run(merge.replace("python", shlex.quote(sys.executable), 1), shell=True, check=True)
    merged = load_file(tmp_path / "model-merged" / "model.safetensors")
    assert find_problem(tmp_path / "model-merged") is None
    assert (tmp_path / "model-merged" / "tokenizer.json").exists()
    name = "model.layers.0.self_attn.q_proj.weight"
    torch.testing.assert_close(merged[name], tuned.merge_and_unload().state_dict()[name])
