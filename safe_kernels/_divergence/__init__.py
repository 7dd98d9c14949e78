"""What `kl` and `linear_kl` share: options, masks, and the divergence of a row of logits in PyTorch and in Triton."""
