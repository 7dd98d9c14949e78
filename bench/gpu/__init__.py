"""The steps of `python -m bench.gpu_run`, each of which is a process of its own."""
