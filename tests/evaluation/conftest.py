"""Finished runs, which the report's tests make."""

from tests.report.conftest import audio_rows, make_run, text_rows, vl_rows

__all__ = ["audio_rows", "make_run", "text_rows", "vl_rows"]
