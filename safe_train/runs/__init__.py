"""A run on disk: its files, checkpoints, metrics, lock, and the environment it was made in."""
