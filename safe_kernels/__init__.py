"""Retention operations for continual fine-tuning, exact and fast: Triton on the GPU, PyTorch elsewhere.

The package needs torch alone (and triton where there is a GPU). Three families:

- `kl_divergence`, `linear_kl_divergence`: distance between a student's and a teacher's next-token distributions;
  `answer_mask`: the tokens that count,
- `fisher_diagonal_`, `squared_gradient_ema_`, `ewc_penalty_`: elastic weight consolidation,
- `project_null_space_` and the bases it projects with: `gram_basis`, `LinearGradientGram`, `FrequentDirections`,
  `covariance_basis`.

A trailing underscore: an argument is changed in place. The operations on many tensors also come prepared, for tensors
that stay from step to step: `EwcPlan`, `SquaredGradientEmaPlan`, `ProjectionPlan`. `backend_info` tells which
implementation runs, and why.
"""

from safe_kernels._backend import BackendInfo, BackendUnavailableError, backend_info
from safe_kernels._divergence.masks import answer_mask
from safe_kernels._tables import GraphCaptureError
from safe_kernels.bases import Basis, FrequentDirections, LinearGradientGram, covariance_basis, gram_basis
from safe_kernels.ewc_penalty import EwcPlan, ewc_penalty_
from safe_kernels.fisher_diagonal import fisher_diagonal_
from safe_kernels.kl import kl_divergence
from safe_kernels.linear_kl import linear_kl_divergence
from safe_kernels.project_null_space import ProjectionPlan, project_null_space_
from safe_kernels.squared_gradient_ema import SquaredGradientEmaPlan, squared_gradient_ema_

__all__ = [
    "BackendInfo",
    "BackendUnavailableError",
    "Basis",
    "EwcPlan",
    "FrequentDirections",
    "GraphCaptureError",
    "LinearGradientGram",
    "ProjectionPlan",
    "SquaredGradientEmaPlan",
    "answer_mask",
    "backend_info",
    "covariance_basis",
    "ewc_penalty_",
    "fisher_diagonal_",
    "gram_basis",
    "kl_divergence",
    "linear_kl_divergence",
    "project_null_space_",
    "squared_gradient_ema_",
]
