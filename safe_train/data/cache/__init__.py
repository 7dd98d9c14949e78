"""Frozen results that are computed once: audio features and the teacher's hidden states."""
