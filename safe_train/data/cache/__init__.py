"""Caches of results of frozen models: audio features and the teacher's hidden states."""
