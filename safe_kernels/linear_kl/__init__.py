"""`linear_kl_divergence`: divergence between student and teacher, from hidden states under a frozen head."""

from safe_kernels.linear_kl.api import linear_kl_divergence

__all__ = ["linear_kl_divergence"]
