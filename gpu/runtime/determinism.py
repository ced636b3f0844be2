"""Determinism: switch it on, seed the random generators, and describe the environment that decides the bits.

The state of a generator is never saved. Before each micro-batch all generators are seeded from (seed, global step,
micro-batch), so a step that runs again draws the same numbers, whatever ran before it in this process.
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
    # Otherwise torch fills every new tensor with NaN, to expose operations that read memory before writing it. Such a
    # bug shows here as a step that does not repeat (`divergence_detected`), and filling costs time.
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.backends.cudnn.benchmark = False  # it chooses an algorithm by measuring, each time again
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    # With its index: tensors have one, and "cuda" does not equal "cuda:0".
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def seed_generators(*parts: object) -> None:
    """Seed every generator that a model may draw from by the hash of `parts`."""
    seed = int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big")
    # Not torch.manual_seed: at each micro-batch it would look for every kind of device.
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)


def hardware(device: torch.device) -> dict[str, str]:
    """Return the device, its processor and the build of torch."""
    found = {
        "torch": str(torch.__version__),  # with the build: 2.13.0+cpu and 2.13.0+cu130 compute different bits
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
    """Return the version of the GPU's driver from its kernel module; "unknown" if there is none."""
    try:
        first = path.read_text(encoding="ascii", errors="replace").partition("\n")[0]
    except OSError:
        return "unknown"
    return next((word for word in first.split() if word[0].isdigit() and "." in word), "unknown")


def environment(device: torch.device, libraries: tuple[str, ...] = ()) -> dict[str, str]:
    """Return what decides the bits of a step apart from data, settings and weights.

    `libraries`: further libraries that the model needs.
    """
    versions = {name: importlib.metadata.version(name) for name in (*LIBRARIES, *libraries)}
    return {
        "python": platform.python_version(),
        **versions,
        **hardware(device),
        "threads": str(torch.get_num_threads()),
        "deterministic": str(torch.are_deterministic_algorithms_enabled()).lower(),
    }
