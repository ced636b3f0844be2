"""A model's answers: `python -P -m gpu.generate.completion --model DIR [--checkpoint DIR] QUESTION...`.

Prints a JSON list with one answer for each question. The most likely token is taken each time, so the same model gives
the same answers. It runs on the CPU: a GPU may be busy with training, and a few words need none.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from gpu.runtime.streams import prepare_streams
from gpu.worker import ENVIRONMENT

TOKENS_MAX = 48
"""Of one answer: two sentences. A model that has not learned when to stop is cut off there, and "…" says so."""


def main() -> None:
    """Answer the questions on the command line."""
    prepare_streams()
    parser = argparse.ArgumentParser(
        prog="gpu.generate.completion", description="A model's answers to questions, as JSON."
    )
    parser.add_argument("--model", type=Path, required=True, help="the base: a directory")
    parser.add_argument("--checkpoint", type=Path, help="an adapter that was trained on it")
    parser.add_argument("questions", nargs="+", metavar="QUESTION")
    arguments = parser.parse_args()
    os.environ.update(ENVIRONMENT, HF_HUB_OFFLINE="1")
    try:
        answers = answer(arguments.model, arguments.checkpoint, arguments.questions)
    except (OSError, ValueError, RuntimeError) as error:  # in one line, for whoever reads the last one
        sys.exit(
            f"the model in {arguments.checkpoint or arguments.model} cannot be asked: {' '.join(str(error).split())}"
        )
    json.dump(answers, sys.stdout)
    sys.stdout.write("\n")


def answer(directory: Path, checkpoint: Path | None, questions: Sequence[str]) -> list[str]:
    """What the model in `directory`, with the adapter in `checkpoint` on it, says to each question by itself.

    Raises OSError, ValueError, RuntimeError: whatever the libraries say of a model that cannot be loaded.
    """
    import torch  # seconds; not before the command line is known to be right
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, use_safetensors=True)
    if checkpoint is not None:
        model = PeftModel.from_pretrained(model, checkpoint)
    model.eval()
    answers = []
    for question in questions:
        asked = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
        with torch.inference_mode():
            said = model.generate(**asked, do_sample=False, max_new_tokens=TOKENS_MAX)
        new = said[0, asked["input_ids"].shape[1] :]
        cut = "" if new[-1] == tokenizer.eos_token_id else " …"
        answers.append(tokenizer.decode(new, skip_special_tokens=True).strip() + cut)
    return answers


if __name__ == "__main__":
    main()
