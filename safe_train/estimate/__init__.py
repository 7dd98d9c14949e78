"""The dry run: parameters, memory, arithmetic and hours of a run that has not been started."""

from safe_train.estimate.fitting import require_fit
from safe_train.estimate.run_estimate import Plan, plan_run
from safe_train.estimate.table import format_plan

__all__ = ["Plan", "format_plan", "plan_run", "require_fit"]
