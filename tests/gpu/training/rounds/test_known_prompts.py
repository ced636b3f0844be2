"""Prompts with a known answer: which rows are asked, and which never are."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from events.settings import DataSettings, JobSettings, ModelSettings
from gpu.data.encode.encoder import Encoder
from gpu.data.examine import quality
from gpu.data.format import rows
from gpu.data.format.example import Example
from gpu.generate.questions import QuestionMaker
from gpu.training.rounds.known_prompts import KnownPrompt, choose_prompts
from tests.gpu.helpers import Home
from tests.harness.chat_tokenizer import make_chat_tokenizer

SETTINGS = JobSettings(model=ModelSettings(path="model"))

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

TOKENIZER = make_chat_tokenizer(CHATML, ["<|im_start|>", "<|im_end|>"], bos=None, eos="<|im_end|>")


def asked(home: Home, jobs: list[str], settings: JobSettings = SETTINGS, **changes: Any) -> list[KnownPrompt]:
    """The prompts of a round."""
    encoder = Encoder(TOKENIZER, settings.data)
    how = {"seed": 1, "count": 8, "validation": np.zeros(0, np.uint64), **changes}
    return choose_prompts(
        home.path / "data",
        jobs,
        how["seed"],
        how["count"],
        settings,
        how["validation"],
        encoder,
        QuestionMaker(TOKENIZER),
    )


def dialogue(number: int) -> dict[str, Any]:
    """A row."""
    turns = [("user", f"What is {number}?"), ("assistant", f"It is {number}.")]
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def add(home: Home, made: list[dict[str, Any]]) -> str:
    return home.add("".join(json.dumps(row) + "\n" for row in made).encode())


def test_prompts_follow_from_the_seed_and_the_files(home: Home) -> None:
    """The same seed asks the same rows, another one others; each prompt knows its row and its answer."""
    jobs = [add(home, [dialogue(number) for number in range(start, start + 30)]) for start in (0, 100)]
    first = asked(home, jobs)
    assert first == asked(home, jobs)
    assert {(each.job, each.line) for each in first} != {(each.job, each.line) for each in asked(home, jobs, seed=2)}
    assert len(first) == 8
    assert {each.job for each in first} <= set(jobs)
    for each in first:
        number = each.line - 1 + 100 * jobs.index(each.job)
        assert each.question.expected == f"It is {number}."
        assert [message.content for message in each.messages] == [f"What is {number}?"]


def test_rows_that_measure_the_model_are_never_asked(home: Home) -> None:
    """Neither held-out rows nor rows of the validation set."""
    job = add(home, [dialogue(number) for number in range(40)])
    path = home.path / "data" / f"{job}.jsonl"
    found = {
        row.line: quality.hash_row(row).content
        for row in rows.read_rows(path, DataSettings())
        if isinstance(row, Example)
    }
    held_out = {line for line, content in found.items() if quality.is_in_holdout(content, 0.5)}
    settings = JobSettings(model=ModelSettings(path="model"), data=DataSettings(holdout=0.5))
    assert {each.line for each in asked(home, [job], settings, count=40)} == set(found) - held_out
    validation = np.sort(np.array([content for line, content in found.items() if line <= 30], dtype=np.uint64))
    assert {each.line for each in asked(home, [job], validation=validation, count=40)} == set(range(31, 41))


def test_rows_without_a_trained_answer_in_text_are_not_asked(home: Home) -> None:
    """Calls, texts that are trained whole, answers that are not trained, and rows that are cut."""
    calls = {
        "messages": [
            {"role": "user", "content": "2+2?"},
            {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "add", "arguments": {}}}]},
        ]
    }
    masked = dialogue(1)
    masked["messages"][-1]["train"] = False
    masked["messages"] = [*dialogue(2)["messages"], *masked["messages"]]
    long = dialogue(3)
    long["messages"][-1]["content"] = "It is. " * 2000
    job = add(home, [dialogue(0), calls, masked, long])
    assert [each.line for each in asked(home, [job])] == [1]
    assert asked(home, [home.add(b'{"text": "a b c"}\n')]) == []
