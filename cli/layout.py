"""Fit text to a terminal: lines break between words, and paths are shortened."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence

WIDTH = 80
"""Columns if the terminal does not say how many it has."""

NARROWEST = 20
"""Columns. A narrower terminal gets lines of this width."""

SHORTEST = 12
"""Characters. A path or a long file name in a table is not made shorter than this."""

LONGEST_ID = 26
"""Characters of the longest id, that of a checkpoint. Ids stay whole: a user copies them."""

_QUOTED = re.compile(r"`[^`]*`")


def terminal_width() -> int:
    """Columns of the terminal."""
    with contextlib.suppress(ValueError, KeyError):
        return int(os.environ["COLUMNS"]) or WIDTH
    for number in (1, 2):
        with contextlib.suppress(OSError):
            return os.get_terminal_size(number).columns or WIDTH
    return WIDTH


def user_home() -> str:
    """The user's home directory, which messages show as `~`; never raises."""
    return os.path.expanduser("~")  # noqa: PTH111 - Path.home() raises if there is none


def fitted(text: str, *, columns: int | None = None, indent: int | None = None) -> str:
    """The text in lines that fit the terminal, or `columns`."""
    return fit(text, columns or terminal_width(), home=user_home(), indent=indent)


def fit(text: str, width: int, *, home: str = "", indent: int | None = None) -> str:
    """`text` in lines of at most `width` characters. Continuation lines are indented by `indent`; None: under the
    text of the line. A path that is longer than a line loses its middle; a word and a command in backticks stay whole.

    `home`: the user's home directory, which becomes `~`; "": none is replaced.
    """
    return "\n".join(_fit_line(with_tilde(line, home), max(width, NARROWEST), indent) for line in text.split("\n"))


def _fit_line(line: str, width: int, indent: int | None) -> str:
    if len(line) <= width:
        return line
    import textwrap

    lead = re.match(r"\s*(?:→ |\d\d:\d\d:\d\d  )?", line)
    assert lead is not None  # it matches the empty text
    hanging = " " * min(len(lead[0]) if indent is None else indent, width // 2)
    quoted = "".join(_QUOTED.findall(line))
    words = [
        shorten_middle(word, width - len(hanging)) if "/" in word and word not in quoted else word
        for word in line[len(lead[0]) :].split(" ")
    ]
    return textwrap.fill(
        " ".join(words),
        width,
        initial_indent=lead[0],
        subsequent_indent=hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )


def with_tilde(text: str, home: str) -> str:
    """`text` with `~` for the user's home directory at the start of a path.

    >>> with_tilde("see /home/ann/training and /x/home/ann", "/home/ann")
    'see ~/training and /x/home/ann'
    """
    if len(home) < 2 or home not in text:
        return text
    return re.sub(rf"(?<![\w./'\"~-]){re.escape(home)}(?=/|[\s,;:)]|$)", "~", text)


def shorten_middle(text: str, width: int) -> str:
    """`text` without its middle, if it is longer than `width`.

    >>> shorten_middle("/srv/training/versions/v001/model.safetensors", 30)
    '/srv/training/…del.safetensors'
    """
    if len(text) <= width:
        return text
    end = max(1, (width - 1) * 17 // 30)
    return f"{text[: max(0, width - 1 - end)]}…{text[-end:]}"


def column_widths(cells: Sequence[Sequence[str]], width: int, *, gap: int = 2) -> list[int] | None:
    """The widths of the columns of a table that fits into `width`; None: it does not fit. The widest columns become
    narrower, but no narrower than their longest word; a path may lose its middle.

    >>> column_widths([["id-of-a-thing", "a note of many words"], ["x", "y"]], 30)
    [13, 15]
    """
    columns = [*zip(*cells, strict=True)]
    widths = [max(map(len, column)) for column in columns]
    least = [max(_least(cell) for cell in column) for column in columns]
    while sum(widths) + gap * (len(widths) - 1) > width:
        loose = [place for place, each in enumerate(widths) if each > least[place]]
        if not loose:
            return None
        widths[max(loose, key=widths.__getitem__)] -= 1
    return widths


def _least(cell: str) -> int:
    words = cell.split(" ")
    return max(min(len(word), SHORTEST) if "/" in word or len(word) > LONGEST_ID else len(word) for word in words)


def cell_lines(text: str, width: int) -> str:
    """The text of a cell in lines of at most `width`: it breaks between words, and a longer word loses its middle."""
    import textwrap

    if len(text) <= width:
        return text
    words = " ".join(shorten_middle(word, width) for word in text.split(" "))
    return "\n".join(textwrap.wrap(words, width, break_long_words=False, break_on_hyphens=False))
