"""`ewc_penalty_` and its plan: elastic weight consolidation."""

from safe_kernels.ewc_penalty.api import ewc_penalty_
from safe_kernels.ewc_penalty.plan import EwcPlan

__all__ = ["EwcPlan", "ewc_penalty_"]
