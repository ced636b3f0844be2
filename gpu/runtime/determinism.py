"""The same bits every time: what is switched on for it, what is seeded from what, and what decides the bits.

No generator's state is ever saved. Before each micro-batch all generators are seeded from (seed, global step,
micro-batch), so a step run again draws what it drew the first time, whatever ran before it in this process.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import random
from pathlib import Path

import numpy as np
import torch

from gpu.data.processes.encoder_pool import core_count
from gpu.runtime.cpu_features import cpu_model

NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")

LIBRARIES = ("torch", "transformers", "peft", "safetensors", "tokenizers")


def enable_determinism(threads: int) -> torch.device:
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
    # With its number: tensors carry one, and what compares devices takes "cuda" and "cuda:0" for two.
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def seed_generators(*parts: object) -> None:
    """Seed every generator that a model may draw from by the hash of `parts`."""
    seed = int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big")
    # Not torch.manual_seed: it asks every kind of device whether it is there, at each micro-batch.
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)


def hardware(device: torch.device) -> dict[str, str]:
    """Return the processor that computes, and the torch that computes on it."""
    found = {
        "torch": str(torch.__version__),  # with the build: 2.13.0+cpu computes other bits than 2.13.0+cu130
        "device": device.type,
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "cpu": cpu_model(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        found |= {
            "compute_capability": f"{major}.{minor}",
            "cuda": str(torch.version.cuda),
            "cudnn": str(torch.backends.cudnn.version()),
            "cublas_workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG", "none"),
            "driver": nvidia_driver(),
        }
    return found


def nvidia_driver(path: Path = NVIDIA_DRIVER) -> str:
    """Return the version of the GPU's driver, as its kernel module says it; "unknown" where it does not."""
    try:
        first = path.read_text(encoding="ascii", errors="replace").partition("\n")[0]
    except OSError:
        return "unknown"
    return next((word for word in first.split() if word[0].isdigit() and "." in word), "unknown")


def environment(device: torch.device, libraries: tuple[str, ...] = ()) -> dict[str, str]:
    """What decides the bits of a step, besides data, settings and weights. `libraries`: more than every model needs."""
    versions = {name: importlib.metadata.version(name) for name in (*LIBRARIES, *libraries)}
    return {
        "python": platform.python_version(),
        **versions,
        **hardware(device),
        "threads": str(torch.get_num_threads()),
        "deterministic": str(torch.are_deterministic_algorithms_enabled()).lower(),
    }
