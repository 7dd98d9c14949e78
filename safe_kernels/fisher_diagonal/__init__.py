"""`fisher_diagonal_`: diagonal Fisher information of a linear layer."""

from safe_kernels.fisher_diagonal.api import fisher_diagonal_

__all__ = ["fisher_diagonal_"]
