"""Write `golden/*.json`: what TRL's SFTTrainer with assistant-only loss trains on, for templates of real models.

To run it again, in an environment separate from keepstep's (TRL is no dependency of keepstep, not even for tests):

    python -m venv /tmp/trl
    echo "$PWD/.venv/lib/python3.11/site-packages" > /tmp/trl/lib/python3.11/site-packages/keepstep.pth
    /tmp/trl/bin/pip install --no-deps trl==1.16.0 && /tmp/trl/bin/pip install -c constraints.txt datasets
    PYTHONPATH=. /tmp/trl/bin/python tests/gpu/data/make_trl_golden.py

Each file has the template of the model (`template`), the one that TRL trains with (`trained_template`: its own patched
one, with `{% generation %}`), the special tokens of the tokenizer, and for each row the token ids and which of them TRL
trains. SmolLM2's template is unknown to TRL, which then asks for one with marks; it is given SMOLLM2_MARKED.

`golden/spaced/*.json`: the same for tokenizers that put a space before each text; of prompts and completions, of texts,
and of conversations. TRL has no templates for such models; it is given SPACED_MARKED.
Commit a changed golden file only when the difference is understood.
"""

from __future__ import annotations

import copy
import json
import tempfile
from pathlib import Path
from typing import Any

from tests.harness.chat_tokenizer import make_chat_tokenizer
from tests.harness.spaced_tokenizer import make_spaced_tokenizer

GOLDEN = Path(__file__).parent / "golden"

SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n"
    "' + message['content'] + '<|im_end|>' + '\n"
    "'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n"
    "' }}{% endif %}"
)
"""As the model has it."""

SMOLLM2_MARKED = SMOLLM2.replace(
    "' + message['content'] + '<|im_end|>' + '\n'}}",
    "'}}{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}"
    "{% endgeneration %}{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n'}}",
)
"""With marks around what the assistant says."""

CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

TOKENIZERS: dict[str, dict[str, Any]] = {
    "smollm2": {"special": CHATML, "bos": "<|im_start|>", "eos": "<|im_end|>"},
    "llama3": {
        "special": ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "bos": "<|begin_of_text|>",
        "eos": "<|eot_id|>",
    },
    "qwen2_5": {"special": CHATML, "bos": None, "eos": "<|im_end|>"},
    "qwen3": {"special": CHATML, "bos": None, "eos": "<|im_end|>"},
    "gemma": {
        "special": ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
        "bos": "<bos>",
        "eos": "<eos>",
    },
    "deepseek_r1_distill": {
        "special": ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"),
        "bos": "<｜begin▁of▁sentence｜>",
        "eos": "<｜end▁of▁sentence｜>",
    },
    "nemotron_3_nano": {"special": CHATML, "bos": None, "eos": "<|im_end|>"},
    "phi3": {
        "special": ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        "bos": None,
        "eos": "<|endoftext|>",
    },
}

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def _system(content: str) -> dict[str, Any]:
    return {"role": "system", "content": content}


def _user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def _assistant(content: str, *cities: str) -> dict[str, Any]:
    calls = [{"type": "function", "function": {"name": "weather", "arguments": {"city": city}}} for city in cities]
    return {"role": "assistant", "content": content, **({"tool_calls": calls} if calls else {})}


def _tool(content: str) -> dict[str, Any]:
    return {"role": "tool", "name": "weather", "content": content}


ROWS: dict[str, dict[str, Any]] = {
    "single turn": {"messages": [_user("What is the time?"), _assistant("It is late.")]},
    "several turns": {
        "messages": [
            _user("one?"),
            _assistant("1"),
            _user("and then?"),
            _assistant("The answer is 2.\nNot 3."),
            _user("sure?"),
            _assistant("Yes"),
        ]
    },
    "system": {"messages": [_system("Be short."), _user("Who?"), _assistant("Me.")]},
    "empty system": {"messages": [_system(""), _user("Who?"), _assistant("Me.")]},
    "consecutive assistants": {"messages": [_user("Go on."), _assistant("First."), _assistant("Second.")]},
    "the user has the last word": {"messages": [_user("Hi."), _assistant("Hello."), _user("Bye.")]},
    "unicode": {"messages": [_user("日本語で 👩‍🔬?"), _assistant("はい 👍🏽 — naïve café\u00a0é 🇯🇵")]},
    "spaces around": {"messages": [_user("  leading and trailing  "), _assistant("  two before, one after ")]},
    "line breaks around": {"messages": [_user("\n\nQ\n"), _assistant("\n\nA\n\n")]},
    "reasoning once": {"messages": [_user("1+1?"), _assistant("<think>\neasy\n</think>\n\n2")]},
    "reasoning": {
        "messages": [
            _user("1+1?"),
            _assistant("<think>\neasy\n</think>\n\n2"),
            _user("2+2?"),
            _assistant("<think>\nharder\n</think>\n\n4"),
        ]
    },
    "tool call": {
        "messages": [
            _user("Is it warm in Rome?"),
            _assistant("", "Rome"),
            _tool("31 °C"),
            _assistant("Yes, 31 °C."),
        ],
        "tools": [TOOL],
    },
    "two calls and a word": {
        "messages": [
            _system("You know the weather."),
            _user("Rome or Oslo?"),
            _assistant("I look it up.", "Rome", "Oslo"),
            _tool("31 °C"),
            _tool("12 °C"),
            _assistant("Rome."),
        ],
        "tools": [TOOL],
    },
}

SPACED_ROWS = (
    "single turn",
    "several turns",
    "system",
    "the user has the last word",
    "unicode",
    "spaces around",
    "line breaks around",
)

WITH_TOOLS = ("qwen2_5", "qwen3", "nemotron_3_nano")
"""The templates that write tool calls; the others would leave them out."""

WITHOUT = {
    "gemma": ("system", "empty system", "consecutive assistants"),
    "deepseek_r1_distill": ("consecutive assistants",),
}
"""What a template says no to; and answers whose marks touch each other, which keepstep cannot tell apart."""


SPACED_TEMPLATES = {
    "llama2": (
        "{% for message in messages %}{% if message['role'] == 'user' %}"
        "{{ bos_token + '[INST] ' + message['content'].strip() + ' [/INST]' }}{% elif message['role'] == 'system' %}"
        "{{ '<<SYS>>\\n' + message['content'].strip() + '\\n<</SYS>>\\n\\n' }}"
        "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'].strip() + ' ' + eos_token }}{% endif %}"
        "{% endfor %}"
    ),
    "tinyllama": (
        "{% for message in messages %}\n{% if message['role'] == 'user' %}\n"
        "{{ '<|user|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'system' %}\n"
        "{{ '<|system|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'assistant' %}\n"
        "{{ '<|assistant|>\n' + message['content'] + eos_token }}\n{% endif %}\n"
        "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
    ),
}
"""As models with such tokenizers have them."""

SPACED_MARKED = {
    "llama2": SPACED_TEMPLATES["llama2"].replace(
        "{{ ' ' + message['content'].strip() + ' ' + eos_token }}",
        "{% generation %}{{ ' ' + message['content'].strip() + ' ' + eos_token }}{% endgeneration %}",
    ),
    "tinyllama": SPACED_TEMPLATES["tinyllama"].replace(
        "{{ '<|assistant|>\n' + message['content'] + eos_token }}",
        "{{ '<|assistant|>\n' }}{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}\n",
    ),
}
"""With marks around what the assistant says; the last line break is the one that Jinja takes away after a block."""

PAIRS: dict[str, tuple[str, str]] = {
    "a space between": ("The answer is", " 4."),
    "a line break between": ("What is 2+2?\n", "The answer is 4."),
    "nothing between": ("2+2=", "4"),
    "a space at the end of the prompt": ("The answer is ", "4."),
    "two spaces": ("Q:", "  The"),
    "only spaces before": (" ", "The"),
    "no prompt": ("", "The answer"),
    "one token of both": ("T", "he answer"),
    "line breaks on both sides": ("Q\n", "\nA\n"),
    "another token before the boundary": ("This is", "t it"),
    "unicode": ("日本", "語で 👍🏽 é\u00a0!"),
    "unicode without a prompt": ("", "日本"),
    "its own end": ("Q", "A</s>"),
    "a space before the end": ("Q", "A "),
}

TEXTS = {"text": "The answer is 4.", "text with spaces around": "  The \n", "text with its end": "A</s>"}


def main() -> None:
    """Write the files."""
    _write_spaced()
    import trl
    from trl import chat_template_utils

    GOLDEN.mkdir(exist_ok=True)
    for name, tokenizer in TOKENIZERS.items():
        original = SMOLLM2 if name == "smollm2" else getattr(chat_template_utils, f"{name}_chat_template")
        given = SMOLLM2_MARKED if name == "smollm2" else original
        rows, trained_template = [], ""
        for title, row in ROWS.items():
            if ("tools" in row and name not in WITH_TOOLS) or title in WITHOUT.get(name, ()):
                continue
            trained_template, ids, trained = _trained(make_chat_tokenizer(given, **tokenizer), row)
            rows.append({"title": title, **row, "input_ids": ids, "learned": trained})
        head = {"trl": trl.__version__, "template": original, "trained_template": trained_template, **tokenizer}
        text = json.dumps(head, ensure_ascii=False, indent=1)[:-2] + ',\n "rows": [\n'
        text += ",\n".join("  " + json.dumps(row, ensure_ascii=False) for row in rows) + "\n ]\n}\n"
        (GOLDEN / f"{name}.json").write_text(text, encoding="utf-8")


def _write_spaced() -> None:
    import trl

    directory = GOLDEN / "spaced"
    directory.mkdir(parents=True, exist_ok=True)
    for kind in ("prepend", "always", "first", "bytes"):
        given: list[dict[str, Any]] = [
            {"title": title, "prompt": p, "completion": c} for title, (p, c) in PAIRS.items()
        ]
        given += [{"title": title, "text": text} for title, text in TEXTS.items()]
        for name in SPACED_TEMPLATES if kind != "bytes" else ():  # TRL finds no answer that begins with a space
            given += [{"title": f"{name}: {title}", "template": name, **ROWS[title]} for title in SPACED_ROWS]
        rows = []
        for row in given:
            tokenizer = make_spaced_tokenizer(kind, SPACED_MARKED.get(row.get("template", "")))
            fields = {key: value for key, value in row.items() if key not in ("title", "template")}
            _, ids, trained = _trained(tokenizer, fields, assistant_only_loss="messages" in row)
            rows.append({**row, "input_ids": ids, "learned": trained})
        head = {"trl": trl.__version__, "templates": SPACED_TEMPLATES, "marked_templates": SPACED_MARKED}
        text = json.dumps(head, ensure_ascii=False, indent=1)[:-2] + ',\n "rows": [\n'
        text += ",\n".join("  " + json.dumps(row, ensure_ascii=False) for row in rows) + "\n ]\n}\n"
        (directory / f"{kind}.json").write_text(text, encoding="utf-8")


def _trained(
    tokenizer: Any, row: dict[str, Any], *, assistant_only_loss: bool = True
) -> tuple[str, list[int], list[int]]:
    """The template that TRL trains with, the token ids, and the positions of the trained ones."""
    from datasets import Dataset
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    with tempfile.TemporaryDirectory() as directory:
        trainer = SFTTrainer(
            model=LlamaForCausalLM(config),
            args=SFTConfig(
                output_dir=directory,
                assistant_only_loss=assistant_only_loss,
                max_length=None,
                report_to=[],
                use_cpu=True,
                bf16=False,
            ),
            train_dataset=Dataset.from_list([copy.deepcopy(row)]),
            processing_class=tokenizer,
        )
        batch = trainer.data_collator([trainer.train_dataset[0]])
    labels = batch["labels"][0].tolist()
    template = trainer.chat_template or tokenizer.chat_template
    return template, batch["input_ids"][0].tolist(), [place for place, label in enumerate(labels) if label != -100]


if __name__ == "__main__":
    main()
