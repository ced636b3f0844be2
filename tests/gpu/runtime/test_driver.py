"""A driver's trouble is known by its words."""

from __future__ import annotations

import pytest

from gpu.runtime.driver import is_driver_error, names_driver, names_memory
from gpu.worker import classify_failure


class AcceleratorError(RuntimeError):
    """As torch names it."""


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (RuntimeError("CUDA error: an illegal memory access was encountered"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), True),
        (RuntimeError("Found no NVIDIA driver on your system."), True),
        (RuntimeError("No CUDA GPUs are available"), True),
        (AcceleratorError("unspecified launch failure"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("CUDA error in a text that is quoted"), False),
    ],
)
def test_an_error_of_the_driver(error: Exception, is_one: bool) -> None:
    """After one the process is not to be trusted any more: its context on the card is gone."""
    assert is_driver_error(error) is is_one
    assert classify_failure(error) == (("driver" if is_one else "code"), False)


@pytest.mark.parametrize(
    ("words", "driver", "memory"),
    [
        ("NVRM: Xid 79, GPU has fallen off the bus", True, False),
        ("terminate called after throwing an instance of 'std::bad_alloc'", False, True),
        ("Traceback …\nMemoryError", False, True),
        ("RuntimeError: CUDA error: out of memory", True, True),
        ("RuntimeError: cuDNN error: CUDNN_STATUS_ALLOC_FAILED", True, True),
        ("OpenBLAS error: Memory allocation still failed after 10 retries, giving up.", False, True),
        ("Fatal Python error: Segmentation fault", False, False),
    ],
)
def test_last_words(words: str, driver: bool, memory: bool) -> None:
    """Where both are named, memory is what counts: a reader looks for that first."""
    assert names_driver(words) is driver
    assert names_memory(words) is memory
