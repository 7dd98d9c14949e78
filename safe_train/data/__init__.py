"""Data sets on disk, the examples that they become, their order, and batches of them."""
