"""FLOP formulas of the operators, given to PyTorch's counter when that is imported.

`torch.utils.flop_counter` imports Triton, which `import safe_kernels` must not: it takes half a second, and what Triton
reads from the environment when it is imported could not be set any more. So where the counter is not there yet, an
import hook registers the formulas as soon as it is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_COUNTER = "torch.utils.flop_counter"
_formulas: dict[Any, Callable[..., int]] = {}


def flop_formula(operator: Any) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Decorator: what the function gives for the shapes of an operator's arguments is what PyTorch's counter counts.

    Args:
        operator: as `torch.ops` has it. The function takes its arguments, of tensors the shapes, and `out_shape`.
    """

    def register(formula: Callable[..., int]) -> Callable[..., int]:
        _formulas[operator] = formula
        if _COUNTER in sys.modules:
            sys.modules[_COUNTER].register_flop_formula(operator)(formula)
        return formula

    return register


class _Finder(MetaPathFinder):
    """Finds the counter where it is, with a loader that registers."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname == _COUNTER else None
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    """Loads the counter, then registers the formulas."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        for operator, formula in _formulas.items():
            module.register_flop_formula(operator)(formula)


if _COUNTER not in sys.modules:
    sys.meta_path.insert(0, _Finder())
