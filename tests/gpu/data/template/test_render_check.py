"""A rendered conversation must have what its row says."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gpu.data.format.example import Example
from gpu.data.format.formats import FORMATS, read_fields
from gpu.data.problems import Findings
from gpu.data.template.chat_template import ChatTemplate
from gpu.data.template.render_check import NotTrainable, TextChecker
from tests.harness.tiny_model import MARKED_TEMPLATE, PLAIN_TEMPLATE, make_tokenizer

ASKED = {"role": "user", "content": "Weather in Rome?"}
CALL = {"type": "function", "function": {"name": "look", "arguments": '{"city":"Rome"}'}}
CALLS = {"role": "assistant", "content": "Let me see.", "tool_calls": [CALL]}
TOOL_ANSWER = {"role": "tool", "content": "sunny"}
SAYS = {"role": "assistant", "content": "Sunny."}

REASONS = (
    "{% for m in messages %}<|{{ m.role }}|>{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>"
    "{% endif %}{{ m.content }}<|end|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
REASONS_LAST = REASONS.replace("{% if m.reasoning_content %}", "{% if m.reasoning_content and loop.last %}")
MARKED_REASONS_LAST = (
    "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}{% generation %}"
    "{% if m.reasoning_content and loop.last %}<think>{{ m.reasoning_content }}</think>{% endif %}"
    "{{ m.content }}<|end|>{% endgeneration %}{% else %}{{ m.content }}<|end|>{% endif %}\n{% endfor %}"
)
CALLING = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% for c in m.tool_calls %}<call>{{ c.function.name }}"
    "{{ ARGUMENTS }}</call>{% endfor %}<|end|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CALLS_ONLY = CALLING.replace("{{ m.content }}", "{% if not m.tool_calls %}{{ m.content }}{% endif %}")
OBJECTS = "c.function.arguments | tojson"
STRINGS = "' ' + c.function.arguments"
LISTS = (
    "{% for m in messages %}<|{{ m.role }}|>{% for part in m.content %}{{ part.text }}{% endfor %}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def row(*messages: dict[str, Any], **fields: Any) -> Example:
    found = Findings(5)
    made = read_fields({"messages": [*messages], **fields}, FORMATS["messages"], found)
    assert isinstance(made, Example)
    return made


def trained(template: str, example: Example) -> list[list[str]]:
    """Return, for each text, the parts that are trained."""
    render_example = ChatTemplate(make_tokenizer(template)).render_example(example)
    return [[text[start:end] for start, end in spans] for text, spans in render_example]


def refused(template: str, example: Example) -> str:
    with pytest.raises(NotTrainable) as refusal:
        ChatTemplate(make_tokenizer(template)).render_example(example)
    return refusal.value.problem.name


REASONED = row(
    {"role": "user", "content": "2+2?"},
    {"role": "assistant", "content": "4", "reasoning_content": "two twos"},
    {"role": "user", "content": "3+3?"},
    {"role": "assistant", "content": "6", "thinking": "two threes"},
)


def test_reasoning_is_trained_where_the_template_writes_it() -> None:
    assert trained(REASONS, REASONED) == [
        ["<think>two twos</think>4<|end|>", "<think>two threes</think>6<|end|>"],
    ]


@pytest.mark.parametrize("template", [REASONS_LAST, MARKED_REASONS_LAST])
def test_reasoning_that_only_the_last_answer_keeps_is_trained_one_answer_at_a_time(template: str) -> None:
    assert trained(template, REASONED) == [
        ["<think>two twos</think>4<|end|>"],
        ["<think>two threes</think>6<|end|>"],
    ]


@pytest.mark.parametrize("template", [PLAIN_TEMPLATE, MARKED_TEMPLATE])
def test_reasoning_without_a_place_in_the_template_is_refused(template: str) -> None:
    assert refused(template, REASONED) == "template_drops_text"


def test_reasoning_of_an_answer_that_is_not_trained_may_be_left_out() -> None:
    example = row(*REASONED.messages[:3], {"role": "assistant", "content": "6"})
    flagged = Example(5, example.messages, (False, False, False, True))
    assert trained(PLAIN_TEMPLATE, flagged) == [["6<|end|>"]]


@pytest.mark.parametrize("arguments", [OBJECTS, STRINGS])
def test_text_next_to_a_tool_call_that_the_template_leaves_out_is_refused(arguments: str) -> None:
    example = row(ASKED, CALLS, TOOL_ANSWER, SAYS)
    assert refused(CALLS_ONLY.replace("ARGUMENTS", arguments), example) == "template_drops_text"
    (parts,) = trained(CALLING.replace("ARGUMENTS", arguments), example)
    assert parts[0].startswith("Let me see.<call>look")


def test_a_template_that_takes_arguments_as_text_gets_the_text_of_the_row() -> None:
    """Joined to a string an object is an error; shown as it is, it is Python and not JSON."""
    example = row(ASKED, CALLS, TOOL_ANSWER, SAYS)
    for shown in (STRINGS, "c.function.arguments"):
        ((first, _),) = trained(CALLING.replace("ARGUMENTS", shown), example)
        assert '{"city":"Rome"}</call>' in first
    ((first, _),) = trained(CALLING.replace("ARGUMENTS", OBJECTS), example)
    assert '{"city": "Rome"}</call>' in first


def test_a_template_for_contents_of_parts_gets_parts() -> None:
    example = row({"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"})
    tokenizer = make_tokenizer(LISTS)
    ((text, ((start, end),)),) = ChatTemplate(tokenizer).render_example(example)
    assert text == "<|user|>2+2?<|end|>\n<|assistant|>4<|end|>\n"
    assert text[start:end] == "4<|end|>"


@pytest.mark.parametrize("template", [PLAIN_TEMPLATE, MARKED_TEMPLATE, REASONS_LAST])
def test_a_system_prompt_that_the_template_leaves_out_is_refused(template: str) -> None:
    example = row({"role": "system", "content": "Be brief."}, *REASONED.messages)
    without = "{% if messages[0].role == 'system' %}{% set messages = messages[1:] %}{% endif %}" + template
    example = example if template == REASONS_LAST else row(example.messages[0], ASKED, SAYS)
    assert trained(template, example)
    assert refused(without, example) == "template_drops_text"


def test_tools_that_the_template_leaves_out_are_refused() -> None:
    tools = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
    example = row(ASKED, SAYS, tools=tools)
    assert refused(PLAIN_TEMPLATE, example) == "template_drops_text"
    assert trained("{{ tools | tojson }}" + PLAIN_TEMPLATE, example) == [["Sunny.<|end|>"]]


def test_arguments_of_the_row_reach_the_template() -> None:
    example = row(ASKED, SAYS, chat_template_kwargs={"mode": "calm"})
    (render_example,) = ChatTemplate(make_tokenizer("{{ mode | default('wild') }}" + PLAIN_TEMPLATE)).render_example(
        example
    )
    assert render_example.text.startswith("calm<|user|>")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("  a  ", "xax"),
        ("a\n\nb", "a b"),
        ('say "é"', r'{"x": "say \"é\""}'),
        ('say "é"', r'{"x": "say \"\u00e9\""}'),
        ("<think>\nwhy\n</think>\n\na", "<think>why</think>a"),
        ("", "x"),
    ],
)
def test_text_is_found_however_the_template_spaces_or_escapes_it(content: str, text: str) -> None:
    example = Example(1, [ASKED, {"role": "assistant", "content": content}], (False, True))
    TextChecker().check_answer(example, 1, text)


def test_what_is_missing_is_named() -> None:
    example = Example(5, [ASKED, SAYS], (False, True))
    with pytest.raises(NotTrainable) as refusal:
        TextChecker().check_answer(example, 1, "Rain.")
    problem = refusal.value.problem
    assert (problem.name, problem.line, problem.seen) == ("template_drops_text", 5, "Sunny.")
    assert "message 2" in problem.what
    with pytest.raises(NotTrainable, match=r"message 1 \(user\)"):
        TextChecker().check_context(example, 2, "Sunny.")


def test_a_tools_answer_in_json_may_be_written_again() -> None:
    tool_answer = {"role": "tool", "content": json.dumps({"sky": "sunny", "wind": ["low"]})}
    example = Example(5, [ASKED, tool_answer], (False, False))
    TextChecker().check_context(example, 2, "Weather in Rome? sky: sunny wind: low")
    with pytest.raises(NotTrainable):
        TextChecker().check_context(example, 2, "Weather in Rome? sky: sunny")
