"""Answer questions: `python -P -m gpu.generate.completion --model DIR [--checkpoint DIR] QUESTION...`.

Prints a JSON list with one answer for each question. Decoding is greedy, so the same model gives the same answers. It
runs on the CPU: a GPU may be busy with training, and short answers do not need it.
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
"""Longest answer: about two sentences. A longer one is cut off and ends with "…"."""


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
    except (OSError, ValueError, RuntimeError) as error:  # one line: the caller shows the last one
        sys.exit(
            f"the model in {arguments.checkpoint or arguments.model} cannot answer: {' '.join(str(error).split())}"
        )
    json.dump(answers, sys.stdout)
    sys.stdout.write("\n")


def answer(directory: Path, checkpoint: Path | None, questions: Sequence[str]) -> list[str]:
    """Return the answer of the model in `directory`, with the adapter in `checkpoint`, to each question.

    Raises the errors of the libraries: OSError, ValueError, RuntimeError.
    """
    import torch  # seconds, so only after the command line is checked
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, use_safetensors=True)
    if checkpoint is not None:
        model = PeftModel.from_pretrained(model, checkpoint)
    model.eval()
    answers = []
    for question in questions:
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
        with torch.inference_mode():
            output = model.generate(**prompt, do_sample=False, max_new_tokens=TOKENS_MAX)
        new = output[0, prompt["input_ids"].shape[1] :]
        ending = "" if new[-1] == tokenizer.eos_token_id else " …"
        answers.append(tokenizer.decode(new, skip_special_tokens=True).strip() + ending)
    return answers


if __name__ == "__main__":
    main()
