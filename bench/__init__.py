"""Benchmarks of the kernels against their peers and the hardware's limit."""
