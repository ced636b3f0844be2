"""Each row of a file of self-correction names its prompt row, checkpoint, seed and verifier."""

from __future__ import annotations

from collections.abc import Callable

from cli.commands.correction.provenance import provenance_text, read_provenance
from cli.home.paths import Home
from cli.home.snapshot_reader import read_correction
from tests.cli.correction.test_queue_file import correcting as correcting  # a fixture


def test_each_row_says_where_it_is_from(correcting: Home, run: Callable[..., list[str]]) -> None:
    """Own rows with their round, gold rows with their source; rows of other files say nothing."""
    run()
    chart = read_correction(correcting)
    (file,) = chart.files
    assert file.job is not None
    found = [read_provenance(correcting, file.job, line + 1) for line in range(file.rows + file.references)]
    first = chart.rounds[0]
    for place, each in enumerate(found[: file.rows]):
        assert each is not None
        answered = chart.rounds[place]
        assert (each["round"], each["checkpoint"], each["global_step"]) == (
            answered.round,
            answered.checkpoint,
            answered.global_step,
        )
        text = provenance_text(correcting, each)
        assert "a.jsonl:" in text
        assert f"in round {answered.round} after step {answered.global_step} (the first base, last commit step-" in text
        assert text.endswith(f"seed {each['seed']}, verifier normalized)")
    gold = found[-1]
    assert gold is not None
    assert provenance_text(correcting, gold).startswith("self-correction copied it from a.jsonl:")
    assert read_provenance(correcting, first.job, 1) is None
    assert read_provenance(correcting, file.job, 1000) is None
