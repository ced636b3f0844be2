"""Many seeds: `python -m tests.simulation --seeds 100000`, or one of them shown step by step with `--show`."""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import sys
import time
import traceback
from collections import Counter

from tests.simulation.runs import run_seed


def play(seed: int) -> tuple[int, Counter[str], str]:
    """One seed: what happened in it, and what went wrong, if anything did."""
    try:
        return seed, run_seed(seed).counts, ""
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what was looked for
        place = traceback.extract_tb(error.__traceback__)[-1]
        return seed, Counter(), f"{type(error).__name__}: {error}\n    {place.filename}:{place.lineno} {place.line}"


def main() -> None:
    """For `make simulate`."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many")
    parser.add_argument("--first", type=int, default=1, help="the first of them")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--failures", type=int, default=10, help="stop after so many")
    parser.add_argument("--show", action="store_true", help="say what happens, for one seed")
    arguments = parser.parse_args()
    if arguments.show:
        print(dict(run_seed(arguments.first, print).counts))
        return
    logging.basicConfig(handlers=[logging.NullHandler()])  # what each daemon logs belongs to one seed with --show
    began = time.monotonic()
    counts: Counter[str] = Counter()
    done = failed = 0
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    with multiprocessing.Pool(arguments.jobs) as pool:
        for seed, happened, problem in pool.imap_unordered(play, seeds, chunksize=8):
            done += 1
            counts.update(happened)
            if problem:
                failed += 1
                print(f"seed {seed}: {problem}\n    python -m tests.simulation --show --first {seed}", flush=True)
                if failed >= arguments.failures:
                    break
    seconds = time.monotonic() - began
    print(f"{done} seeds in {seconds:.0f} s, {done / seconds:.1f} seeds/s, {failed} failed")
    print(", ".join(f"{count} × {what}" for what, count in counts.most_common()))
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
