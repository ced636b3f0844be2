"""Draws the diagrams in `explanation/state-machine.md` from `core/transitions.py`.

    python docs/make_state_diagrams.py           rewrite the page
    python docs/make_state_diagrams.py --check   exit 1 if it is not what the tables say

What stands between the markers `<!-- drawn: … -->` and `<!-- /drawn -->` is replaced; the prose around it is written by
hand.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path

from core.transitions import CONSOLIDATION, DAEMON, ENDS_ATTEMPT, JOB, VERSION

PAGE = Path(__file__).parent / "explanation" / "state-machine.md"

Table = Mapping[str, Mapping[str, str]]


def diagram(table: Table, first: str) -> str:
    """A mermaid state diagram: one arrow for each pair of statuses, with every kind that leads along it."""
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {first}"]
    for status, row in table.items():
        arrows: dict[str, list[str]] = {}
        for kind, after in row.items():
            arrows.setdefault(after, []).append(kind)
        lines += [f"    {status} --> {after}: {', '.join(kinds)}" for after, kinds in arrows.items()]
        if not row:
            lines.append(f"    {status} --> [*]")
    return "\n".join([*lines, "```"])


def cells(table: Table) -> str:
    """The same as a table: a row for each event kind, a column for each status that any of them leaves."""
    kinds = list(dict.fromkeys(kind for row in table.values() for kind in row))
    left = [status for status, row in table.items() if row]
    lines = [f"| event | {' | '.join(left)} |", "| --- |" + " --- |" * len(left)]
    rows = [f"| `{kind}` | {' | '.join(table[status].get(kind, '') for status in left)} |" for kind in kinds]
    return "\n".join([*lines, *rows])


def drawn() -> Mapping[str, str]:
    """Everything that is drawn, by the name in its marker."""
    return {
        "job": f"{diagram(JOB, 'queued')}\n\n{cells(JOB)}",
        "consolidation": f"{diagram(CONSOLIDATION, 'started')}\n\n{cells(CONSOLIDATION)}",
        "version": f"{diagram(VERSION, 'published')}\n\n{cells(VERSION)}",
        "daemon": f"{diagram(DAEMON, 'off')}\n\n{cells(DAEMON)}",
        "ends": ", ".join(f"`{kind}`" for kind in sorted(ENDS_ATTEMPT)),
    }


def page(text: str) -> str:
    """`text` with everything between markers drawn again. Raises KeyError for a marker of an unknown name."""
    pictures = drawn()
    return re.sub(
        r"(<!-- drawn: (\w+) -->\n).*?(\n<!-- /drawn -->)",
        lambda match: f"{match[1]}{pictures[match[2]]}{match[3]}",
        text,
        flags=re.DOTALL,
    )


def main() -> int:
    """Rewrite the page, or check it."""
    text = PAGE.read_text(encoding="utf-8")
    fresh = page(text)
    if sys.argv[1:] == ["--check"]:
        return int(fresh != text)
    PAGE.write_text(fresh, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
