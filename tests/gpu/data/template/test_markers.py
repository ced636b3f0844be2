"""Markers show what a template omits, even if the text occurs elsewhere."""

from __future__ import annotations

from typing import Any

import pytest

from gpu.data.format.example import Example
from gpu.data.format.formats import FORMATS, read_fields
from gpu.data.problems import Findings
from gpu.data.template.chat_template import ChatTemplate
from gpu.data.template.markers import Markers
from gpu.data.template.render_check import NotTrainable
from tests.harness.tiny_model import PLAIN_TEMPLATE, make_tokenizer

GENERATE = "{% if add_generation_prompt %}<|assistant|>{% endif %}"


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def says(content: str, *calls: dict[str, Any], **more: Any) -> dict[str, Any]:
    made = [{"type": "function", "function": {"name": "look", "arguments": call}} for call in calls]
    return {"role": "assistant", "content": content, **({"tool_calls": made} if made else {}), **more}


def tool_answer(content: str) -> dict[str, Any]:
    return {"role": "tool", "content": content}


def row(*messages: dict[str, Any], **fields: Any) -> Example:
    made = read_fields({"messages": [*messages], **fields}, FORMATS["messages"], Findings(5))
    assert isinstance(made, Example)
    return made


def template(content: str = "{{ m.content }}", calls: str = "") -> str:
    """A ChatML-like template with this for the content and the calls of a message."""
    each = "{% for c in m.tool_calls or [] %}" + calls + "{% endfor %}" if calls else ""
    return "{% for m in messages %}<|{{ m.role }}|>" + content + each + "<|end|>\n{% endfor %}" + GENERATE


JSON_CALL = "<call>{{ c.function.name }} {{ c.function.arguments | tojson }}</call>"


def refused(text: str, example: Example) -> str:
    with pytest.raises(NotTrainable) as refusal:
        ChatTemplate(make_tokenizer(text)).render_example(example)
    assert refusal.value.problem.line == 5
    return refusal.value.problem.name


def trained(text: str, example: Example) -> list[str]:
    rendered = ChatTemplate(make_tokenizer(text)).render_example(example)
    return [made.text[start:end] for made in rendered for start, end in made.spans]


def test_rows_of_one_form_have_the_same_markers() -> None:
    one, other = row(user("a"), says("b")), row(user("c c"), says(" d"))
    assert Markers(one).example.messages[0] == Markers(other).example.messages[0]
    assert Markers(one).example.messages != Markers(row(user("a"), says("<think>b</think>c"))).example.messages


def test_a_marker_is_in_the_place_of_each_text_and_nothing_else_changes() -> None:
    example = row(
        user("<think>a</think> b"),
        says("c", {"city": "Rome", "days": 3, "flags": [True, "x"], "none": None}, reasoning_content="why"),
        tool_answer('{"sky": "blue", "wind": 4}'),
        says("end"),
        tools=[{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}],
    )
    made = Markers(example).example
    asked, called, answered, _ = made.messages
    assert asked["content"].startswith("<think>zq")
    function = called["tool_calls"][0]["function"]
    assert function["name"] == made.tools[0]["function"]["name"] != "look"  # type: ignore[index]
    assert function["arguments"].keys() == {"city", "days", "flags", "none"}
    assert function["arguments"]["flags"][0] is True
    assert function["arguments"]["days"] > 3
    assert answered["content"].startswith('{"sky": "zq')
    assert {"Rome", "why", "blue", "end"} & {*str(made).replace("'", " ").replace('"', " ").split()} == set()


@pytest.mark.parametrize(
    ("text", "example", "name"),
    [
        # the user says the name of the tool, and the word that the system prompt has
        (PLAIN_TEMPLATE, row(user("look"), says("ok"), tools=[{"name": "look"}]), "template_drops_text"),
        (
            template("{% if m.role != 'system' %}{{ m.content }}{% endif %}"),
            row({"role": "system", "content": "Rome"}, user("Rome?"), says("Rome.")),
            "template_drops_text",
        ),
        # the text next to a call is also in its arguments
        (
            template("{% if not m.tool_calls %}{{ m.content }}{% endif %}", JSON_CALL),
            row(user("q"), says("Rome", {"city": "Rome"}), tool_answer("sunny"), says("Sunny.")),
            "template_drops_text",
        ),
        # the second of two calls
        (
            template(calls="{% if loop.first %}" + JSON_CALL + "{% endif %}"),
            row(user("q"), says("", {"a": 1}, {"a": 2}), tool_answer("x"), tool_answer("y"), says("z")),
            "template_without_tool_calls",
        ),
        # numbers in arguments
        (
            template(calls="{{ c.function.name }}{{ c.function.arguments.keys() | join }}"),
            row(user("q"), says("", {"a": 1}), tool_answer("x"), says("z")),
            "template_without_tool_calls",
        ),
        # the answer is in the reasoning
        (
            template("{{ m.reasoning_content if m.reasoning_content else m.content }}"),
            row(user("q"), says("4", reasoning_content="2+2=4")),
            "template_drops_text",
        ),
        # objects as Python shows them
        (
            template(calls="{{ c.function }}"),
            row(user("q"), says("", {"a": "b"}), tool_answer("x"), says("z")),
            "template_writes_python",
        ),
        ("{{ tools }}" + PLAIN_TEMPLATE, row(user("q"), says("a"), tools=[{"name": "f"}]), "template_writes_python"),
    ],
)
def test_what_the_template_drops_or_garbles_is_refused_though_the_words_are_there(
    text: str, example: Example, name: str
) -> None:
    assert refused(text, example) == name


def test_quoted_python_in_a_row_is_only_text() -> None:
    for quoted in ("Is look({'city': 'Rome'}) right?", "{'city': 'Rome'}"):
        example = row(user(quoted), says("", {"city": "Rome"}), tool_answer(quoted), says(quoted))
        (call, _) = trained(template(calls=JSON_CALL), example)
        assert '{"city": "Rome"}' in call


def test_contents_of_some_roles_may_be_lists_and_those_of_others_not() -> None:
    content = (
        "{% if m.role == 'user' %}{% for p in m.content %}{{ p.text }}{% endfor %}{% else %}{{ m.content }}{% endif %}"
    )
    assert trained(template(content), row(user("2+2?"), says("4"))) == ["4<|end|>"]


def test_a_template_that_writes_calls_next_to_null_only_gets_null() -> None:
    only_null = template(
        "{% if m.content is none %}{% for c in m.tool_calls %}"
        + JSON_CALL
        + "{% endfor %}{% else %}{{ m.content }}{% endif %}"
    )
    (call, _) = trained(only_null, row(user("q"), says("", {"a": "b"}), tool_answer("x"), says("z")))
    assert call == '<call>look {"a": "b"}</call><|end|>'


def test_a_form_is_rendered_once_for_all_its_rows() -> None:
    chat = ChatTemplate(make_tokenizer(PLAIN_TEMPLATE))
    for number in range(5):
        chat.render_example(row(user(f"q{number}"), says(f"a{number}")))
    assert len(chat._structures) == 1
