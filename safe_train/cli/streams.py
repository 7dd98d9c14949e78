"""Output whose reader may leave: ``safe-train | tee log``, and Ctrl-C ends ``tee`` before the checkpoint is written."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

_READER_GONE = {errno.EPIPE, errno.EIO}  # a pipe without a reader; a terminal that was closed


class _Outliving:
    """A stream that, once its reader has left, writes to nowhere in place of failing."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._reader_may_leave():
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._reader_may_leave():
            self._stream.flush()

    @contextmanager
    def _reader_may_leave(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in _READER_GONE:
                raise
            # The descriptor itself, since what is in the stream's buffer is written when the interpreter ends.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


@contextmanager
def outliving_readers() -> Iterator[None]:
    """Lets the block print on although whoever reads its output has left."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Outliving(before[0]), _Outliving(before[1])  # type: ignore[assignment]
    try:
        yield
    finally:
        with suppress(ValueError):  # closed already
            sys.stdout.flush()
            sys.stderr.flush()
        sys.stdout, sys.stderr = before
