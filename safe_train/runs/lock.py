"""A lock on a run: a second process gets an error and changes nothing."""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safe_train.errors import InputError

logger = logging.getLogger(__name__)


@contextmanager
def locked(config: Path) -> Iterator[None]:
    """Holds a run for the block, by a lock on its ``config.json`` that ends with the process, however that ends.

    Opened for writing, since NFS locks nothing else. A file system without locks is logged as a warning.

    Raises:
        InputError: another process holds the run, or the file cannot be opened.
    """
    run, hint = config.parent, "wait for its end, or stop it"
    try:
        file = config.open("r+b")
    except OSError as error:
        got = str(error.strerror or error)
        raise InputError(config, "the configuration of a run, which can be written", got, "mend the folder") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            got = "one that another process trains or evaluates"
            raise InputError(run, "a run that no other process works on", got, hint) from error
        except OSError as error:
            logger.warning("%s: no locks here (%s); let no other process work on this run", run, error.strerror)
        yield
