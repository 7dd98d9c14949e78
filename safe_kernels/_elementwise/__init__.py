"""What `ewc_penalty` and `squared_gradient_ema` share: one launch over many tensors, element by element."""
