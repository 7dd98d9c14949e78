"""Keep updates out of protected subspaces: the batched projection, and the bases that it projects with."""

from safe_kernels.null_space.basis import Basis, covariance_basis, gram_basis
from safe_kernels.null_space.linear_gram import LinearGradientGram
from safe_kernels.null_space.plan import ProjectionPlan
from safe_kernels.null_space.projection import project_null_space_
from safe_kernels.null_space.sketch import FrequentDirections

__all__ = [
    "Basis",
    "FrequentDirections",
    "LinearGradientGram",
    "ProjectionPlan",
    "covariance_basis",
    "gram_basis",
    "project_null_space_",
]
