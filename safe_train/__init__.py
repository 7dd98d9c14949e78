"""Stage A training, evaluation and reports: adds hearing to a vision-language model that keeps seeing as before."""

from importlib.metadata import version


def __getattr__(name: str) -> str:
    """``__version__`` as installed, looked up when it is asked for: a source tree on the path has none."""
    if name == "__version__":
        return version("safe-audio")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
