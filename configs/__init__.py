"""Registries of named configurations. Importing them costs milliseconds: nothing here imports torch."""
