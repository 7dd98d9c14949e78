"""Readers of the data sets on disk: VQA v2, AudioCaps, and the manifests that people write for their own data."""
