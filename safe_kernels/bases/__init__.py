"""Bases of the subspaces that `project_null_space_` protects."""

from safe_kernels.bases.basis import Basis, covariance_basis, gram_basis
from safe_kernels.bases.frequent_directions import FrequentDirections
from safe_kernels.bases.linear_gradient_gram import LinearGradientGram

__all__ = ["Basis", "FrequentDirections", "LinearGradientGram", "covariance_basis", "gram_basis"]
