"""A daemon on a machine whose memory is what a file of the home says: nobody fills a real one for a test.

python -P -m tests.drills.short_of_memory HOME MODULE

`run/meminfo` has the form of `/proc/meminfo`. Everything else is real.
"""

from __future__ import annotations

import sys
from pathlib import Path

from gpu.runtime import memory_limits
from tests.harness.daemon import main

if __name__ == "__main__":
    memory_limits.MEMINFO = Path(sys.argv[1]) / "run" / "meminfo"
    main()
