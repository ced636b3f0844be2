"""The rows of a file of self-correction, as JSON.

A wrong answer stands in a row only as context: in a message with `"train": false`, or in the prompt of a row of prompt
and completion. What follows it is trained: the verdict, and the reference answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from events.matching import without_thoughts

if TYPE_CHECKING:
    from gpu.data.format.example import Example

QUESTION = (
    'Is this answer right? Say "correct" or "incorrect". If it is incorrect, give the correct answer after an empty '
    "line."
)
"""The message after a shown answer."""

RIGHT, WRONG = "correct", "incorrect"
"""The verdicts that are trained."""

Row = dict[str, Any]


def reference_of(example: Example) -> str:
    """The answer that the row gives."""
    return str(example.messages[-1]["content"])


def original(example: Example, *, chat: bool) -> Row:
    """The row itself: the same tokens are trained as of the row in its own file.

    `chat`: the model has a chat template; else all rows are prompts and completions.
    """
    if not chat:
        return {"prompt": str(example.messages[0]["content"]), "completion": reference_of(example)}
    messages = [
        message | ({} if trained or message["role"] != "assistant" else {"train": False})
        for message, trained in zip(example.messages, example.train, strict=True)
    ]
    return {"messages": messages, **_context(example)}


def with_answer(example: Example, answer: str, *, chat: bool) -> Row:
    """The prompt with an answer, which alone is trained."""
    if not chat:
        return {"prompt": str(example.messages[0]["content"]), "completion": answer}
    return {"messages": [*_shown(example), {"role": "assistant", "content": answer}], **_context(example)}


def judged(example: Example, answer: str, verdict: str, think_tag: str, *, chat: bool) -> Row:
    """The prompt and an answer as context, then the question whether it is right. The verdict is trained; after a wrong
    answer, the reference answer too."""
    trained = f"{verdict}\n\n{reference_of(example)}" if verdict == WRONG else verdict
    shown = without_thoughts(answer, think_tag).strip()
    if not chat:
        prompt = f"{example.messages[0]['content']}{answer if answer[:1].isspace() else shown}\n\n{QUESTION}\n"
        return {"prompt": prompt, "completion": trained}
    messages = [
        *_shown(example),
        {"role": "assistant", "content": shown, "train": False},
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": trained},
    ]
    return {"messages": messages, **_context(example)}


def _shown(example: Example) -> list[Row]:
    """The messages of the prompt, none of which is trained."""
    return [message | ({"train": False} if message["role"] == "assistant" else {}) for message in example.messages[:-1]]


def _context(example: Example) -> Row:
    tools = {} if example.tools is None else {"tools": example.tools}
    return tools | ({} if example.template_kwargs is None else {"chat_template_kwargs": example.template_kwargs})
