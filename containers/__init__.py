"""The container image of SAFE: specification, definition file, shim for Slurm's commands, building and comparing."""
