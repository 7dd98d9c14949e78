"""Stage A: what is built, the trainer and its schedules, and a run from start to closing table."""
