"""The assistant's part of a conversation is found, for every kind of template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from events.settings import DataSettings
from gpu.data.encode.encoder import Encoder
from gpu.data.format.example import Example
from gpu.data.problems import Problem
from gpu.data.template.chat_template import PINNED_DATE, ChatTemplate, NotTrainable
from tests.harness.chat_tokenizer import make_chat_tokenizer
from tests.harness.tiny_model import MARKED_TEMPLATE, PLAIN_TEMPLATE, UNSTABLE_TEMPLATE, make_tokenizer

CALL = [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}]
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]


def chat(*contents: str, train: tuple[bool, ...] | None = None) -> Example:
    """Messages such as "user: one?"."""
    turns: list[dict[str, Any]] = []
    for content in contents:
        role, _, said = content.partition(": ")
        turns.append({"role": role, "content": said})
    return Example(5, turns, train or tuple(turn["role"] == "assistant" for turn in turns))


DIALOGUE = chat("user: one?", "assistant: 1", "user: two?", "assistant: 2")


def trained(template: str, example: Example) -> list[list[str]]:
    """Return, for each text, the parts that are trained."""
    render_example = ChatTemplate(make_tokenizer(template)).render_example(example)
    return [[text[start:end] for start, end in spans] for text, spans in render_example]


def refusal(template: str, example: Example) -> Problem:
    with pytest.raises(NotTrainable) as refused:
        ChatTemplate(make_tokenizer(template)).render_example(example)
    return refused.value.problem


# -- without marks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "parts"),
    [
        (PLAIN_TEMPLATE, ["1<|end|>", "2<|end|>"]),
        (PLAIN_TEMPLATE.replace("|>{{ message['content'] }}", "|>{{ message['content'] | trim }}"), None),
        (
            "{{ bos_token }}{% if messages[0].role != 'system' %}<|system|>be kind<|end|>{% endif %}" + PLAIN_TEMPLATE,
            None,
        ),
        (PLAIN_TEMPLATE.replace("<|end|>\n", "[END]\n"), ["1[END]", "2[END]"]),
        (PLAIN_TEMPLATE.replace("<|end|>\n", "\n"), ["1\n", "2\n"]),
        (
            "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content }}"
            "<|end|>{% endif %}{% endfor %}",
            [" 1<|end|>", " 2<|end|>"],
        ),
        (PLAIN_TEMPLATE.partition("{% if add")[0], ["1<|end|>", "2<|end|>"]),
    ],
    ids=[
        "only appends",
        "trims",
        "adds a system prompt",
        "textual end",
        "ends with a line break",
        "no header",
        "no prompt",
    ],
)
def test_an_answer_is_from_after_its_header_to_its_end(template: str, parts: list[str] | None) -> None:
    """The last template has no generation prompt, so its header is found in another way."""
    assert trained(template, DIALOGUE) == [parts or ["1<|end|>", "2<|end|>"]]


def test_an_untrained_answer_need_not_be_found() -> None:
    row = chat("assistant: Hello.", "user: one?", "assistant: 1", train=(False, False, True))
    assert trained(PLAIN_TEMPLATE, row) == [["1<|end|>"]]


def test_where_earlier_answers_are_written_differently_each_is_trained_as_the_last() -> None:
    """A template that drops the reasoning of all answers but the last does this; so the model meets them too."""
    thinking = (
        "{% for message in messages %}<|{{ message.role }}|>{% if message.role == 'assistant' and loop.last %}"
        "<think></think>{% endif %}{{ message.content }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    tokenizer = make_tokenizer(thinking)
    render_example = ChatTemplate(tokenizer).render_example(DIALOGUE)
    assert [text for text, _ in render_example] == [
        tokenizer.apply_chat_template(DIALOGUE.messages[:end], tokenize=False) for end in (2, 4)
    ]
    assert trained(thinking, DIALOGUE) == [["<think></think>1<|end|>"], ["<think></think>2<|end|>"]]
    only_the_last = Example(5, DIALOGUE.messages, (False, False, False, True))
    assert trained(thinking, only_the_last) == [["<think></think>2<|end|>"]]


OPENS = PLAIN_TEMPLATE.replace("<|assistant|>{% endif", "<|assistant|><think>\n{% endif")
"""Ends a prompt with a block of reasoning that it does not write before an answer."""

CUTS = OPENS.replace("{{ message['content'] }}", "{{ message['content'].split('</think>')[-1] }}")
"""And cuts the reasoning off an answer, as DeepSeek-R1's template does."""


def test_an_answer_without_the_opening_of_its_prompt_is_trained_as_the_template_writes_it() -> None:
    """TRL does the same, in one text."""
    assert trained(OPENS, DIALOGUE) == [["1<|end|>", "2<|end|>"]]
    assert trained(CUTS, DIALOGUE) == [["1<|end|>", "2<|end|>"]]
    assert trained(OPENS, chat("user: u", "assistant: <thinks>")) == [["<thinks><|end|>"]]


def test_reasoning_that_an_answer_begins_with_is_kept_by_a_template_that_would_cut_it_off() -> None:
    """Each answer is a separate text: the messages before it are written as the model sees them."""
    row = chat("user: 1+1?", "assistant: <think>\neasy\n</think>2", "user: 2+2?", "assistant: <think>hard</think>4")
    first, second = ChatTemplate(make_tokenizer(CUTS)).render_example(row)
    assert first.text == "<|user|>1+1?<|end|>\n<|assistant|><think>\neasy\n</think>2<|end|>\n"
    assert second.text.endswith(
        "<|assistant|>2<|end|>\n<|user|>2+2?<|end|>\n<|assistant|><think>hard</think>4<|end|>\n"
    )
    assert trained(CUTS, row) == [["easy\n</think>2<|end|>"], ["hard</think>4<|end|>"]]


def test_reasoning_that_a_template_cuts_off_elsewhere_refuses_the_row() -> None:
    """Otherwise it would silently not be trained."""
    problem = refusal(CUTS, chat("user: u", "assistant: So: <think>easy</think>2"))
    assert (problem.name, problem.line) == ("template_not_prefix_stable", 5)


def test_what_the_assistant_did_since_the_question_may_be_written_otherwise_once_more_follows() -> None:
    """The answer then follows the prompt that the model is given, as Qwen3's second call does."""
    thinking = PLAIN_TEMPLATE.replace(
        "{{ message['content'] }}",
        "{% if loop.last and message['role'] == 'assistant' %}<think></think>{% endif %}{{ message['content'] }}",
    )
    row = chat("user: u", "assistant: 1", "assistant: 2")
    first, second = ChatTemplate(make_tokenizer(thinking)).render_example(row)
    assert second.text == first.text + "<|assistant|><think></think>2<|end|>\n"
    assert trained(thinking, row) == [["<think></think>1<|end|>"], ["<think></think>2<|end|>"]]


def test_openings_that_differ_are_reported() -> None:
    assert ChatTemplate(make_tokenizer(OPENS)).find_opening_difference() == ("<|assistant|><think>\n", "<|assistant|>")
    assert ChatTemplate(make_tokenizer(PLAIN_TEMPLATE)).find_opening_difference() is None
    assert ChatTemplate(make_tokenizer(UNSTABLE_TEMPLATE)).find_opening_difference() is None
    assert ChatTemplate(make_tokenizer("{{ raise_exception('no') }}")).find_opening_difference() is None


LAST_ONLY = (
    "{% for m in messages %}{% if m.role == 'user' %}[INST]{% if loop.last %}{{ SAID }}{% endif %}{{ m.content }}"
    "[/INST]{% elif m.role == 'assistant' %}{{ m.content }}<|end|>{% endif %}{% endfor %}"
)
"""Writes something with the last message only, as Mistral's templates do."""


@pytest.mark.parametrize(
    ("template", "row", "says", "advice"),
    [
        (
            LAST_ONLY.replace("SAID", "messages[0].content if messages[0].role == 'system' else ''"),
            chat("system: be kind", "user: u", "assistant: a"),
            "omits the system prompt once an answer follows; without the answer it continues with 'be kindu[",
            "first user message",
        ),
        (
            LAST_ONLY.replace("SAID", "tools | string if tools else ''"),
            Example(5, chat("user: u", "assistant: a").messages, (False, True), TOOLS),
            "the template omits the declared tools once an answer follows",
            "remove the tools",
        ),
        (
            PLAIN_TEMPLATE.replace("<|assistant|>{% endif", "### Answer: {% endif"),
            chat("user: u", "assistant: a"),
            "the generation prompt differs from what the template writes before an answer",
            "{% generation %}",
        ),
        (UNSTABLE_TEMPLATE, DIALOGUE, "continues with '1<|user|>one?", "rows with a single answer"),
    ],
    ids=["system", "tools", "generation prompt", "anything else"],
)
def test_a_refusal_names_its_cause_and_a_way_out(template: str, row: Example, says: str, advice: str) -> None:
    problem = refusal(template, row)
    assert problem.name == "template_not_prefix_stable"
    assert says in problem.what
    assert advice in problem.advice


@pytest.mark.parametrize(
    ("template", "row", "name", "says"),
    [
        (UNSTABLE_TEMPLATE, DIALOGUE, "template_not_prefix_stable", "before message 2"),
        (PLAIN_TEMPLATE, chat("assistant: 1"), "assistant_first", "begins with the assistant"),
        ("{{ raise_exception('no') }}", DIALOGUE, "template_refused", "the chat template refuses the conversation: no"),
        ("{{ messages[7].content }}", DIALOGUE, "template_refused", "the chat template refuses the conversation: "),
        ("{{ 1 // 0 }}", DIALOGUE, "template_refused", "the chat template refuses the conversation: "),
    ],
)
def test_rows_with_unclear_answers_are_refused(template: str, row: Example, name: str, says: str) -> None:
    problem = refusal(template, row)
    assert (problem.name, problem.line) == (name, 5)
    assert says in problem.message


# -- with marks -------------------------------------------------------------------------------------------------------


def test_marked_tokens_are_those_of_transformers() -> None:
    tokenizer = make_tokenizer(MARKED_TEMPLATE)
    given = tokenizer.apply_chat_template(DIALOGUE.messages, return_dict=True, return_assistant_tokens_mask=True)
    (piece,) = Encoder(tokenizer, DataSettings()).encode(DIALOGUE).pieces
    assert (piece.ids, list(piece.trained)) == (given["input_ids"], given["assistant_masks"])


def test_marks_around_more_than_an_answer_are_refused() -> None:
    """Here all messages are one marked part."""
    joined = "x{% generation %}{% for message in messages %}{{ message.content }}{% endfor %}{% endgeneration %}x"
    for train in ((False, False, False, True), (False, True, False, True)):
        problem = refusal(joined, Example(5, DIALOGUE.messages, train))
        assert (problem.name, problem.line) == ("template_marks_unmatched", 5)


def test_an_answer_without_a_mark_is_refused_and_not_left_out() -> None:
    """The other answer contains its text too."""
    first = MARKED_TEMPLATE.replace(
        "message['role'] == 'assistant'", "message['role'] == 'assistant' and loop.index == 2"
    )
    assert first != MARKED_TEMPLATE
    assert (
        refusal(first, chat("user: q", "assistant: Yes, 4", "user: r", "assistant: 4")).name
        == "template_marks_unmatched"
    )
    ((text, ((start, end),)),) = ChatTemplate(make_tokenizer(first)).render_example(
        chat("user: q", "assistant: Yes, 4", "user: r", "assistant: 4", train=(False, True, False, False))
    )
    assert text[start:end].startswith("Yes, 4")


def test_a_mark_around_an_end_of_turn_belongs_to_the_answer_before_it() -> None:
    """So flags of messages are honoured with templates that mark both apart, as TRL's of Phi-3 does."""
    apart = MARKED_TEMPLATE.replace("<|end|>{% endg", "{% endgeneration %}{% generation %}<|end|>{% endg")
    assert apart != MARKED_TEMPLATE
    flagged = Example(5, DIALOGUE.messages, (False, False, False, True))
    assert trained(apart, flagged) == [["2", "<|end|>"]]


def test_a_marked_part_ends_where_its_mark_ends_though_the_tokenizer_drops_its_last_character() -> None:
    """transformers marks everything up to the end of the text then."""
    from tokenizers import normalizers

    tokenizer = make_tokenizer(MARKED_TEMPLATE.replace("<|end|>{% endg", "~{% endg"))
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("~", "")
    (piece,) = Encoder(tokenizer, DataSettings()).encode(chat("user: one?", "assistant: 1", "user: bye")).pieces
    assert tokenizer.decode([token for token, on in zip(piece.ids, piece.trained, strict=True) if on]) == "1"


# -- both -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", [PLAIN_TEMPLATE, MARKED_TEMPLATE])
def test_a_tool_call_that_the_template_omits_is_not_trained_as_silence(template: str) -> None:
    row = chat("user: Rome?", "assistant: ", "tool: warm", "assistant: Warm.")
    row.messages[1]["tool_calls"] = CALL
    problem = refusal(template, row)
    assert (problem.name, problem.line) == ("template_without_tool_calls", 5)
    writes = "{{ message['content'] }}{% for call in message.tool_calls %}{{ call.function | tojson }}{% endfor %}"
    better = template.replace("{{ message['content'] }}", writes)
    assert "weather" in trained(better, row)[0][0]


def test_rows_with_tools_have_the_template_that_is_for_them() -> None:
    """A tokenizer may have several, by name."""
    tokenizer = make_tokenizer()
    tokenizer.chat_template = {"default": PLAIN_TEMPLATE, "tool_use": "{{ tools | tojson }}" + PLAIN_TEMPLATE}
    template = ChatTemplate(tokenizer)
    with_tools = Example(5, DIALOGUE.messages, DIALOGUE.train, TOOLS)
    assert [template.render_example(row)[0].text[:2] for row in (DIALOGUE, with_tools)] == ["<|", "[{"]


@pytest.mark.parametrize("template", [PLAIN_TEMPLATE, MARKED_TEMPLATE])
def test_a_template_that_asks_for_the_day_gets_the_same_one_every_day(template: str) -> None:
    """Nothing else changes, not even the white space at its beginning."""
    asks = "  \n{% if strftime_now is defined %}{% set day = strftime_now('%d %b %Y, %A') %}{% endif %}\n"
    tokenizer = make_tokenizer(asks + "{{ day }}" + template)
    text = ChatTemplate(tokenizer).render_example(DIALOGUE)[0].text
    tokenizer.chat_template = "  \n{% if strftime_now is defined %}{% endif %}\n26 Jul 2024, Friday" + template
    assert text == tokenizer.apply_chat_template(DIALOGUE.messages, tokenize=False)


def test_the_pinned_date_is_a_date() -> None:
    from datetime import UTC, datetime

    day = datetime(2024, 7, 26, tzinfo=UTC)
    assert {code: day.strftime(code) for code in PINNED_DATE} == PINNED_DATE


@pytest.mark.parametrize("name", ["qwen3", "phi3"])
def test_real_templates_that_write_earlier_turns_otherwise_teach_each_answer_as_it_is_asked_for(name: str) -> None:
    """Each text is the template's own, and the untrained part is the prompt that the model would be given."""
    golden = json.loads((Path(__file__).parents[1] / "golden" / f"{name}.json").read_text(encoding="utf-8"))
    tokenizer = make_chat_tokenizer(golden["template"], golden["special"], bos=golden["bos"], eos=golden["eos"])
    (row,) = [row for row in golden["rows"] if row["title"] == "reasoning"]
    messages = row["messages"]
    render_example = ChatTemplate(tokenizer).render_example(Example(1, messages, (False, True, False, True)))
    for (text, ((start, end),)), index in zip(render_example, (1, 3), strict=True):
        assert text == tokenizer.apply_chat_template(messages[: index + 1], tokenize=False)
        assert text[:start] == tokenizer.apply_chat_template(
            messages[:index], tokenize=False, add_generation_prompt=True
        )
        assert messages[index]["content"] in text[start:end]
