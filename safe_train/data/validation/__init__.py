"""``safe data check``: every file of a data folder, opened."""
