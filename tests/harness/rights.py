"""Root without the right to read everything: so that a file of mode 000 is one that may not be read, as for anybody."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

_VERSION_3 = 0x20080522
_DAC_OVERRIDE, _DAC_READ_SEARCH = 1, 2


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


@contextmanager
def ordinary_rights() -> Iterator[None]:
    """In this thread, and in threads that it starts, file modes hold for root too (capabilities(7))."""
    if os.geteuid() != 0:
        yield
        return
    libc, header, before = ctypes.CDLL(None, use_errno=True), _Header(_VERSION_3, 0), (_Data * 2)()
    if libc.capget(ctypes.byref(header), before) != 0:
        pytest.skip("this system has no capabilities")
    lowered = (_Data * 2)(*before)
    lowered[0] = _Data(
        before[0].effective & ~(1 << _DAC_OVERRIDE | 1 << _DAC_READ_SEARCH), before[0].permitted, before[0].inheritable
    )
    if libc.capset(ctypes.byref(header), lowered) != 0:
        pytest.skip("root's rights cannot be lowered here")
    try:
        yield
    finally:
        assert libc.capset(ctypes.byref(header), before) == 0
