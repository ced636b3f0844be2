"""`keepstep ask`, `keepstep chat`, `keepstep compare`: talk to the models of a home."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.arguments import completion
from cli.commands.common import HomeOption, JsonOption
from cli.errors import UserError
from cli.home.paths import Home, find_home
from events.generation import COUNT_MAX
from events.values import Device

if TYPE_CHECKING:
    from events.generation import ChatMessage, Sampling

HEAD = "head"

ModelOption = Annotated[
    str,
    typer.Option(
        "--model", "-m", help="head, base, origin, latest, a version or a checkpoint.", autocompletion=completion.model
    ),
]
SystemOption = Annotated[str, typer.Option("--system", help="System text: instructions before the dialogue.")]
TemperatureOption = Annotated[
    float | None, typer.Option("--temperature", min=0.0, help="Randomness; 0: none. Default: as the model says.")
]
TopPOption = Annotated[
    float | None, typer.Option("--top-p", min=0.0, max=1.0, help="Choose among the tokens with this probability.")
]
TopKOption = Annotated[
    int | None,
    typer.Option("--top-k", min=0, max=COUNT_MAX, help="Choose among this many tokens; 0: among all."),
]
MaxTokensOption = Annotated[
    int | None, typer.Option("--max-tokens", min=1, max=COUNT_MAX, help="The most tokens of an answer.")
]
SeedOption = Annotated[
    int | None, typer.Option("--seed", min=0, max=2**62 - 1, help="The same seed gives the same answer.")
]
GreedyOption = Annotated[bool, typer.Option("--greedy", help="Always choose the most probable token.")]
DeviceOption = Annotated[Device, typer.Option("--device", help="auto: the GPU, if its memory allows.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(ask)
    app.command()(chat)
    app.command()(compare)


def ask(
    prompt: Annotated[str, typer.Argument(help="The prompt; `-` reads it from standard input.")],
    model: ModelOption = HEAD,
    system: SystemOption = "",
    temperature: TemperatureOption = None,
    top_p: TopPOption = None,
    top_k: TopKOption = None,
    max_tokens: MaxTokensOption = None,
    seed: SeedOption = None,
    greedy: GreedyOption = False,
    device: DeviceOption = "auto",
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Ask the trained model one question.

    Only the answer goes to standard output.
    """
    from cli.generate.process import refuse_unsendable

    sampling = make_sampling(temperature, top_p, top_k, max_tokens, seed, greedy=greedy)
    messages = make_messages(read_prompt(prompt), system)
    refuse_unsendable(messages)
    answer_once(find_home(home), model, messages, sampling, device, json=json)


def chat(
    model: Annotated[
        str | None, typer.Argument(help="The model. Default: head.", autocompletion=completion.model)
    ] = None,
    model_option: ModelOption = HEAD,
    system: SystemOption = "",
    temperature: TemperatureOption = None,
    top_p: TopPOption = None,
    top_k: TopKOption = None,
    max_tokens: MaxTokensOption = None,
    seed: SeedOption = None,
    greedy: GreedyOption = False,
    device: DeviceOption = "auto",
    home: HomeOption = None,
) -> None:
    """Talk to the trained model.

    Ctrl-C stops an answer, Ctrl-D ends. From a pipe, each line is a turn.
    """
    from cli.generate.dialogue import Dialogue
    from cli.generate.process import GenerationProcess

    sampling = make_sampling(temperature, top_p, top_k, max_tokens, seed, greedy=greedy)
    if model is not None and " " in model.strip():
        raise typer.BadParameter(f"the argument is the name of a model; to ask a question: keepstep ask {model!r}")
    if model is not None and model_option not in (HEAD, model):
        raise typer.BadParameter(f"name one model: {model} or {model_option}")
    with GenerationProcess(find_home(home)) as process:
        Dialogue(process, model or model_option, device, sampling, system).run()


def compare(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PROMPT]... [MODEL]...",
            help="Prompts, then models. Default: rows of the validation set; base and head.",
            autocompletion=completion.model,
        ),
    ] = None,
    more_models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help="A model; give it twice or more. Default: base and head.",
            autocompletion=completion.model,
        ),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="A data file, or a .txt file with one prompt on each line.")
    ] = None,
    rows: Annotated[
        int | None, typer.Option("--rows", min=1, help="Draw N rows of the file. Of the validation set: 3.")
    ] = None,
    system: SystemOption = "",
    temperature: TemperatureOption = None,
    top_p: TopPOption = None,
    top_k: TopKOption = None,
    max_tokens: MaxTokensOption = None,
    seed: SeedOption = None,
    greedy: GreedyOption = False,
    device: DeviceOption = "auto",
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Give several models the same prompts, and show the answers.

    For example: keepstep compare "What is in my notes?" base head
    """
    from cli.config.schema import load_config
    from cli.generate.compare import compare_models, comparison_as_json, print_comparison
    from cli.generate.prompts import find_prompts
    from cli.output.terminal import print_json

    sampling = make_sampling(temperature, top_p, top_k, max_tokens, seed, greedy=greedy)
    found = find_home(home)
    prompts, models = split_words(words or ())
    names = list(dict.fromkeys([*models, *(more_models or ())] or ["base", HEAD]))
    if len(names) < 2:
        raise UserError(
            f"a comparison needs two models, and {names[0]} is one",
            f'name another one: keepstep compare "PROMPT" {names[0]} {"base" if names[0] != "base" else HEAD}',
        )
    asked = find_prompts(found, load_config(found.config).job, prompts, file, rows)
    answers = compare_models(found, names, asked, system, sampling, device)
    if json:
        print_json(comparison_as_json(asked, answers))
    else:
        print_comparison(asked, answers)


NAMES_A_MODEL = re.compile(r"head|base|origin|latest|v\d+|step-\d\S*")


def split_words(words: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The prompts and the models of the arguments: the last words that are names of models are models.

    >>> split_words(["What is it?", "And why?", "base", "v002"])
    (('What is it?', 'And why?'), ('base', 'v002'))
    """
    end = len(words)
    while end and NAMES_A_MODEL.fullmatch(words[end - 1]):
        end -= 1
    return tuple(words[:end]), tuple(words[end:])


def answer_once(
    home: Home, model: str, messages: list[ChatMessage], sampling: Sampling, device: Device, *, json: bool
) -> None:
    """`keepstep ask`. Raises UserError, journal.errors.JournalError, KeyboardInterrupt."""
    from cli.generate.compare import answer_as_json, model_as_json
    from cli.generate.output import AnswerStream, say_finish, say_loaded, waiting
    from cli.generate.process import GenerationProcess
    from cli.output.terminal import print_json
    from gpu.runtime.streams import reader_is_gone

    with GenerationProcess(home) as process:
        with waiting(f"loading {model}"):
            loaded = process.load(model, device)
        say_loaded(loaded)
        stream = AnswerStream()
        answer = process.generate(messages, sampling, (lambda _: True) if json else stream)
    if json:
        print_json({"model": model_as_json(loaded), "prompt": messages[-1].content, **answer_as_json(answer)})
    else:
        stream.end()
        say_finish(answer)
    if answer.finish == "stopped" and not reader_is_gone():
        raise KeyboardInterrupt


def make_sampling(
    temperature: float | None,
    top_p: float | None,
    top_k: int | None,
    max_tokens: int | None,
    seed: int | None,
    *,
    greedy: bool,
) -> Sampling:
    """The sampling of the options. Raises typer.BadParameter."""
    from events.generation import Sampling

    if greedy and any(value is not None for value in (temperature, top_p, top_k)):
        raise typer.BadParameter("--greedy excludes --temperature, --top-p and --top-k")
    if not all(math.isfinite(value) for value in (temperature, top_p) if value is not None):
        raise typer.BadParameter("--temperature and --top-p must be finite numbers")
    if top_p == 0.0:
        raise typer.BadParameter("--top-p must be above 0; for the most probable token: --greedy")
    return Sampling(temperature=temperature, top_p=top_p, top_k=top_k, max_tokens=max_tokens, seed=seed, greedy=greedy)


def make_messages(prompt: str, system: str) -> list[ChatMessage]:
    """The messages of one question."""
    from events.generation import ChatMessage

    return [*([ChatMessage("system", system)] if system else []), ChatMessage("user", prompt)]


def read_prompt(prompt: str) -> str:
    """The prompt, or standard input for `-`. Raises UserError if it is empty, or no text."""
    from cli.generate.process import CHARACTERS_MAX

    try:
        text = sys.stdin.read(CHARACTERS_MAX + 1) if prompt == "-" else prompt
    except UnicodeDecodeError as error:
        raise UserError(f"standard input is not UTF-8: {error.reason}", "convert it to UTF-8") from error
    if not text.strip():
        raise UserError("the prompt is empty", "write one: keepstep ask 'PROMPT'")
    return text.removesuffix("\n") if prompt == "-" else text
