"""Make every processor take the same square roots. Python runs this first in each process of an old home.

AdamW calls `Tensor.sqrt`, and torch calls MKL for that. MKL starts from the processor's own approximation (`rsqrtps`):
one root in six is wrong in its last bit, and not the same ones on Intel and AMD. No environment variable changes that.
NumPy uses the instruction that rounds correctly.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any


def round_roots_correctly(torch: Any) -> None:
    """Replace `Tensor.sqrt`."""
    import numpy as np

    def sqrt(tensor: Any) -> Any:
        return torch.from_numpy(np.asarray(np.sqrt(tensor.detach().numpy())))

    torch.Tensor.sqrt = sqrt


class AfterTorch(importlib.abc.MetaPathFinder):
    """Waits for the first import of torch: most processes never import it."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != "torch":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        loader: Any = spec.loader
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            round_roots_correctly(module)

        loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, AfterTorch())
