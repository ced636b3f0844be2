"""Which steps learned a row: `python -P -m gpu.data.plan.row_locator`, with `LocateRows` as JSON for its only
argument.

What a plan is made of are the lengths of the rows in tokens. They are in the home's cache, or the file is encoded once
more, into a place of its own; the home is only read. Prints `Locations` or a `Refusal` as one line of JSON.
"""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from events.settings import ModelSettings
from gpu.data.encode.encoder_pool import core_count, preparation
from gpu.data.encode.rows import tokenizer_sha256
from gpu.data.plan.cache import Kept, cache_name, token_cache
from gpu.data.plan.prepare import check_bytes, encoded, planned
from gpu.errors import PlanChanged, WorkerError
from gpu.ipc.protocol import Located, LocateRows, Locations, TrainedJob, run_request
from gpu.model.tokenizer import load_limits, load_tokenizer


def locate(order: LocateRows) -> Locations:
    """A file that cannot be planned is no failure: it is said of that file."""
    with tempfile.TemporaryDirectory(prefix="keepstep-") as scratch:
        found = []
        for trained in order.trained:
            try:
                found.append(_located(Path(order.home), trained, Path(scratch)))
            except (WorkerError, OSError) as error:
                found.append(Located(problem=" ".join(str(error).split())))
        return Locations(located=tuple(found))


def _located(home: Path, trained: TrainedJob, scratch: Path) -> Located:
    kept = _kept(home, trained, scratch)
    batches = planned(kept, trained.settings)
    epochs = range(1, batches.epochs + 1)
    steps = tuple(
        tuple(sorted({batches.step_of(row, epoch) for epoch in epochs for row in kept.tokens.of_line(line)}))
        for line in trained.lines
    )
    return Located(batches_sha256=batches.sha256, steps=steps)


def _kept(home: Path, trained: TrainedJob, scratch: Path) -> Kept:
    """Raises PlanChanged, DataChanged, ModelUnusable, RowRejected, StorageFailed, EncoderLost, OSError."""
    cache = token_cache(home, scratch)
    limits = load_limits(trained.settings.model, home)
    name = cache_name(trained.job, trained.tokenizer_sha256, trained.settings, limits)
    if (kept := cache.find(name)) is not None:
        return kept
    tokenizer, sha256 = _tokenizer(trained.settings.model, home)
    if sha256 != trained.tokenizer_sha256:
        model = trained.settings.model.path
        raise PlanChanged(f"the tokenizer or the chat template of {model} is not the one that it was learned with")
    how = preparation(home, trained.settings, tokenizer, sha256, cache, core_count(), records=False)
    path = home / "data" / f"{trained.job}.jsonl"
    check_bytes(path, trained.job)
    return encoded(path, trained.job, trained.settings, how)


@cache
def _tokenizer(settings: ModelSettings, home: Path) -> tuple[Any, str]:
    tokenizer = load_tokenizer(settings, home)
    return tokenizer, tokenizer_sha256(tokenizer)


def main() -> None:
    """Carry out the order on the command line."""
    run_request(LocateRows, locate)


if __name__ == "__main__":
    main()
