"""Output whose reader may leave: nothing ends by it, and what else goes wrong is reported."""

import os
import pty
import sys

import pytest

from safe_train.cli.streams import outliving_readers


def without_reader(kind):
    """The writing end of a pipe, or a terminal, that nobody reads any more."""
    reader, writer = os.pipe() if kind == "pipe" else pty.openpty()
    os.close(reader)
    return writer


@pytest.mark.parametrize("name", ["stdout", "stderr"])
@pytest.mark.parametrize("kind", ["pipe", "terminal"])
@pytest.mark.parametrize("num_characters", [1, 2**17], ids=["when flushed", "when written"])
def test_a_reader_who_has_left_ends_nothing(monkeypatch, name, kind, num_characters):
    with os.fdopen(without_reader(kind), "w") as stream, monkeypatch.context() as patched:
        patched.setattr(sys, name, stream)
        with outliving_readers():
            assert getattr(sys, name).write("a" * num_characters) == num_characters
            for _ in range(2):
                print("a line", file=getattr(sys, name), flush=True)
        assert getattr(sys, name) is stream
        assert os.path.samestat(os.fstat(stream.fileno()), os.stat(os.devnull))  # noqa: PTH116


def test_what_is_left_in_the_stream_when_the_block_ends_fails_nothing(monkeypatch):
    with os.fdopen(without_reader("pipe"), "w") as stream, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", stream)
        with outliving_readers():
            print("a line")


def test_negative_control_a_reader_who_has_left_is_an_error_outside():
    with os.fdopen(without_reader("pipe"), "w") as stream:
        with pytest.raises(BrokenPipeError):
            print("a line", file=stream, flush=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def test_a_full_disk_is_told(monkeypatch):
    with open("/dev/full", "w") as stream, monkeypatch.context() as patched:  # noqa: PTH123
        patched.setattr(sys, "stdout", stream)
        with pytest.raises(OSError, match="No space left on device"), outliving_readers():
            print("a line", flush=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
