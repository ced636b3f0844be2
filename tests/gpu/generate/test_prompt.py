"""The tokens that a dialogue is answered from: those of training, cut to the context."""

from __future__ import annotations

import pytest

from events.generation import ChatMessage
from events.settings import DataSettings
from gpu.data.encode.encoder import Encoder
from gpu.data.format.example import Example
from gpu.generate.prompt import PromptRefused, make_prompt
from tests.harness.tiny_model import MARKED_TEMPLATE, PLAIN_TEMPLATE, make_tokenizer

REFUSING = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + PLAIN_TEMPLATE


def user(text: str) -> ChatMessage:
    return ChatMessage("user", text)


def assistant(text: str) -> ChatMessage:
    return ChatMessage("assistant", text)


def encoder(template: str | None = PLAIN_TEMPLATE) -> Encoder:
    return Encoder(make_tokenizer(template), DataSettings())


@pytest.mark.parametrize("template", [PLAIN_TEMPLATE, MARKED_TEMPLATE, None])
def test_prompt_is_what_precedes_the_answer_in_training(template: str | None) -> None:
    """The same tokens as in a trained row, up to the first one that is trained."""
    encoded = encoder(template)
    turns = [{"role": "user", "content": "What is 1 and 1?"}, {"role": "assistant", "content": "Two."}]
    row = encoded.encode(Example(1, turns, (False, True), plain=True)).pieces[0]
    first = row[1].index(1)
    prompt = make_prompt(encoded, [user("What is 1 and 1?")], None, 8)
    assert prompt.ids == row[0][:first]


def test_end_of_turn_is_the_token_that_ends_a_trained_answer() -> None:
    assert encoder().end_of_turn == make_tokenizer().convert_tokens_to_ids("<|end|>")


def test_oldest_turns_are_left_out_first_and_the_system_text_stays() -> None:
    turns = [each for n in range(9) for each in (user(f"q{n}"), assistant("a"))]
    messages = [ChatMessage("system", "Be brief."), *turns, user("last")]
    assert make_prompt(encoder(), messages, None, 16).dropped == ()
    prompt = make_prompt(encoder(), messages, 80, 16)
    assert prompt.dropped == tuple(range(1, 1 + len(prompt.dropped)))
    assert len(prompt.dropped) % 2 == 0  # a question goes with its answer
    assert len(prompt.ids) + 16 <= 80
    kept = [message for index, message in enumerate(messages) if index not in prompt.dropped]
    assert prompt.ids == make_prompt(encoder(), kept, None, 16).ids
    one_more = [messages[0], *messages[len(prompt.dropped) - 1 :]]
    assert len(make_prompt(encoder(), one_more, None, 16).ids) + 16 > 80


def test_answer_is_limited_to_the_rest_of_the_context() -> None:
    prompt = make_prompt(encoder(), [user("x" * 60)], 80, 512)
    assert prompt.tokens_max == 80 - len(prompt.ids)


def test_message_that_is_longer_than_the_context_is_refused() -> None:
    with pytest.raises(PromptRefused, match="the model takes 32"):
        make_prompt(encoder(), [user("x" * 60)], 32, 8)


@pytest.mark.parametrize("messages", [[], [user("a"), assistant("b")]])
def test_dialogue_without_a_question_is_refused(messages: list[ChatMessage]) -> None:
    with pytest.raises(PromptRefused, match="nothing to answer"):
        make_prompt(encoder(), messages, None, 8)


def test_refusal_of_the_chat_template_is_a_sentence() -> None:
    with pytest.raises(PromptRefused, match="refuses the conversation: no system"):
        make_prompt(encoder(REFUSING), [ChatMessage("system", "s"), user("q")], None, 8)


def test_empty_prompt_is_refused() -> None:
    with pytest.raises(PromptRefused, match="empty"):
        make_prompt(encoder(None), [user("")], None, 8)
