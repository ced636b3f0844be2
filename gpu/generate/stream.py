"""Turn generated tokens into text, as they come, and end the generation on request or at a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

    `stop`: texts that end the answer. Characters that may be the beginning of one are held until the next token.
    """

    def __init__(self, tokenizer: Any, show: Callable[[str], None], stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._show = show
        self._stop = tuple(stop)
        self._held = ""
        self.stop_found = False
        """True once a stop text has come; nothing is passed on after it."""
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
            self._pass_on(added)

    def end(self) -> None:
        """Pass on what is left: the answer may end within a character."""
        if added := self._added():
            self._shown_end = len(self._ids)
            self._pass_on(added)
        if self._held and not self.stop_found:
            self._show(self._held)

    def _pass_on(self, added: str) -> None:
        """Show the text up to a stop text, without characters that may be the beginning of one."""
        if self.stop_found:
            return
        text = self._held + added
        found = [place for stop in self._stop if (place := text.find(stop)) >= 0]
        self.stop_found = bool(found)
        end = min(found) if found else len(text) - max((_common(text, stop) for stop in self._stop), default=0)
        self._held = text[end:]
        if end:
            self._show(text[:end])

    def _added(self) -> str:
        before = self._decode(self._ids[self._context_start : self._shown_end])
        return self._decode(self._ids[self._context_start :])[len(before) :]

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _common(text: str, stop: str) -> int:
    """Return the length of the longest end of `text` that begins `stop`.

    >>> _common("one E", "END"), _common("EE", "END"), _common("one", "END")
    (1, 1, 0)
    """
    return next((size for size in range(min(len(text), len(stop)), 0, -1) if text.endswith(stop[:size])), 0)


class StopRequested(StoppingCriteria):  # type: ignore[misc]
    """Ends the generation once `requested` returns True."""

    def __init__(self, requested: Callable[[], bool]) -> None:
        self._requested = requested

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:  # noqa: ARG002
        """Return a flag for each sequence."""
        return torch.full((input_ids.shape[0],), self._requested(), dtype=torch.bool, device=input_ids.device)
