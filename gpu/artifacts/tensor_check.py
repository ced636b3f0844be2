"""`python -P -m gpu.artifacts.tensor_check DIRECTORY`: load every tensor of a checkpoint and see that all of it are
numbers.

A process of its own, because the shell never loads torch. It prints what is wrong as one JSON string, or null.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from gpu.artifacts.manifest import read_manifest
from gpu.errors import CheckpointBroken
from gpu.runtime.library_paths import library_path


def problem_of(directory: Path) -> str | None:
    """Why what the checkpoint in `directory` holds cannot be trained on; None if it can.

    Sizes, SHA-256, names and shapes are not looked at here: `gpu.artifacts.manifest.problem_of` does that first.
    """
    try:
        files = read_manifest(directory).shapes_by_file()
    except CheckpointBroken as error:
        return error.problem
    if not files:
        return None  # nothing that torch is needed for
    import torch
    from safetensors import SafetensorError, safe_open

    for name in files:
        try:
            with safe_open(library_path(directory / name), framework="pt") as file:  # one tensor in memory at a time
                for key in file.keys():  # noqa: SIM118 - it is no mapping
                    if not torch.isfinite(file.get_tensor(key)).all():
                        return f"{name}: {key} holds what is not a number"
        except (SafetensorError, OSError) as error:
            return f"{name} cannot be read: {error}"
    return None


if __name__ == "__main__":
    print(json.dumps(problem_of(Path(sys.argv[1]))))
