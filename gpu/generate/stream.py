"""Turn generated tokens into text, as they come, and stop the generation on request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import StoppingCriteria
from transformers.generation.streamers import BaseStreamer

INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
"""The text to which a tokenizer decodes the first bytes of a character."""


class TextStream(BaseStreamer):  # type: ignore[misc]  # transformers is Any here
    """Receives the tokens of one answer and passes on their text in whole characters.

    A token may be part of a character, and its text may depend on the token before it (a space). So each token is
    decoded together with the few before it, and what that adds is passed on once it is complete.
    """

    def __init__(self, tokenizer: Any, show: Callable[[str], None]) -> None:
        self._tokenizer = tokenizer
        self._show = show
        self._ids: list[int] = []
        self._context_start = 0
        """First token that is decoded again."""
        self._shown_end = 0
        """First token whose text is not passed on yet."""
        self._prompt_seen = False

    @property
    def tokens(self) -> list[int]:
        """The tokens so far."""
        return self._ids

    def put(self, value: torch.Tensor) -> None:
        """Receive the prompt first, then one token at a time."""
        if not self._prompt_seen:
            self._prompt_seen = True
            return
        self._ids += value.flatten().tolist()
        added = self._added()
        if added and not added.endswith(INCOMPLETE):
            self._context_start, self._shown_end = self._shown_end, len(self._ids)
            self._show(added)

    def end(self) -> None:
        """Pass on what is left: the answer may end within a character."""
        if added := self._added():
            self._shown_end = len(self._ids)
            self._show(added)

    def _added(self) -> str:
        before = self._decode(self._ids[self._context_start : self._shown_end])
        return self._decode(self._ids[self._context_start :])[len(before) :]

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


class StopRequested(StoppingCriteria):  # type: ignore[misc]
    """Ends the generation once `requested` returns True."""

    def __init__(self, requested: Callable[[], bool]) -> None:
        self._requested = requested

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:  # noqa: ARG002
        """Return a flag for each sequence."""
        return torch.full((input_ids.shape[0],), self._requested(), dtype=torch.bool, device=input_ids.device)
