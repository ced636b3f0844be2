"""Changes of a key leave every other byte of keepstep.toml as it is."""

from __future__ import annotations

import tomllib

import pytest

from cli.config.schema import METHODS
from cli.config.text_edit import UNSET, renamed, split, with_changes, with_method

TEXT = """# mine
[model]   # the base
path = 'm'  # why "m"

[method]
kind = "lora"
r = 8               # tried 16
target_modules = [
  "q_proj",  # asks
  "v_proj",
]
use_dora = true

# below [data]
[data]
# prompt = "question"      # field names
max_length =  64
"""


def test_statements_join_to_the_text() -> None:
    """Lists over several lines, CRLF, no last newline, and a character that other code takes for a line end."""
    for text in (TEXT, TEXT.replace("\n", "\r\n"), TEXT.rstrip(), "", "a = '\u2028'\n", 'x = """\n[no]\n"""\n'):
        assert "".join(each.text for each in split(text)) == text


def test_one_value_changes_and_nothing_else() -> None:
    assert with_changes(TEXT, {"method.r": 4}) == TEXT.replace("r = 8 ", "r = 4 ")
    assert with_changes(TEXT, {"data.max_length": 32}).endswith("max_length =  32\n")
    crlf = TEXT.replace("\n", "\r\n")
    assert with_changes(crlf, {"method.r": 4}) == crlf.replace("r = 8 ", "r = 4 ")


def test_a_new_key_stands_in_its_section() -> None:
    """After its commented example, if there is one; in a new section, if there is none."""
    changed = with_changes(TEXT, {"data.prompt": "q", "model.dtype": "bfloat16", "logs.days": 9})
    assert '# prompt = "question"      # field names\nprompt = "q"\nmax_length' in changed
    assert """path = 'm'  # why "m"\ndtype = "bfloat16"\n\n[method]""" in changed
    assert changed.endswith("\n\n[logs]\ndays = 9\n")


def test_a_key_that_is_taken_out_keeps_its_comment() -> None:
    """As a comment; one without a comment just goes."""
    changed = with_changes(TEXT, {"method.r": UNSET, "method.use_dora": UNSET, "method.target_modules": UNSET})
    assert "# r = 8               # tried 16\n" in changed
    assert '# target_modules = [\n#   "q_proj",  # asks\n' in changed
    assert "use_dora" not in changed
    assert tomllib.loads(changed)["method"] == {"kind": "lora"}


@pytest.mark.parametrize(
    "text",
    ['method = {kind = "lora", r = 8}\n', 'method.kind = "lora"\nmethod.r = 8\n', "[ 'method' ]\nkind=\"lora\"\nr=8"],
)
def test_other_spellings_of_a_section_are_changed_too(text: str) -> None:
    """Inline tables, dotted keys and quoted headers."""
    changed = with_changes(text, {"method.r": 4, "method.alpha": 2.0})
    assert tomllib.loads(changed)["method"] == {"kind": "lora", "r": 4, "alpha": 2.0}
    assert tomllib.loads(with_changes(changed, {"method.r": UNSET}))["method"] == {"kind": "lora", "alpha": 2.0}


@pytest.mark.parametrize("kind", ["full", "qlora"])
def test_another_method_and_back_is_the_same_text(kind: str) -> None:
    """Keys that the other method does not have wait as comments."""
    there = with_changes(with_method(TEXT, "lora", kind, METHODS[kind].__struct_fields__), {"method.kind": kind})
    assert "# (lora) use_dora = true" in there
    assert ("r" in tomllib.loads(there)["method"]) == (kind == "qlora")
    back = with_method(there, kind, "lora", METHODS["lora"].__struct_fields__)
    assert with_changes(back, {"method.kind": "lora"}) == TEXT


def test_an_old_name_becomes_the_present_one() -> None:
    assert renamed("[checks]\nlearned_before = 'off' # c\n", "checks", "learned_before", "trained_before") == (
        "[checks]\ntrained_before = 'off' # c\n"
    )
