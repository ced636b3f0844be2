"""transformers 4 in a separate environment: whether it loads what keepstep writes can only be asked there."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any

import pytest

WANTED = ("transformers==4.57.*", "safetensors", "jinja2")
"""With what they need. torch is not among that: the one that is installed here is used."""

WITHOUT_DEPENDENCIES = ("peft", "accelerate", "psutil")
"""Installed without what they need, which would be another torch."""

ASK = """
import json, sys
import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, __version__

order = json.loads(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(order["adapter"] or order["model"])
model, found = AutoModelForCausalLM.from_pretrained(
    order["model"], dtype=torch.float32, use_safetensors=True, output_loading_info=True
)
if order["adapter"]:
    model = PeftModel.from_pretrained(model, order["adapter"])
ids = tokenizer(order["text"])["input_ids"]
with torch.no_grad():
    logits = model.eval()(input_ids=torch.tensor([order["ids"]])).logits
save_file({"logits": logits}, order["out"])
said = tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False, add_generation_prompt=True)
templates = tokenizer.chat_template
print(json.dumps({
    "version": __version__,
    "tokenizer": type(tokenizer).__name__,
    "ids": ids,
    "said": said,
    "templates": sorted(templates) if isinstance(templates, dict) else [],
    "missing": sorted(map(str, found["missing_keys"])),
    "unexpected": sorted(map(str, found["unexpected_keys"])),
    "config": model.config.to_dict(),
}, default=str))
"""


def python_with_transformers_4() -> str:
    """An interpreter that has transformers 4.57 and peft; made once, and kept in the user's cache.

    Skips the test if the packages cannot be fetched.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "keepstep-tests"
    place = cache / f"transformers-4.57-{sysconfig.get_python_version()}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another run of the tests may be at it
        if not (place / ".made").exists():
            _make(place)
    libraries = next((place / "lib").glob("python*/site-packages"))
    # Its own packages come first; torch, and what torch needs, come from here.
    (libraries / "torch_of_keepstep.pth").write_text(f"{sysconfig.get_paths()['purelib']}\n", encoding="utf-8")
    return str(place / "bin" / "python")


def _make(place: Path) -> None:
    venv.create(place, clear=True, with_pip=True)
    pip = [str(place / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for packages in (WANTED, ("--no-deps", *WITHOUT_DEPENDENCIES)):
        ended = subprocess.run([*pip, *packages], capture_output=True, text=True, check=False, timeout=900)
        if ended.returncode != 0:
            why = (ended.stderr.strip().splitlines() or ["pip says nothing"])[-1]
            pytest.skip(f"transformers 4.57 cannot be installed here: {why}")
    (place / ".made").touch()


def asked_of_transformers_4(model: Path, ids: list[int], text: str, out: Path, adapter: Path | None = None) -> Any:
    """What transformers 4 makes of a model, and of an adapter on it: its config, token ids of `text`, and, in the file
    `out`, the logits at `ids`."""
    order = {"model": str(model), "adapter": str(adapter or ""), "ids": ids, "text": text, "out": str(out)}
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    ended = subprocess.run(
        [python_with_transformers_4(), "-c", ASK, json.dumps(order)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return json.loads(ended.stdout.splitlines()[-1])


if __name__ == "__main__":
    sys.stdout.write(python_with_transformers_4() + "\n")
