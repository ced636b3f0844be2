"""The encoder trains the right tokens, and refuses rows that it would train wrongly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from events.settings import DataSettings
from gpu.data.encode.encoder import Encoder
from gpu.data.encode.fitting import EncodedRow
from gpu.data.format.example import Example, Row, Text, Tokenised
from tests.harness.chat_tokenizer import make_chat_tokenizer
from tests.harness.spaced_tokenizer import make_spaced_tokenizer
from tests.harness.tiny_model import MARKED_TEMPLATE, PLAIN_TEMPLATE, UNSTABLE_TEMPLATE, make_tokenizer

GOLDEN = sorted((Path(__file__).parents[1] / "golden").glob("*.json"))
SPACED = sorted((Path(__file__).parents[1] / "golden" / "spaced").glob("*.json"))
RETOKENISED = {
    "always": {"another token before the boundary"},
    "bytes": {"another token before the boundary"},
    "first": {"another token before the boundary"},
    "prepend": {"another token before the boundary", "only spaces before"},
}
"""Rows whose prompt has other tokens even before the boundary, once the completion follows it: "is" and "t" are two
tokens, "ist" is "i" and "st". TRL trains all that differs, "i" too; keepstep trains what has a character of the
completion."""

ANSWER_BY_ANSWER = {"nemotron_3_nano": {"reasoning": 2}}
"""Rows whose earlier reasoning TRL's template omits. TRL trains those answers without it; keepstep trains each
answer as the last, with its reasoning, and makes so many examples."""

WRITTEN_OTHERWISE = {
    "qwen3": {
        "several turns": 3,
        "consecutive assistants": 2,
        "the user has the last word": 1,
        "reasoning": 2,
        "tool call": 2,
        "two calls and a word": 2,
    },
    "deepseek_r1_distill": {"reasoning": 2},
    "nemotron_3_nano": {"reasoning": 2},
    "phi3": {"several turns": 3, "consecutive assistants": 2, "the user has the last word": 1, "reasoning": 2},
}
"""Rows whose earlier turns the model's template writes otherwise than its last one, and how many examples they are.

TRL trains Qwen3 with a template of its own, which keeps the reasoning of earlier turns; the model never sees it so.
"""

THINK = {"<", "t", "h", "in", "k", ">"}
IN_PROMPTS = {"deepseek_r1_distill": {"<｜Assistant｜>"} | THINK, "nemotron_3_nano": THINK}
"""Tokens that TRL's templates have within their marks, and a model in its prompt; else it is line breaks alone."""


def pair(prompt: str, completion: str) -> Example:
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
    return Example(5, turns, (False, True), plain=True)


def chat(*contents: str, train: tuple[bool, ...] | None = None) -> Example:
    """Messages such as "user: one?"."""
    turns = [dict(zip(("role", "content"), content.split(": ", 1), strict=True)) for content in contents]
    return Example(5, turns, train or tuple(turn["role"] == "assistant" for turn in turns))


DIALOGUE = chat("system: be kind", "user: one?", "assistant: 1", "user: two?", "assistant: 2")


def encode(tokenizer: Any, row: Row, max_length: int = 1024, long: Any = "truncate") -> EncodedRow:
    return Encoder(tokenizer, DataSettings(max_length=max_length, long=long)).encode(row)


def split(tokenizer: Any, row: Row) -> tuple[str, str]:
    """Return all that the model sees, and the part that is trained."""
    encoding = encode(tokenizer, row)
    assert encoding.problem is None, encoding.problem.message
    (piece,) = encoding.pieces
    trained = [token for token, mark in zip(piece.ids, piece.trained, strict=True) if mark]
    return tokenizer.decode(piece.ids), tokenizer.decode(trained)


# -- what TRL trains --------------------------------------------------------------------------------------------------


def test_there_are_golden_files() -> None:
    """At least the templates that the docs name have one."""
    assert {"smollm2", "llama3", "qwen2_5"} <= {path.stem for path in GOLDEN}


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_with_marks_the_trained_tokens_are_those_of_trl(path: Path) -> None:
    """Token for token, for each row; the template is the one that TRL trains with."""
    golden = json.loads(path.read_text(encoding="utf-8"))
    tokenizer = make_chat_tokenizer(golden["trained_template"], golden["special"], bos=golden["bos"], eos=golden["eos"])
    encodings = Encoder(tokenizer, DataSettings(max_length=10_000)).encode_many(
        [_example(row) for row in golden["rows"]]
    )
    for row, encoding in zip(golden["rows"], encodings, strict=True):
        if row["title"] in ANSWER_BY_ANSWER.get(path.stem, {}):
            assert len(encoding.pieces) == ANSWER_BY_ANSWER[path.stem][row["title"]]
            continue
        (piece,) = encoding.pieces
        assert piece.ids == row["input_ids"], row["title"]
        assert _places(piece.trained) == row["learned"], row["title"]


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_without_marks_too_but_for_line_breaks_that_no_model_writes(path: Path) -> None:
    """The template as the model has it.

    Some of TRL's templates have the line break that ends a role header, or the one after the end-of-turn token, within
    their marks. A model is never asked for them: the first is in its prompt, before the second it has stopped.
    """
    golden = json.loads(path.read_text(encoding="utf-8"))
    tokenizer = make_chat_tokenizer(golden["template"], golden["special"], bos=golden["bos"], eos=golden["eos"])
    encoder = Encoder(tokenizer, DataSettings(max_length=10_000))
    otherwise = {}
    for row in golden["rows"]:
        pieces = encoder.encode(_example(row)).pieces
        if len(pieces) != 1 or pieces[0].ids != row["input_ids"]:
            otherwise[row["title"]] = len(pieces)
            continue
        ours, theirs = set(_places(pieces[0].trained)), set(row["learned"])
        assert ours <= theirs, row["title"]
        assert {tokenizer.decode([row["input_ids"][place]]) for place in theirs - ours} <= {
            "\n",
            *IN_PROMPTS.get(path.stem, ()),
        }, row["title"]
        if path.stem in {"smollm2", "llama3"}:
            assert ours == theirs, row["title"]
        for place in theirs - ours if path.stem not in IN_PROMPTS else ():
            before = tokenizer.decode(row["input_ids"][:place])
            assert before.endswith(("assistant", "<|im_end|>", "<end_of_turn>")), row["title"]
    assert otherwise == WRITTEN_OTHERWISE.get(path.stem, {})


@pytest.mark.parametrize("path", SPACED, ids=lambda path: path.stem)
def test_a_tokenizer_that_puts_spaces_before_texts_trains_the_tokens_of_trl(path: Path) -> None:
    """Prompt and completion, text, and conversations with the model's own template agree token for token, except for
    tokens that have no character of the completion."""
    golden, otherwise = json.loads(path.read_text(encoding="utf-8")), set()
    for row in golden["rows"]:
        tokenizer = make_spaced_tokenizer(path.stem, golden["templates"].get(row.get("template")))
        (piece,) = encode(tokenizer, _row(row)).pieces
        assert piece.ids == row["input_ids"], row["title"]
        ours, theirs = _places(piece.trained), row["learned"]
        assert ours == theirs[len(theirs) - len(ours) :], row["title"]
        if ours != theirs:
            otherwise.add(row["title"])
            prompt = tokenizer.decode(piece.ids[: ours[0]], skip_special_tokens=True)
            assert row["prompt"].startswith(prompt.removeprefix(" ")), row["title"]
    assert otherwise == RETOKENISED[path.stem]


@pytest.mark.parametrize("path", SPACED, ids=lambda path: path.stem)
def test_a_slow_tokenizer_that_puts_spaces_before_texts_trains_the_tokens_of_trl(path: Path) -> None:
    """A slow tokenizer does not report the positions of its tokens."""
    golden = json.loads(path.read_text(encoding="utf-8"))
    for row in golden["rows"]:
        template = golden["templates"].get(row.get("template"))
        (piece,) = encode(Slow(make_spaced_tokenizer(path.stem, template)), _row(row)).pieces
        assert (piece.ids, _places(piece.trained)) == (row["input_ids"], row["learned"]), row["title"]


@pytest.mark.parametrize("template", [PLAIN_TEMPLATE, MARKED_TEMPLATE])
def test_an_answer_that_begins_with_spaces_is_trained_where_offsets_leave_them_out(template: str) -> None:
    whole, trained = split(make_spaced_tokenizer("bytes", template), chat("user: Q", "assistant:   \u00e9 "))
    assert (whole, trained) == (" <|user|>Q<|end|>\n<|assistant|>  \u00e9 <|end|>\n", "  \u00e9 <|end|>")


def _row(row: dict[str, Any]) -> Row:
    if "text" in row:
        return Text(1, row["text"])
    return _example(row) if "messages" in row else pair(row["prompt"], row["completion"])


def _example(row: dict[str, Any]) -> Example:
    trained = tuple(message["role"] == "assistant" for message in row["messages"])
    return Example(1, row["messages"], trained, row.get("tools"))


def _places(trained: Any) -> list[int]:
    return [place for place, is_trained in enumerate(trained) if is_trained]


# -- what is trained --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", [PLAIN_TEMPLATE, MARKED_TEMPLATE])
def test_only_the_assistant_is_trained_in_every_turn_with_its_end(template: str) -> None:
    """Neither the role header nor the line break after the end of a turn is trained."""
    whole, trained = split(make_tokenizer(template), DIALOGUE)
    assert whole == (
        "<|system|>be kind<|end|>\n<|user|>one?<|end|>\n<|assistant|>1<|end|>\n"
        "<|user|>two?<|end|>\n<|assistant|>2<|end|>\n"
    )
    assert trained == "1<|end|>2<|end|>"


@pytest.mark.parametrize("template", [PLAIN_TEMPLATE, MARKED_TEMPLATE])
@pytest.mark.parametrize(("flags", "trained"), [((True, False), "1<|end|>"), ((False, True), "2<|end|>")])
def test_an_untrained_answer_is_context(template: str, flags: tuple[bool, bool], trained: str) -> None:
    row = chat("user: one?", "assistant: 1", "user: two?", "assistant: 2", train=(False, flags[0], False, flags[1]))
    whole, found = split(make_tokenizer(template), row)
    assert (whole.count("<|assistant|>"), found) == (2, trained)


@pytest.mark.parametrize("template", [PLAIN_TEMPLATE, MARKED_TEMPLATE])
def test_a_token_with_one_character_of_the_answer_is_trained(template: str) -> None:
    """TRL does the same: here the line break of the header and the first space of the answer are one token."""
    whole, trained = split(_with_line_breaks(template), chat("user: Q", "assistant:   ?"))
    assert (whole, trained) == ("<|user|>\nQ<|end|>\n<|assistant|>\n  ?<|end|>\n", "\n  ?<|end|>")


def _with_line_breaks(template: str) -> Any:
    """A tokenizer whose role headers end in a line break, and which makes a token of that and a space."""
    header = template.replace("'] }}|>", "'] }}|>{{ '\\n' }}").replace("<|assistant|>{", "<|assistant|>{{ '\\n' }}{")
    return make_chat_tokenizer(header, ("<|end|>", "<|user|>", "<|assistant|>"), bos=None, eos="<|end|>")


@pytest.mark.parametrize("end", ["👍", "é", "e\u0301", "日"])
def test_an_answer_of_several_bytes_a_character_is_trained_to_its_last_byte(end: str) -> None:
    """This holds without an end-of-turn token too."""
    template = PLAIN_TEMPLATE.replace("<|end|>\n", "{% if not loop.last %}\n{% endif %}")
    assert split(make_tokenizer(template), chat("user: Q", f"assistant: 1{end}"))[1] == f"1{end}"


def test_a_pair_is_a_user_and_an_assistant_where_there_is_a_template() -> None:
    assert split(make_tokenizer(), pair("p", "c")) == ("<|user|>p<|end|>\n<|assistant|>c<|end|>\n", "c<|end|>")


@pytest.mark.parametrize("template", [PLAIN_TEMPLATE, MARKED_TEMPLATE, None])
@pytest.mark.parametrize("prompt", ["", " "])
def test_an_empty_prompt_is_never_put_into_a_chat(template: str | None, prompt: str) -> None:
    """TRL trains the completion alone."""
    assert split(make_tokenizer(template), pair(prompt, "c")) == (f"{prompt}c<|end|>", "c<|end|>")


def test_a_pair_without_a_template_is_prompt_completion_end() -> None:
    assert split(make_tokenizer(None), pair("p", "c")) == ("pc<|end|>", "c<|end|>")


def test_text_is_trained_whole_and_gets_one_end() -> None:
    assert split(make_tokenizer(), Text(1, "abc")) == ("abc<|end|>", "abc<|end|>")
    assert split(make_tokenizer(), Text(1, "abc<|end|>")) == ("abc<|end|>", "abc<|end|>")


def test_token_ids_are_taken_as_they_are() -> None:
    (piece,) = encode(make_tokenizer(), Tokenised(1, [9, 8, 7], [False, False, True])).pieces
    assert (piece.ids, list(piece.trained)) == ([9, 8, 7], [0, 0, 1])


def _begins_texts(tokenizer: Any) -> Any:
    from tokenizers.processors import TemplateProcessing

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", tokenizer.bos_token_id)]
    )
    return tokenizer


def test_a_tokenizer_that_begins_texts_by_itself_begins_them_once() -> None:
    tokenizer = _begins_texts(make_tokenizer(None))
    assert split(tokenizer, Text(1, "a"))[0] == "<|begin|>a<|end|>"
    assert split(tokenizer, Text(1, "<|begin|>a"))[0] == "<|begin|>a<|end|>"
    assert split(tokenizer, pair("p", "c"))[0] == "<|begin|>pc<|end|>"


@pytest.mark.parametrize("template", [PLAIN_TEMPLATE, MARKED_TEMPLATE])
def test_a_template_that_begins_texts_is_not_begun_again(template: str) -> None:
    tokenizer = _begins_texts(make_tokenizer("{{ bos_token }}" + template))
    assert split(tokenizer, pair("p", "c"))[0] == "<|begin|><|user|>p<|end|>\n<|assistant|>c<|end|>\n"


@pytest.mark.parametrize("template", [PLAIN_TEMPLATE, MARKED_TEMPLATE, UNSTABLE_TEMPLATE, None])
def test_many_rows_at_once_are_encoded_as_each_alone(template: str | None) -> None:
    rows: list[Row] = [
        DIALOGUE,
        pair("p", "c"),
        chat("assistant: speaks first"),
        Text(1, "abc"),
        pair("p", " "),
        Tokenised(1, [1, 2], [True, True]),
        Tokenised(1, [1, -1], [True, True]),
        Example(9, DIALOGUE.messages, DIALOGUE.train, [{"type": "function", "function": {"name": "f"}}]),
    ]
    encoder = Encoder(make_tokenizer(template), DataSettings())
    assert encoder.encode_many(rows) == [encoder.encode(row) for row in rows]
    assert encoder.encode_many([]) == []


def test_one_refused_row_among_many_is_refused_alone() -> None:
    template = "{% if messages[0]['content'] == 'no' %}{{ raise_exception('not this') }}{% endif %}" + MARKED_TEMPLATE
    encoder = Encoder(make_tokenizer(template), DataSettings())
    found = encoder.encode_many([pair("yes", "1"), pair("no", "2"), pair("yes", "3")])
    assert [encoding.problem is None for encoding in found] == [True, False, True]


# -- rows that are refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "row", "problem", "says"),
    [
        (UNSTABLE_TEMPLATE, DIALOGUE, "template_not_prefix_stable", "before message 3"),
        (None, DIALOGUE, "no_chat_template", "no chat template"),
        (PLAIN_TEMPLATE, chat("system: s", "user: u"), "no_trainable_tokens", "answer of the row is empty"),
        (PLAIN_TEMPLATE, pair("p", " "), "no_trainable_tokens", "answer of the row is empty"),
        (PLAIN_TEMPLATE, Text(5, "\n"), "no_trainable_tokens", "answer of the row is empty"),
        (PLAIN_TEMPLATE, Tokenised(5, [1, 2], [True, False]), "no_trainable_tokens", "no token of the row"),
        (
            PLAIN_TEMPLATE,
            chat("user: u", "assistant: a", train=(False, False)),
            "no_trainable_tokens",
            "no answer of the row",
        ),
        (PLAIN_TEMPLATE, Tokenised(5, [1, 262], [True, True]), "token_out_of_range", "token 2 is not in"),
        (PLAIN_TEMPLATE, Tokenised(5, [-1, 2], [True, True]), "token_out_of_range", "token 1 is not in"),
        (PLAIN_TEMPLATE, chat("assistant: 1"), "assistant_first", "begins with the assistant"),
        ("{{ raise_exception('no systems here') }}", DIALOGUE, "template_refused", "no systems here"),
        (
            "xy{% generation %}{% endgeneration %}{{ messages[0].content }}",
            DIALOGUE,
            "template_drops_text",
            "message 2 (user)",
        ),
    ],
)
def test_rows_that_cannot_be_trained_are_refused(template: str | None, row: Row, problem: str, says: str) -> None:
    encoding = encode(make_tokenizer(template), row, 64)
    assert encoding.problem is not None
    assert (encoding.problem.name, encoding.problem.line, encoding.pieces) == (problem, 5, ())
    assert says in encoding.problem.message


# -- rows that are too long -------------------------------------------------------------------------------------------


def test_a_long_row_is_refused_with_its_length() -> None:
    encoding = encode(make_tokenizer(), Text(5, "x" * 50), 10, "refuse")
    assert encoding.problem is not None
    assert (encoding.problem.name, encoding.tokens, encoding.pieces) == ("too_long", 51, ())
    assert "51 tokens" in encoding.problem.message


def test_a_long_row_is_left_out_and_counted() -> None:
    assert encode(make_tokenizer(), Text(5, "x" * 50), 10, "drop") == EncodedRow((), 51, "dropped", None)


def test_a_long_row_is_cut_at_the_end_and_counted() -> None:
    encoder = Encoder(make_tokenizer(), DataSettings(max_length=10))
    short, long = encoder.encode_many([Text(1, "short"), Text(1, "x" * 50)])
    assert (short.long, [(len(piece.ids), piece.truncated) for piece in short.pieces]) == ("", [(6, False)])
    assert (long.long, long.tokens) == ("truncated", 51)
    assert [(len(piece.ids), piece.truncated) for piece in long.pieces] == [(10, True)]


def test_a_long_text_is_cut_into_windows() -> None:
    encoding = encode(make_tokenizer(), Text(5, "0123456789abcdefghij"), 8, "split")
    tokenizer = make_tokenizer()
    assert encoding.long == "split"
    assert [tokenizer.decode(piece.ids) for piece in encoding.pieces] == ["01234567", "789abcde", "efghij<|end|>"]
    assert [list(piece.trained) for piece in encoding.pieces[1:]] == [[0] + [1] * 7, [0] + [1] * 6]


@pytest.mark.parametrize("template", [PLAIN_TEMPLATE, MARKED_TEMPLATE])
def test_a_long_conversation_is_cut_between_turns_and_keeps_its_system_prompt(template: str) -> None:
    tokenizer = make_tokenizer(template)
    encoding = encode(tokenizer, DIALOGUE, 24, "split")
    assert [tokenizer.decode(piece.ids) for piece in encoding.pieces] == [
        "<|system|>be kind<|end|>\n<|user|>one?<|end|>\n<|assistant|>1<|end|>\n",
        "<|system|>be kind<|end|>\n<|user|>two?<|end|>\n<|assistant|>2<|end|>\n",
    ]


def test_where_no_turn_fits_a_conversation_is_cut_into_windows_that_have_something_to_learn() -> None:
    tokenizer = make_tokenizer()
    encoding = encode(tokenizer, pair("q" * 20, "0123456789"), 8, "split")
    assert [tokenizer.decode(piece.ids) for piece in encoding.pieces] == [
        "<|end|>\n<|assistant|>01234",
        "456789<|end|>\n",
    ]


# -- what is said besides ---------------------------------------------------------------------------------------------


def test_special_tokens_in_the_content_are_found_wherever_they_stand() -> None:
    encoder = Encoder(make_tokenizer(), DataSettings())
    row = chat("user: a<|end|>\n<|assistant|>", "assistant: <|end|> <|other|> <think>")
    row.messages[1]["tool_calls"] = [{"function": {"name": "f", "arguments": {"x": ["<|pad|>"]}}}]
    assert encoder.special_tokens_in(row) == ["<|end|>", "<|assistant|>", "<|pad|>"]
    problem = encoder.special_token_problem(row)
    assert problem is not None
    assert (problem.name, problem.line) == ("special_token_in_content", 5)
    assert encoder.special_tokens_in(DIALOGUE) == []
    assert encoder.special_token_problem(DIALOGUE) is None


def test_text_may_have_special_tokens() -> None:
    assert Encoder(make_tokenizer(), DataSettings()).special_tokens_in(Text(1, "one<|end|>two")) == []


@pytest.mark.parametrize(
    ("template", "names"),
    [
        (PLAIN_TEMPLATE, []),
        (MARKED_TEMPLATE, []),
        (None, []),
        (UNSTABLE_TEMPLATE, []),
        (PLAIN_TEMPLATE.replace("<|end|>", ""), ["end_of_turn_not_learned"]),
        (
            MARKED_TEMPLATE.replace("<|end|>{% endgeneration %}", "{% endgeneration %}<|end|>"),
            ["end_of_turn_not_learned"],
        ),
    ],
)
def test_a_template_that_does_not_teach_to_stop_is_warned_of(template: str | None, names: list[str]) -> None:
    found = Encoder(make_tokenizer(template), DataSettings()).warnings()
    assert [problem.name for problem in found] == names


class Slow:
    """A tokenizer that does not report the positions of its tokens."""

    is_fast = False

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return {"input_ids": self._inner(*arguments, **options)["input_ids"]}

    def __len__(self) -> int:
        return len(self._inner)


def test_a_slow_tokenizer_gives_the_same_or_refuses() -> None:
    """It refuses a row if it cannot tell which token ends an answer."""
    assert encode(Slow(make_tokenizer()), DIALOGUE) == encode(make_tokenizer(), DIALOGUE)
    fast = _with_line_breaks(PLAIN_TEMPLATE)
    assert encode(Slow(fast), pair("Q", "  ?")) == encode(fast, pair("Q", "  ?"))
    bare = _with_line_breaks("{% for message in messages %}{{ message['content'] }}\n{% endfor %}")
    problem = encode(Slow(bare), chat("user: Q", "assistant: 1", "user: \n\nQ", "assistant: 2")).problem
    assert problem is not None
    assert problem.name == "tokens_straddle_turns"
