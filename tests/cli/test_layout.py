"""Lines and tables that fit a terminal."""

from __future__ import annotations

import pytest

from cli.layout import cell_lines, column_widths, fit, shorten_middle, with_tilde

LONG = "/srv/a-very-long-directory/with-many/levels/of-names/that-do/not-fit/into-one-line/model.safetensors"


@pytest.mark.parametrize(
    "text",
    [
        f"keepstep: {LONG} cannot be read: nothing was added, because every file must be readable first",
        "14:46:29  notes.jsonl: 40 rows, 2183 tokens (1304 trained), 4.1% padding, 1 × 3 steps, and more words here",
        "  → find good ones with `keepstep checkpoints verify`; then try again, and again until it works at last",
    ],
)
@pytest.mark.parametrize("width", [40, 80])
def test_lines_break_between_words(text: str, width: int) -> None:
    """Every line fits, and no word but a path is cut."""
    lines = fit(text, width).split("\n")
    assert max(map(len, lines)) <= width
    words = " ".join(lines).split()
    assert [word for word in words if "…" not in word] == [word for word in text.split() if "/srv" not in word]
    indents = {len(line) - len(line.lstrip()) for line in lines[1:]}
    assert len(indents) == 1


def test_a_command_in_backticks_is_never_shortened() -> None:
    """A user copies it."""
    assert LONG in fit(f"remove it: `rm {LONG}` and then try again", 60)


def test_the_home_directory_of_the_user_becomes_a_tilde() -> None:
    """Only as a whole name at the start of a path, and not within quotes, where a shell would not expand it."""
    assert with_tilde("/home/ann/x, '/home/ann/x', /home/anna/x, /home/ann", "/home/ann") == (
        "~/x, '/home/ann/x', /home/anna/x, ~"
    )
    assert with_tilde("/x", "/") == "/x"


def test_tables_lose_the_middle_of_long_cells() -> None:
    """Ids stay whole, because the widest column becomes narrower first."""
    checkpoint = "step-00000003-attempt-0001"
    assert column_widths([["id", "file"], [checkpoint, LONG]], 60) == [26, 32]
    assert column_widths([["id", "note"], [checkpoint, "before it changes"]], 40) == [26, 12]
    assert column_widths([["a", "b"], [checkpoint, checkpoint]], 40) is None
    assert shorten_middle(LONG, 40).startswith("/srv/a-very-long")
    assert shorten_middle(LONG, 40).endswith(".safetensors")
    assert len(shorten_middle(LONG, 40)) == 40
    assert cell_lines("before v001 was made", 12) == "before v001\nwas made"
