"""Bad JSON is refused with line and column; good JSON has the value that Python's json gives."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu.data.read.strict_json import DEPTH_MAX, InvalidJson, line_and_column, loads

BROKEN = [
    # nothing, or not enough
    "", " ", "\t", "{", "[", '"', "{ ", '{"', '{"a', '{"a"', '{"a" ', '{"a":', '{"a": ', '{"a": 1', '{"a": 1,',
    '{"a": 1, ',
    '{"a": "b', '{"a": "b\\', '{"a": "b\\"', '{"a": [', '{"a": [1', '{"a": [1,', '{"a": {', '{"a": {"b": 1}', "[1",
    "[1,",
    "[[", "[{", '["a', '["a"', "[1, 2", "[null", "[tru", '{"a": tru', '{"a": nul', '{"a": fals', '{"a": -', "-", "[-",
    "t", "n",
    # too much
    "{}}", "{} {}", "[]]", "[] []", "1 2", "1,", '"a" "b"', "null null", "{},", '{"a": 1} x', '{"a": 1}}', "}", "]",
    ",", ":",
    # commas and colons
    "{,}", "[,]", "[1,]", "[,1]", "[1,,2]", '{"a": 1,}', '{,"a": 1}', '{"a": 1,, "b": 2}', '{"a" 1}', '{"a":: 1}',
    '{"a": 1 "b": 2}',
    '{"a", "b"}', '{"a": }', "[1 2]", '["a" "b"]', "[1;2]", '{"a"= 1}', '{"a": 1; "b": 2}', '{"a": 1: 2}', "{:}",
    '{: 1}',
    # brackets that do not agree
    "[}", "{]", '{"a": [1}', '[{"a": 1]}', "[1}", '{"a": 1]', "(1)", "<1>", '{"a": (1)}', "[[1]", '{"a": {"b": 1]',
    # keys
    "{a: 1}", "{'a': 1}", "{1: 2}", "{null: 1}", "{true: 1}", "{[]: 1}", "{{}: 1}", '{"a": 1, b: 2}', "{-1: 1}",
    '{"a": 1, 2: 3}',
    # strings
    "'a'", "['a']", "{'a': 'b'}", '"a\nb"', '"a\tb"', '"\x01"', '"\x1f"', '{"a": "x\ny"}', '{"a\n": 1}', '"\\x41"',
    '"\\a"', '"\\0"',
    '"\\ "', "\"\\'\"", '"\\u"', '"\\u1"', '"\\u12"', '"\\u123"', '"\\u123g"', '"\\uzzzz"', '"\\U00000041"',
    '"\\u 123"', '"\\u+123"',
    '"\\u0x12"', 'a', 'abc', '“a”', '{“a”: 1}', '"a" + "b"', '`a`', '"""a"""', 'r"a"', 'u"a"', 'b"a"',
    '"\\N{DIGIT ONE}"', '"a\\\nb"',
    # numbers
    "01", "-01", "+1", "1.", ".1", "-.1", "1.e1", "1e", "1e+", "1e-", "1E", "--1", "1-", "0x10", "0b1", "0o7",
    "1_000", "1,000", "1 000",
    "1.2.3", "1e2e3", "1e1.5", "٣", "½", "∞", "1f", "1L", "1n", "$1", "1%", "#1", "[01]", '{"a": 01}', '{"a": +1}',
    '{"a": .5}', "1/2",
    "[1.]", "-", "- 1", "00", "-00", "0123", "1e 5", "5 e1",
    # words
    "True", "False", "None", "NULL", "Null", "TRUE", "undefined", "nil", "yes", "no", "on", "nan", "inf", "infinity",
    "-inf", "+Infinity",
    "[True]", '{"a": None}', '{"a": undefined}', "truefalse", "nulll", "tru e", "[null null]", "nope", "trUe",
    '{"a": True, "b": False}',
    # comments, and other languages
    "// a", "/* a */ 1", "# a", '{"a": 1 // b\n}', '{"a": 1} // b', '{"a": /* b */ 1}', "{...}", '{"a": ...}', "<a/>",
    "a: 1", "- a",
    "a,b,c", "a\tb", '{"a" => 1}', "{'a' => 1}", "[1..2]", "a = 1", "!!", "@", "{{}}", "${a}", '{% a %}', "NaN NaN",
    "function() {}",
    '{"a": function() {}}', 'OrderedDict([("a", 1)])', '{"a": datetime.now()}', "b'{}'", '{"a"}', '{"a", }', "{1}",
    "{[1]}",
    # white space that JSON does not know, and marks
    "\ufeff{}", "{}\ufeff", "\u00a0{}", "{\u00a0}", "{}\u00a0", "\u2028{}", "{}\u2028", "[1\u2003]", "\x0c{}",
    "{}\x0c", "\x0b[]", "\x85{}",
    "[\x0b]", "\u200b{}", "{}\x00", "\x00", "[\x00]", "{}\x1a", "\x1b[0m{}",
    # over several lines
    '{\n"a": 1\n"b": 2\n}', '[\n1,\n2,\n]', '{"a":\n\n\n}', '{"é": "ü",\n "ж" 1}', "[\n\n", '{"a": "b\n"}', "\n\n\nx",
    "{\r\n'a': 1}",
]  # fmt: skip
"""What Python's json refuses too."""

STRICT = [
    ('{"a": 1, "a": 2}', "duplicate_key", 1, 10),
    ('{"a": 1, "b": 1, "a": 1}', "duplicate_key", 1, 18),
    ('{"a": {"b": 1, "b": 2}}', "duplicate_key", 1, 16),
    ('[{"a": 1}, {"b": 1, "b": 2}]', "duplicate_key", 1, 21),
    ('{"a": 1, "\\u0061": 2}', "duplicate_key", 1, 10),
    ('{"": 1, "": 2}', "duplicate_key", 1, 9),
    ('{"é": 1,\n "é": 2}', "duplicate_key", 2, 2),
    ('{"a:{,": ":,{", "a:{,": 2}', "duplicate_key", 1, 17),
    ("NaN", "not_finite", 1, 1),
    ("Infinity", "not_finite", 1, 1),
    ("-Infinity", "not_finite", 1, 1),
    ('{"a": NaN}', "not_finite", 1, 7),
    ('{"aé":\n -Infinity}', "not_finite", 2, 2),
    ("[1, 1e999]", "not_finite", 1, 5),
    ("[-1e999]", "not_finite", 1, 2),
    ("[1" + "0" * 400 + ".0]", "not_finite", 1, 2),
    ("[1" + "0" * 5000 + "]", "broken_json", 1, 2),
    ('"\\ud83d"', "half_character", 1, 2),
    ('"ab\\ude00"', "half_character", 1, 4),
    ('{"a": "\\ud83d\\ud83d\\ude00"}', "half_character", 1, 8),
    ('{"a": "\\ud83d\\ude00\\ude00"}', "half_character", 1, 20),
    ('{"a": "\\\\ud83d\\ude00"}', "half_character", 1, 15),
    ('{"\\uD800": 1}', "half_character", 1, 3),
    ('["\\uDFFFx"]', "half_character", 1, 3),
    ("[" * 101 + "]" * 101, "too_deep", 1, 101),
    ("[" * 100_000, "too_deep", 1, 101),
    ('{"a":' * 100_000, "too_deep", 1, 501),
    ('[{"x": "["}, ' + "[" * 200 + "]" * 200 + "]", "too_deep", 1, 113),
]
"""What it lets pass, or fails at otherwise."""

GOOD = [
    "{}", "[]", "null", "true", "false", "0", "-0", "1.5e-3", '""', ' { "a" : [ 1 , 2 ] } ', "\r\n\t[]\r\n",
    '"\\ud83d\\ude00"',
    '"\\\\ud83d"', '"\\\\\\\\ud83d"', '"\U0001f600"', '"\\u0000"', '"\u2028"', '{"a": {"a": {"a": 1}}}',
    '[{"a": 1}, {"a": 1}]',
    '{"a": "NaN"}', '{"NaN": "Infinity -Infinity 1e999"}', '{"a": "{\\"b\\": 1, \\"b\\": 2}"}', "1e-999",
    "[1e308, -1e308]", '"\x7f"',
    '{"A": 1, "a": 2}', "[" * DEPTH_MAX + "]" * DEPTH_MAX,
    "[" + ", ".join(["{}"] * 1000) + "]", '["' + "[" * 500 + '"]',
    "9" * 4000,
    '"\\/\\b\\f\\n\\r\\t\\"\\\\"', '{"é": "ü"}', '{"e\u0301": 1, "\u00e9": 2}', '"\\uD83D\\uDE00 \\ud83d\\ude00"',
]  # fmt: skip


def faults(text: str) -> InvalidJson:
    with pytest.raises(InvalidJson) as refused:
        loads(text)
    assert refused.value.faults
    return refused.value


def test_the_corpus_is_broad() -> None:
    assert len({*BROKEN}) + len(STRICT) >= 250


@pytest.mark.parametrize("text", BROKEN)
def test_what_json_refuses_is_refused_at_the_same_place(text: str) -> None:
    with pytest.raises(json.JSONDecodeError) as theirs:
        json.loads(text.replace("\ufeff", "\ufffe"))  # json has a separate message for the mark, at the same place
    (ours,) = faults(text.replace("\ufeff", "\ufffe")).faults
    assert ours.name == "broken_json"
    assert line_and_column(text, ours.position) == (theirs.value.lineno, theirs.value.colno)
    assert theirs.value.msg in ours.what


@pytest.mark.parametrize(("text", "name", "line", "column"), STRICT)
def test_what_json_lets_pass_is_refused_with_line_and_column(text: str, name: str, line: int, column: int) -> None:
    found = faults(text).faults[0]
    assert (found.name, *line_and_column(text, found.position)) == (name, line, column)


@pytest.mark.parametrize("text", GOOD)
def test_what_is_right_says_what_json_says(text: str) -> None:
    assert loads(text) == json.loads(text)


def test_all_faults_of_a_text_are_found() -> None:
    """Only if the grammar is right; nothing is certain after an error of the grammar."""
    text = '{"a": NaN, "a": "\\ud800", "b": {"c": 1, "c": 1e999}}'
    assert [fault.name for fault in faults(text).faults] == [
        "not_finite", "duplicate_key", "half_character", "duplicate_key", "not_finite",
    ]  # fmt: skip
    assert [fault.name for fault in faults('{"a": 1, "a": 2, oops}').faults] == ["broken_json"]


WHOLE = '{"a\\u00e9": [1, -2.5e+3, true, false, null, "x\\ny"], "b": {"c": ""}}'


@pytest.mark.parametrize("length", range(1, len(WHOLE)))
def test_every_beginning_of_a_text_is_seen_to_be_one(length: int) -> None:
    (fault,) = faults(WHOLE[:length]).faults
    assert fault.is_cut


@pytest.mark.parametrize("text", ['{"a": oops}', "[1 2]", "{'a': 1}", '{"a": 1}}', "{} {}", '"\\x"', "nulx", "[01, 2]"])
def test_a_text_that_no_end_completes_is_not_cut(text: str) -> None:
    assert not faults(text).faults[0].is_cut


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)
"""`st.text()` draws no surrogates."""


@settings(deadline=None, database=None)
@given(VALUES, st.booleans(), st.sampled_from([None, 0, 3]))
def test_whatever_json_writes_is_read_back(value: Any, ascii_only: bool, indent: int | None) -> None:
    assert loads(json.dumps(value, ensure_ascii=ascii_only, indent=indent)) == value


@settings(deadline=None, database=None)
@given(st.data())
def test_a_damaged_text_is_refused_or_agreed_upon(data: st.DataObject) -> None:
    """One inserted, removed or changed character gives json's value, or a refusal."""
    text = json.dumps(data.draw(VALUES))
    at = data.draw(st.integers(0, len(text)))
    put = data.draw(st.sampled_from(["", *'{}[],:"\\ntf0-.eE+u d8\n\t', "NaN", "é", "\\ud800", "\x00"]))
    agreed_or_refused(text[:at] + put + text[at + data.draw(st.integers(0, 1)) :])


@settings(deadline=None, database=None)
@given(st.text(alphabet='{}[],:"\\ \n01-.eEntrufalsNÍé', max_size=30))
def test_any_text_is_refused_or_agreed_upon(text: str) -> None:
    agreed_or_refused(text)


@settings(deadline=None, database=None)
@given(st.lists(st.sampled_from(["\\ud83d", "\\ude00", "\\\\", "\\n", "ud83d", "x", "\\uD800", "\\udfff"]), max_size=8))
def test_half_characters_are_found_after_any_escapes(pieces: list[str]) -> None:
    text = '"' + "".join(pieces) + '"'
    try:
        json.loads(text).encode()
    except UnicodeEncodeError:
        assert {fault.name for fault in faults(text).faults} == {"half_character"}
    else:
        assert loads(text) == json.loads(text)


def agreed_or_refused(text: str) -> None:
    try:
        value = loads(text)
    except InvalidJson as refused:
        for fault in refused.faults:
            assert 0 <= fault.position <= len(text)
            line, column = line_and_column(text, fault.position)
            assert column >= 1
            assert 1 <= line <= text.count("\n") + 1
        if refused.faults[0].name != "broken_json":
            json.loads(text)
    else:
        assert value == json.loads(text)
