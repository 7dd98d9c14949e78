"""Callbacks of a run: progress, and requests to stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from safe_train.distributed.processes import Processes
from safe_train.errors import StoppedError


@dataclass(frozen=True)
class RunCallbacks:
    """Functions that a run calls, in each process.

    Attributes:
        stage: called with a few words when a new stage begins.
        step: called after each step with its number, the number of steps, and the metrics if they were logged.
        rows: called as the examples of a stage are processed, with the number done and the total.
        should_stop: called after each step and each batch of an evaluation; if it is true in one process, all stop.
    """

    stage: Callable[[str], None] = lambda _words: None
    step: Callable[[int, int, dict[str, float]], None] = lambda _step, _total, _metrics: None
    rows: Callable[[int, int], None] = lambda _done, _total: None
    should_stop: Callable[[], bool] = lambda: False

    def stop_if_asked(self, processes: Processes, words: str) -> None:
        """Raises a ``StoppedError`` with this message if any process is asked to stop; a collective call."""
        if processes.any(self.should_stop()):
            raise StoppedError(words)

    def between_batches(self, processes: Processes, words: str) -> Callable[[int, int], None]:
        """Reports how many examples are done, and stops if asked to; a collective call."""

        def between(done: int, total: int) -> None:
            self.rows(done, total)
            self.stop_if_asked(processes, words)

        return between
