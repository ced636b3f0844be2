"""`python -P -m gpu.artifacts.tensor_check DIRECTORY`: check that every tensor of a checkpoint is finite.

It is a separate process because the shell never loads torch. It prints the problem as a JSON string, or null.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from gpu.artifacts.manifest import read_manifest
from gpu.errors import CheckpointBroken
from gpu.runtime.library_paths import library_path


def find_non_finite(directory: Path) -> str | None:
    """Return which tensor of the checkpoint in `directory` is not finite or cannot be loaded; None if all are good.

    Sizes, SHA-256, names and shapes are not checked here: the caller verifies the checkpoint first.
    """
    try:
        files = read_manifest(directory).shapes_by_file()
    except CheckpointBroken as error:
        return error.problem
    if not files:
        return None  # spares the import of torch
    import torch
    from safetensors import SafetensorError, safe_open

    for name in files:
        try:
            with safe_open(library_path(directory / name), framework="pt") as file:  # one tensor in memory at a time
                for key in file.keys():  # noqa: SIM118 - it is no mapping
                    if not torch.isfinite(file.get_tensor(key)).all():
                        return f"{name}: {key} is not finite"
        except (SafetensorError, OSError) as error:
            return f"{name} cannot be read: {error}"
    return None


if __name__ == "__main__":
    print(json.dumps(find_non_finite(Path(sys.argv[1]))))
