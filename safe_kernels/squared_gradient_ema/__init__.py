"""`squared_gradient_ema_` and its plan: moving average of squared gradients."""

from safe_kernels.squared_gradient_ema.api import squared_gradient_ema_
from safe_kernels.squared_gradient_ema.plan import SquaredGradientEmaPlan

__all__ = ["SquaredGradientEmaPlan", "squared_gradient_ema_"]
