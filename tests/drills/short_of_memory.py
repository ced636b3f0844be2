"""A daemon on a machine whose memory is what a file of the home says: nobody fills a real one for a test.

python -P -m tests.drills.short_of_memory HOME MODULE

`run/memory.json`: {"total": …, "available": …} in bytes. Everything else is real.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil

from tests.harness.daemon import main

FIGURES = Path(sys.argv[1]) / "run" / "memory.json"


def said() -> SimpleNamespace:
    """As `psutil.virtual_memory`."""
    return SimpleNamespace(**json.loads(FIGURES.read_text(encoding="utf-8")))


if __name__ == "__main__":
    vars(psutil)["virtual_memory"] = said
    main()
