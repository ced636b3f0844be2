"""The prompt of a dialogue: its tokens, as in training, without the oldest turns if it does not fit into the context.

No torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from events.generation import ChatMessage, FailureKind
from gpu.data.encode.encoder import Encoder
from gpu.data.template.chat_template import NotTrainable
from gpu.errors import WorkerError


class PromptRefused(WorkerError):
    """A dialogue that the model cannot answer. Data: `advice`, `about`."""

    def __init__(self, problem: str, advice: str, about: FailureKind = "prompt") -> None:
        self.advice = advice
        self.about = about
        super().__init__(problem)


class Prompt(NamedTuple):
    """The tokens of a dialogue."""

    ids: list[int]
    dropped: tuple[int, ...]
    """Indexes of the messages that are left out."""
    tokens_max: int
    """The most tokens that the answer can have."""


def make_prompt(
    encoder: Encoder,
    messages: Sequence[ChatMessage],
    context: int | None,
    tokens_max: int,
    *,
    shorten: bool = True,
    plain: bool = False,
) -> Prompt:
    """Encode the dialogue so that an answer of `tokens_max` tokens fits into `context` tokens as well.

    The oldest turns are left out first; the system message and the last message never are. An answer may use at most
    half of the context. `shorten` False: nothing is left out, and the answer gets the rest of the context.
    `plain`: without the chat template. Raises PromptRefused.
    """
    if not messages or messages[-1].role == "assistant":
        raise PromptRefused("there is nothing to answer", "end the dialogue with a message of the user")
    kept = list(range(len(messages)))
    while True:
        ids = _encode(encoder, [messages[index] for index in kept], plain=plain)
        if context is None:
            return Prompt(ids, (), tokens_max)
        older = [place for place, index in enumerate(kept[:-1]) if messages[index].role != "system"]
        if len(ids) + min(tokens_max, context // 2) <= context or not older or not shorten:
            break
        del kept[slice(*_oldest_turn(messages, kept))]
    if len(ids) >= context:
        what = "message" if len(kept) == 1 or shorten else "dialogue"
        raise PromptRefused(
            f"the {what} has {len(ids):,} tokens, and the model takes {context:,} with the answer",
            "shorten it",
            "context",
        )
    dropped = tuple(sorted({*range(len(messages))} - {*kept}))
    return Prompt(ids, dropped, min(tokens_max, context - len(ids)))


def _oldest_turn(messages: Sequence[ChatMessage], kept: Sequence[int]) -> tuple[int, int]:
    """Return the places in `kept` of the oldest question and its answer: (start, end)."""
    start = next(place for place, index in enumerate(kept) if messages[index].role != "system")
    end = start + 1
    while end < len(kept) - 1 and messages[kept[end]].role == "assistant":
        end += 1
    return start, end


def _encode(encoder: Encoder, messages: Sequence[ChatMessage], *, plain: bool) -> list[int]:
    try:
        ids = encoder.encode_prompt([{"role": each.role, "content": each.content} for each in messages], plain=plain)
    except NotTrainable as refused:
        raise PromptRefused(
            refused.problem.what,
            "the model's chat template decides what it takes: leave out the system text, for example",
        ) from refused
    if not ids:
        raise PromptRefused("the prompt is empty", "write some text")
    return ids
