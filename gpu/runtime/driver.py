"""Recognize errors of GPU drivers, and messages that memory ran out, by their text. No torch."""

from __future__ import annotations

import re

DRIVER = re.compile(
    r"CUDA (error|driver)|CUDNN_STATUS|cuDNN error|CUBLAS_STATUS|CUSOLVER_STATUS|NCCL (error|WARN)|ncclSystemError"
    r"|NVIDIA driver|no CUDA-capable device|No CUDA GPUs are available|HIP error|hipError|Xid \d+|NVML"
    r"|nvidia-smi has failed|uncorrectable ECC",
)
"""Messages of torch, CUDA's libraries and the kernel module."""

MEMORY = re.compile(
    r"CUDA out of memory|CUDA error: out of memory|HIP out of memory|DefaultCPUAllocator|std::bad_alloc"
    r"|^MemoryError|Cannot allocate memory|Memory allocation still failed|failed to map segment"
    r"|CU(BLAS|DNN|SOLVER|SPARSE)_STATUS_ALLOC_FAILED|OutOfMemoryError",
    re.MULTILINE,
)

DRIVER_ERRORS = frozenset({"AcceleratorError", "CudaError"})
"""Torch's error types by name: torch may not be loaded here."""


def is_driver_error(error: BaseException) -> bool:
    """True if the driver or the card caused `error`, not the computation."""
    return type(error).__name__ in DRIVER_ERRORS or (
        isinstance(error, RuntimeError) and DRIVER.search(str(error)) is not None
    )


def names_driver(text: str) -> bool:
    """True if the output of a process ends with an error of the driver."""
    return DRIVER.search(text) is not None


def names_memory(text: str) -> bool:
    """True if the output of a process says that memory ran out."""
    return MEMORY.search(text) is not None
