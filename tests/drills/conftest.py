"""What the drills show goes to `docs/explanation/supervision.md`, if the flag is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.drills.drill import Drill, Row

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "supervision.md"
BEGIN, END = "<!-- drills -->\n", "<!-- /drills -->"


def rows_of(page: str) -> dict[str, Row]:
    """The rows that stand there, by their drill."""
    lines = page.partition(BEGIN)[2].partition(END)[0].splitlines()[2:]
    rows = [Row(*(cell.strip() for cell in line.strip("|").split("|"))) for line in lines]
    return {row.drill: row for row in rows}


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Callable[[Row], None]:
    """Keeps a row: writes it into the page, if `--write-drills` was given."""

    def keep(row: Row) -> None:
        assert not any("|" in cell for cell in row)
        print(" | ".join(row))
        if not request.config.getoption("--write-drills"):
            return
        page = PAGE.read_text(encoding="utf-8")
        rows = rows_of(page) | {row.drill: row}
        table = ["| drill | detected | after | lost | what it did |", "| --- | --- | --- | --- | --- |"]
        table += [f"| {' | '.join(each)} |" for each in rows.values()]
        head, _, rest = page.partition(BEGIN)
        PAGE.write_text(head + BEGIN + "\n".join(table) + "\n" + END + rest.partition(END)[2], encoding="utf-8")

    return keep


@pytest.fixture
def drills(tmp_path: Path) -> Iterator[Callable[..., Drill]]:
    """`drills(a="ok ok")`: one with the fake worker; `drills()`: one with the real one."""
    made: list[Drill] = []

    def make(**files: str) -> Drill:
        root = tmp_path / f"home-{len(made)}"
        made.append(Drill.fake(root, **files) if files else Drill.real(root))
        return made[-1]

    yield make
    for drill in made:
        drill.close()


@pytest.fixture(scope="session")
def calm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the real worker trains from the two files if nobody disturbs it: SHA-256 by file."""
    drill = Drill.real(tmp_path_factory.mktemp("calm") / "home")
    try:
        drill.start()
        drill.ended()
        return drill.weights()
    finally:
        drill.close()
