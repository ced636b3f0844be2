"""The same bits every time: what is switched on for it, what is seeded from what, and what decides the bits.

No generator's state is ever saved. Before each micro-batch all generators are seeded from (seed, global step,
micro-batch), so a step run again draws what it drew the first time, whatever ran before it in this process.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import random

import numpy as np
import torch

from gpu.encoders import core_count

LIBRARIES = ("torch", "transformers", "peft", "safetensors", "tokenizers")


def be_exact(threads: int) -> torch.device:
    """Make this process's arithmetic repeatable, with `threads` CPU threads (0: one for each core).

    Returns the device to train on.
    """
    torch.set_num_threads(threads or core_count())
    torch.use_deterministic_algorithms(True)
    # Torch would now also fill every new tensor with NaN, against operations that read memory before writing it. Those
    # would be bugs; here they show as a step that does not repeat (`divergence_detected`), and the filling costs time.
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.backends.cudnn.benchmark = False  # picks an algorithm by a race, each time anew
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def seed_generators(*parts: object) -> None:
    """Seed every generator that a model may draw from by the hash of `parts`."""
    seed = int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big")
    # Not torch.manual_seed: it asks every kind of device whether it is there, at each micro-batch.
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)


def environment(device: torch.device, libraries: tuple[str, ...] = ()) -> dict[str, str]:
    """What decides the bits of a step, besides data, settings and weights. `libraries`: more than every model needs."""
    versions = {name: importlib.metadata.version(name) for name in (*LIBRARIES, *libraries)}
    return {
        "python": platform.python_version(),
        **versions,
        "torch": str(torch.__version__),  # with the build: 2.13.0+cpu computes other bits than 2.13.0+cu130
        "device": device.type,
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "threads": str(torch.get_num_threads()),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "deterministic": str(torch.are_deterministic_algorithms_enabled()).lower(),
    }
