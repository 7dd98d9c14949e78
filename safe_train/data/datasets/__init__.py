"""Readers of data sets: one module a format."""
