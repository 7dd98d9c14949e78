"""Data sets: a reader each, the registry that names them, and the records and issues that readers find."""
