"""Builds the data root of real recordings, photographs and texts, from packages."""
