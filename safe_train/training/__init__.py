"""Stage A: building models and data, the trainer and its schedules, and a run from start to closing table."""
