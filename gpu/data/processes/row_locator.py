"""Find the steps that train given rows: `python -P -m gpu.data.processes.row_locator`, with `LocateRows` as JSON
argument.

The plan follows from the lengths of the rows in tokens. The home's cache has them, else the file is encoded again into
a scratch directory; the home is only read. Prints `Locations` or a `Refusal` as one line of JSON.
"""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from events.settings import ModelSettings
from gpu.data.plan.cache import CachedTokens, cache_name, token_cache
from gpu.data.plan.prepare import check_bytes, encode_file, plan_batches
from gpu.data.processes.encoder_pool import core_count, preparation_context
from gpu.data.template.fingerprint import tokenizer_sha256
from gpu.errors import PlanChanged, WorkerError
from gpu.ipc.protocol import Located, LocateRows, Locations, TrainedJob, run_request
from gpu.model.tokenizer import load_limits, load_tokenizer


def locate(order: LocateRows) -> Locations:
    """Return the steps for each file. A file that cannot be planned is reported as a problem of that file."""
    with tempfile.TemporaryDirectory(prefix="keepstep-") as scratch:
        found = []
        for trained in order.trained:
            try:
                found.append(_locate_lines(Path(order.home), trained, Path(scratch)))
            except (WorkerError, OSError) as error:
                found.append(Located(problem=" ".join(str(error).split())))
        return Locations(located=tuple(found))


def _locate_lines(home: Path, trained: TrainedJob, scratch: Path) -> Located:
    cached = _load_tokens(home, trained, scratch)
    batches = plan_batches(cached, trained.settings)
    epochs = range(1, batches.epochs + 1)
    steps = tuple(
        tuple(sorted({batches.step_of(row, epoch) for epoch in epochs for row in cached.tokens.rows_on_line(line)}))
        for line in trained.lines
    )
    return Located(batches_sha256=batches.sha256, steps=steps)


def _load_tokens(home: Path, trained: TrainedJob, scratch: Path) -> CachedTokens:
    """Raises PlanChanged, DataChanged, ModelUnusable, RowRejected, StorageFailed, EncoderLost, OSError."""
    cache = token_cache(home, scratch)
    limits = load_limits(trained.settings.model, home)
    name = cache_name(trained.job, trained.tokenizer_sha256, trained.settings, limits)
    if (cached := cache.find(name)) is not None:
        return cached
    tokenizer, sha256 = _tokenizer(trained.settings.model, home)
    if sha256 != trained.tokenizer_sha256:
        model = trained.settings.model.path
        raise PlanChanged(f"the tokenizer or the chat template of {model} has changed since the file was trained")
    context = preparation_context(home, trained.settings, tokenizer, sha256, cache, core_count(), records=False)
    path = home / "data" / f"{trained.job}.jsonl"
    check_bytes(path, trained.job)
    return encode_file(path, trained.job, trained.settings, context)


@cache
def _tokenizer(settings: ModelSettings, home: Path) -> tuple[Any, str]:
    tokenizer = load_tokenizer(settings, home)
    return tokenizer, tokenizer_sha256(tokenizer)


def main() -> None:
    """Carry out the order on the command line."""
    run_request(LocateRows, locate)


if __name__ == "__main__":
    main()
