"""`kl_divergence`: divergence between student and teacher, from their logits."""

from safe_kernels.kl.api import kl_divergence

__all__ = ["kl_divergence"]
