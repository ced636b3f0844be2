"""An hour of many small files under random faults: `python -m tests.drills.soak --minutes 60 --seed 1`.

The real daemon, the real worker, a tiny model. The same seed draws the same faults; what they hit is a matter of
microseconds. What must hold in the end is in `verdict.py`.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path
from random import Random

from tests.drills.soak import page
from tests.drills.soak.course import Course
from tests.drills.soak.life import SoakLife
from tests.drills.soak.verdict import Verdict, judge


def soak(directory: Path, minutes: float, seed: int) -> tuple[Course, Verdict]:
    """All of it, in an empty directory."""
    life = SoakLife.at(directory / "soaked", Random(seed))
    course = Course(life, 60 * minutes)
    try:
        course.run()
    finally:
        life.close()
    course.say()
    return course, judge(course, directory / "calm", lambda line: print(line, flush=True))


def main() -> None:
    """For `make soak`."""
    parser = argparse.ArgumentParser(prog="python -m tests.drills.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--write", action="store_true", help="write what it shows into docs/explanation/supervision.md")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}, {arguments.minutes:g} minutes", flush=True)
    directory = Path(tempfile.mkdtemp(prefix="keepstep-soak-"))
    try:
        course, verdict = soak(directory, arguments.minutes, arguments.seed)
    except BaseException:
        print(f"everything is as it was left, in {directory}", flush=True)
        raise
    text = page.page_text(course, verdict, arguments.seed)
    print(text, flush=True)
    if arguments.write:
        page.write(text)
    if verdict.wrong:
        sys.exit(f"{len(verdict.wrong)} things are not as they must be; everything is as it was left, in {directory}")
    shutil.rmtree(directory)


if __name__ == "__main__":
    main()
