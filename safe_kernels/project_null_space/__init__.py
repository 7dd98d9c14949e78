"""`project_null_space_` and its plan: keep updates out of protected subspaces."""

from safe_kernels.project_null_space.api import project_null_space_
from safe_kernels.project_null_space.plan import ProjectionPlan

__all__ = ["ProjectionPlan", "project_null_space_"]
