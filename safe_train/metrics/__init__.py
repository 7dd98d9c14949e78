"""Measures of answers and the uncertainty of their means."""
