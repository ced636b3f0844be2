"""What GPU drivers and their libraries say when something is wrong with them, or with the memory they give."""

from __future__ import annotations

import re

DRIVER = re.compile(
    r"CUDA (error|driver)|CUDNN_STATUS|cuDNN error|CUBLAS_STATUS|CUSOLVER_STATUS|NCCL (error|WARN)|ncclSystemError"
    r"|NVIDIA driver|no CUDA-capable device|No CUDA GPUs are available|HIP error|hipError|Xid \d+|NVML"
    r"|nvidia-smi has failed|uncorrectable ECC",
)
"""As torch, CUDA's libraries and the kernel module write it."""

MEMORY = re.compile(
    r"CUDA out of memory|CUDA error: out of memory|HIP out of memory|DefaultCPUAllocator|std::bad_alloc"
    r"|^MemoryError|Cannot allocate memory|Memory allocation still failed|failed to map segment"
    r"|CU(BLAS|DNN|SOLVER|SPARSE)_STATUS_ALLOC_FAILED|OutOfMemoryError",
    re.MULTILINE,
)

DRIVER_ERRORS = frozenset({"AcceleratorError", "CudaError"})
"""Torch's own types, by name: this is asked where torch may not be loaded."""


def is_driver_error(error: BaseException) -> bool:
    """Whether `error` comes from the driver or from the card, and not from what was asked of it."""
    return type(error).__name__ in DRIVER_ERRORS or (
        isinstance(error, RuntimeError) and DRIVER.search(str(error)) is not None
    )


def names_driver(text: str) -> bool:
    """Whether the last words of a process are the driver's."""
    return DRIVER.search(text) is not None


def names_memory(text: str) -> bool:
    """Whether the last words of a process are that it got no memory."""
    return MEMORY.search(text) is not None
