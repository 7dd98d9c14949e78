"""A run's record in an experiment tracker: how it begins, goes on after a resume, and ends."""

from __future__ import annotations

import atexit
import os
import sys
import uuid
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Literal, TextIO

from accelerate import PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS

End = Literal["finished", "stopped", "failed"]
"""How a run, or this start of it, has come to its end."""

_EXIT_CODES: dict[End, int] = {"finished": 0, "stopped": 75, "failed": 1}
_SECONDS_TO_FINISH = "60"


class TrackerRecord:
    """A run's record in a tracker of Accelerate's that knows nothing of resuming: a resumed run begins a new one.

    Attributes:
        name: the tracker's.
        project: what the record belongs to.
        folder: the run's.
        known: by which arguments the tracker finds the record again; empty before it has begun.
        tracker: Accelerate's, once it has begun.
    """

    def __init__(self, name: str, project: str, folder: Path, known: dict[str, str] | None) -> None:
        """Takes what ``trackers.json`` knows of it, None for a record that is to begin."""
        self.name, self.project, self.folder = name, project, folder
        self.is_new = known is None
        self.known: dict[str, str] = dict(known or {})
        self.tracker: Any = None

    def begin(self, step: int, configuration: dict[str, Any]) -> None:
        """Begins it, or goes on with it.

        Args:
            step: optimizer steps done.
            configuration: the run's settings by dotted keys.
        """
        PartialState()  # Accelerate's trackers ask it which process they are in
        with notes_to_stderr():
            self.tracker = self.make(step, configuration)
            self.tracker.start()
            self.started(configuration)
        _keep_notes_from_stdout()

    def make(self, step: int, configuration: dict[str, Any]) -> Any:
        """Accelerate's tracker, not started yet."""
        del step, configuration
        kind: Any = LOGGER_TYPE_TO_CLASS[self.name]
        return kind(self.project, self.folder) if kind.requires_logging_directory else kind(self.project)

    def started(self, configuration: dict[str, Any]) -> None:
        """Called once the tracker has been started."""
        self.tracker.store_init_configuration(configuration)

    def log(self, values: dict[str, float], step: int) -> None:
        """Records values of a step."""
        with notes_to_stderr():
            self.send(values, step)

    def send(self, values: dict[str, float], step: int) -> None:
        """Hands them to the tracker."""
        self.tracker.log(values, step=step)

    def finish(self, end: End) -> None:
        """Ends the record, as far as this start of the run goes."""
        with notes_to_stderr():
            self.close(end)

    def close(self, end: End) -> None:
        """Tells the tracker."""
        del end
        self.tracker.finish()


class TensorBoardRecord(TrackerRecord):
    """Event files in ``<run>/tensorboard``; what they have of steps that were lost is dropped by its readers."""

    def make(self, step: int, configuration: dict[str, Any]) -> Any:
        """A writer of one more file."""
        del configuration
        kind: Any = LOGGER_TYPE_TO_CLASS[self.name]
        return kind(self.name, self.folder, purge_step=None if self.is_new else step + 1)

    def started(self, configuration: dict[str, Any]) -> None:
        """The configuration stands there already if the record is not new."""
        if self.is_new:
            super().started(configuration)


class WandbRecord(TrackerRecord):
    """A run of Weights & Biases.

    Its own step counts calls, and a resumed run goes on behind the last: what is sent with a lower one, as of steps
    that are trained again, is dropped. So the step is a value beside the others, against which they are drawn.
    """

    def make(self, step: int, configuration: dict[str, Any]) -> Any:
        """Connected by an id of the record's own: folders of other output roots may be called as this one is."""
        del step
        # Otherwise a run waits without end for a server that has gone, and hears no signal while it does.
        os.environ.setdefault("WANDB_FINISH_TIMEOUT", _SECONDS_TO_FINISH)
        self.known.setdefault("id", _unique())
        kind: Any = LOGGER_TYPE_TO_CLASS[self.name]
        options = {"name": self.folder.name, "dir": str(self.folder), "resume": "allow", "config": configuration}
        return kind(self.project, **options, **self.known)

    def started(self, configuration: dict[str, Any]) -> None:
        """It has the configuration already."""
        del configuration
        self.tracker.tracker.define_metric("step")
        self.tracker.tracker.define_metric("*", step_metric="step")

    def send(self, values: dict[str, float], step: int) -> None:
        """With the step among them."""
        self.tracker.log(values | {"step": step})

    def close(self, end: End) -> None:
        """By an exit code, as that of a command."""
        self.tracker.tracker.finish(exit_code=_EXIT_CODES[end])


class TrackioRecord(TrackerRecord):
    """A run of trackio, found again by its name."""

    def make(self, step: int, configuration: dict[str, Any]) -> Any:
        """With the configuration, which is recorded with the first values: those may be of trackio's own monitor."""
        del step
        self.known.setdefault("name", f"{self.folder.name}-{_unique()}")
        kind: Any = LOGGER_TYPE_TO_CLASS[self.name]
        return kind(self.project, resume="allow", config=configuration, **self.known)

    def started(self, configuration: dict[str, Any]) -> None:
        """It has the configuration already."""


class MlflowRecord(TrackerRecord):
    """A run of MLflow, which draws its id itself."""

    def make(self, step: int, configuration: dict[str, Any]) -> Any:
        """By the known id, whatever the environment says of another run."""
        del step, configuration
        kind: Any = LOGGER_TYPE_TO_CLASS[self.name]
        tracker = kind(self.project, run_name=self.folder.name)
        if not self.is_new:
            tracker.run_id = self.known["run_id"]
        return tracker

    def started(self, configuration: dict[str, Any]) -> None:
        """Parameters cannot be given twice."""
        self.known["run_id"] = self.tracker.tracker.info.run_id
        if self.is_new:
            super().started(configuration)

    def close(self, end: End) -> None:
        """By MLflow's words for it."""
        import mlflow  # type: ignore[import-not-found]

        mlflow.end_run({"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}[end])


RECORDS: dict[str, type[TrackerRecord]] = {
    "tensorboard": TensorBoardRecord,
    "wandb": WandbRecord,
    "trackio": TrackioRecord,
    "mlflow": MlflowRecord,
}
"""Those that a resumed run goes on with."""


def log_in(name: str) -> None:
    """Lets a tracker ask for what it needs to be reached, before a run has cost anything."""
    if name == "wandb" and os.environ.get("WANDB_MODE", "online") == "online":
        import wandb  # type: ignore[import-not-found]

        with notes_to_stderr():
            wandb.login()


def notes_to_stderr() -> redirect_stdout[TextIO]:
    """What trackers print for people is no output of the command."""
    return redirect_stdout(sys.stderr)


def _keep_notes_from_stdout() -> None:
    """Nor is what they print when the program ends; functions that were registered last are called first."""

    def redirect() -> None:
        sys.stdout = sys.stderr

    atexit.register(redirect)


def _unique() -> str:
    return uuid.uuid4().hex[:8]
