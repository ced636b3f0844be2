"""Check the questions of a home: the files in evaluation/."""

from __future__ import annotations

from cli.errors import UserError
from cli.home.paths import Home

SHOWN = 20
"""Problems in a message: as many as fit on a screen."""

ADVICE = "correct the rows; docs/guides/did-it-get-better.md shows what a row has"


def check_questions(home: Home) -> list[str]:
    """Return a line about the questions, if there are any. Raises UserError with the problems of all files."""
    from gpu.evaluation.question_files import read_questions

    try:
        found = read_questions(home.root, storage=home.storage)
    except OSError as error:
        raise UserError(f"the questions in {home.questions} cannot be read: {error.strerror}", ADVICE) from error
    if found.problems:
        lines = [each.text for each in found.problems[:SHOWN]]
        if len(found.problems) > SHOWN:
            lines.append(f"and {len(found.problems) - SHOWN} more")
        head = f"questions that are not asked ({len(found.questions):,} others are):"
        raise UserError("\n  ".join((head, *lines)), ADVICE)
    return [f"all {len(found.questions):,} questions in {home.questions} can be asked"] if found.questions else []
