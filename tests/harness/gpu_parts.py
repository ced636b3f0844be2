"""Parts of the GPU check that end in every way: `python -m tests.harness.gpu_parts PART DEVICE [--tiny] DIRECTORY`."""

from __future__ import annotations

import json
import sys
import time


def say(**fact: object) -> None:
    print(json.dumps(fact), flush=True)


def main() -> None:
    part = sys.argv[1]
    if part == "machine":
        say(machine={"device": "none"})
        say(check="one", result="passed", seconds=0.1, note="a | b")
    elif part == "exact":
        say(check="before the crash", result="passed", seconds=0.1, note="")
        raise SystemExit("it crashed")
    elif part == "evaluation":
        say(check="before the hang", result="passed", seconds=0.1, note="")
        time.sleep(60)
    elif part == "memory":
        say(check="real memory", result="not run", seconds=0.0, note="needs CUDA")
    elif part == "speed-qwen3":
        say(training="a model", loop="keepstep", tokens_per_s=1234.5, share=0.5, peak_bytes=2_500_000_000)
        say(check="both", result="passed", seconds=1.0, note="")


if __name__ == "__main__":
    main()
