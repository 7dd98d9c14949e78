"""Data sets: one reader each, their registry, and the records and issues that readers return."""
