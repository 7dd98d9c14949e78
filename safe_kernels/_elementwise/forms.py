"""In what tensors may differ from those that a launch was prepared for."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

Form = Callable[[Tensor], Any]
GRAD_FORMS: list[Form] = [operator.attrgetter("dtype"), Tensor.stride]
"""What a parameter's gradient may differ in: PyTorch takes none of another shape or device than the parameter's."""

FORMS: list[Form] = [*GRAD_FORMS, *map(operator.attrgetter, ("shape", "device"))]


def describe_forms(tensors: Sequence[Tensor], kinds: Sequence[Form] = FORMS) -> list[list[Any]]:
    """What a launch is prepared for: where it is the same, only addresses have to be looked at."""
    return [list(map(kind, tensors)) for kind in kinds]
