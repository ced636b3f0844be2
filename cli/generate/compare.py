"""`keepstep compare`: the answers of several models to the same prompts, next to each other."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from cli.errors import UserError
from cli.generate.models import NamedModel, find_model
from cli.generate.output import say_loaded, waiting
from cli.generate.process import Answer, GenerationProcess, LoadedModel
from cli.generate.prompts import Prompt
from cli.home.paths import Home
from cli.text import printable_lines
from events.generation import ChatMessage, Sampling
from events.values import Device

COLUMN_MIN = 36
"""Characters of a column in which an answer can be read; where the terminal is too narrow, answers are listed."""

SEEDS = 2**32


class Answers(NamedTuple):
    """A model and its answers, one for each prompt."""

    loaded: LoadedModel
    answers: tuple[Answer, ...]


def compare_models(
    home: Home, names: Sequence[str], prompts: Sequence[Prompt], system: str, sampling: Sampling, device: Device
) -> list[Answers]:
    """Ask each model all prompts, with the same seed. Raises UserError, journal.errors.JournalError."""
    found = [find_model(home, name) for name in names]
    refuse_same_models(found)
    if sampling.seed is None:
        sampling = replace(sampling, seed=secrets.randbelow(SEEDS))
    answers: dict[str, Answers] = {}
    with GenerationProcess(home) as process:
        for model in sorted(found, key=_load_order):
            answers[model.name] = _ask_all(process, model.name, prompts, system, sampling, device)
    return [answers[name] for name in names]


def _load_order(model: NamedModel) -> tuple[str, bool]:
    """A key that puts models on one base together, checkpoints first: the base then answers without a load, with the
    adapter switched off (`gpu.generate.generator`)."""
    return model.source.version or "", model.source.checkpoint is None


def refuse_same_models(found: Sequence[NamedModel]) -> None:
    """Raise UserError if two of the models are one."""
    for index, model in enumerate(found):
        for other in found[:index]:
            if model.source == other.source:
                raise UserError(
                    f"{other.name} and {model.name} are the same model now ({model.description}): "
                    "there is nothing to compare",
                    "`keepstep run` trains; or name two models with --model: `keepstep versions list`",
                )


def _ask_all(
    process: GenerationProcess, name: str, prompts: Sequence[Prompt], system: str, sampling: Sampling, device: Device
) -> Answers:
    with waiting(f"loading {name}"):
        loaded = process.load(name, device)
    say_loaded(loaded)
    answers = []
    for number, prompt in enumerate(prompts, start=1):
        own_system = prompt.messages[0].role == "system"
        before = [ChatMessage("system", system)] if system and not own_system else []
        with waiting(f"{name} answers prompt {number} of {len(prompts)}"):
            answer = process.generate([*before, *prompt.messages], sampling, lambda _: True)
        if answer.finish == "stopped":
            raise KeyboardInterrupt
        answers.append(answer)
    return Answers(loaded, tuple(answers))


def print_comparison(prompts: Sequence[Prompt], found: Sequence[Answers]) -> None:
    """Print the answers: in columns where the terminal is wide enough, else one below the other."""
    from rich.console import Console

    console = Console(highlight=False)
    has_expected = any(prompt.expected is not None for prompt in prompts)
    if sys.stdout.isatty() and console.width >= COLUMN_MIN * (len(found) + has_expected):
        console.print(_table(prompts, found, has_expected=has_expected))
        return
    for index, prompt in enumerate(prompts):
        _print_part("prompt", prompt.text)
        if prompt.expected is not None:
            _print_part("expected", prompt.expected)
        for each in found:
            _print_part(each.loaded.model.name, shown_answer(each.answers[index]))
        print(flush=True)


def _table(prompts: Sequence[Prompt], found: Sequence[Answers], *, has_expected: bool) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, expand=True)
    titles = [each.loaded.model.name for each in found]
    for title in [*titles, *(["expected"] if has_expected else [])]:
        table.add_column(title, ratio=1, overflow="fold")
    for index, prompt in enumerate(prompts):
        table.add_row(Text(printable_lines(prompt.text), "bold"))
        expected = [Text(printable_lines(prompt.expected or ""), "dim")] if has_expected else []
        table.add_row(*(Text(printable_lines(shown_answer(each.answers[index]))) for each in found), *expected)
        table.add_section()
    return table


def _print_part(title: str, text: str) -> None:
    print(f"{title}:")
    for line in printable_lines(text).splitlines() or [""]:
        print(f"  {line}".rstrip())


def shown_answer(answer: Answer) -> str:
    """The text of an answer, with a sign if it ends early."""
    return answer.text.strip() + ("" if answer.finish == "end" else " …")


def comparison_as_json(prompts: Sequence[Prompt], found: Sequence[Answers]) -> Any:
    """The same for scripts."""
    return {
        "models": [model_as_json(each.loaded) for each in found],
        "prompts": [
            {
                "messages": msgspec.to_builtins(prompt.messages),
                "expected": prompt.expected,
                "answers": {each.loaded.model.name: answer_as_json(each.answers[index]) for each in found},
            }
            for index, prompt in enumerate(prompts)
        ],
    }


def model_as_json(loaded: LoadedModel) -> dict[str, Any]:
    """A loaded model for scripts."""
    model, report = loaded
    return {
        "name": model.name,
        "description": model.description,
        "version": model.source.version,
        "checkpoint": model.source.checkpoint,
        "device": report.device,
        "dtype": report.dtype,
        "arithmetic": report.arithmetic,
        "context_tokens": report.context_tokens,
        "chat_template": report.has_chat_template,
        "notes": [*([model.note] if model.note else []), *report.notes],
    }


def answer_as_json(answer: Answer) -> dict[str, Any]:
    """An answer for scripts."""
    return {
        "answer": answer.text,
        "finish": answer.finish,
        "prompt_tokens": answer.prompt_tokens,
        "tokens": answer.tokens,
        "seconds": round(answer.seconds, 3),
        "sampling": msgspec.to_builtins(answer.sampling),
    }
