"""Probes find the form in which a template takes messages."""

from __future__ import annotations

from typing import Any

import pytest

from gpu.data.template.message_form import MessageForm, Messages, find_form, find_opening_difference
from gpu.data.template.render_check import Rendered
from gpu.model.tokenizer import render_conversation
from tests.harness.tiny_model import MARKED_TEMPLATE, PLAIN_TEMPLATE, make_tokenizer

LISTS = "{% for m in messages %}<|{{ m.role }}|>{% for p in m.content %}{{ p.text }}{% endfor %}<|end|>{% endfor %}"
CALLS = PLAIN_TEMPLATE.replace(
    "{{ message['content'] }}",
    "{{ message.content }}{% for c in message.tool_calls or [] %}{{ c.function.name }} ARGUMENTS{% endfor %}",
)


def render(messages: Messages, form: MessageForm, prompt: bool) -> Rendered:
    text, spans = render_conversation(
        make_tokenizer(form.text),
        form.format_messages(messages),
        None,
        form.text,
        marked=form.marked and not prompt,
        add_generation_prompt=prompt,
        arguments={},
    )
    return Rendered(text, spans)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (PLAIN_TEMPLATE, {}),
        (LISTS, {"lists": frozenset({"user", "assistant", "system"}), "header": "<|assistant|>"}),
        (CALLS.replace("ARGUMENTS", "{{ c.function.arguments | tojson }}"), {}),
        (CALLS.replace("ARGUMENTS", "{{ c.function.arguments }}"), {"string_arguments": True}),
        (CALLS.replace("ARGUMENTS", "{{ '=' + c.function.arguments }}"), {"string_arguments": True}),
        (PLAIN_TEMPLATE.partition("{% if add")[0], {"header": "<|assistant|>"}),
        ("{{ raise_exception('no') }}", {}),
    ],
)
def test_the_form_of_a_template_is_found(template: str, expected: dict[str, Any]) -> None:
    form = find_form(template, marked=False, render=render)
    assert form == MessageForm(template, marked=False, **expected)


def test_reasoning_is_given_under_the_names_that_the_template_has() -> None:
    form = MessageForm("{{ message.thought }}", marked=False)
    (message,) = form.format_messages([{"role": "assistant", "content": "a", "reasoning_content": "r"}])
    assert message == {"role": "assistant", "content": "a", "reasoning_content": "r", "thought": "r"}


def test_an_opening_that_answers_have_not_is_reported() -> None:
    form = MessageForm(PLAIN_TEMPLATE.replace("<|assistant|>{% endif", "<|assistant|><think>{% endif"), marked=False)
    assert find_opening_difference(form, render) == ("<|assistant|><think>", "<|assistant|>")
    assert find_opening_difference(MessageForm(PLAIN_TEMPLATE, marked=False), render) is None
    assert find_opening_difference(MessageForm(MARKED_TEMPLATE, marked=True), render) is None
