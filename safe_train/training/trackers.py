"""Experiment trackers that a run reports to beside its own files: Accelerate's, and those registered with it."""

from __future__ import annotations

import json
import logging
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from safe_train.config import StageAConfig
from safe_train.errors import InputError, nearest
from safe_train.evaluation.results import Evaluation
from safe_train.io.files import json_text, read_object, write_text
from safe_train.runs.layout import RunFolder

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

logger = logging.getLogger(__name__)

_PACKAGES = {"comet_ml": "comet-ml"}
"""The package of a tracker that is not called as its package."""

_CONFIGURED_AT_INIT = ("wandb", "trackio")
"""Get the configuration when they start: trackio sends it with its first values, which are those of its own monitor."""

_NEW = "remove it, and the trackers begin new records"


class Trackers:
    """The started trackers of a run, by their names.

    One that fails while the run goes on is told in a warning and left out from there on: what it was to be sent is in
    the run's own files.
    """

    def __init__(self) -> None:
        self._started: dict[str, GeneralTracker] = {}

    def add(self, name: str, tracker: GeneralTracker) -> None:
        """Adds one that has been started."""
        self._started[name] = tracker

    def log_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Sends what a step has logged, as ``train/<name>``; where it has logged nothing, nothing is sent."""
        self._log({f"train/{name}": value for name, value in metrics.items()}, step)

    def log_evaluation(self, step: int, evaluation: Evaluation, prefix: str) -> None:
        """Sends the :func:`figures` of an evaluation after a step, as ``<prefix>/<figure>``."""
        self._log({f"{prefix}/{name}": value for name, value in figures(evaluation).items()}, step)

    def finish(self) -> None:
        """Ends the records, as far as this start of the run goes."""
        self._each(lambda tracker: tracker.finish())
        self._started.clear()

    def _log(self, values: dict[str, float], step: int) -> None:
        if values:
            self._each(lambda tracker: tracker.log(values, step=step))

    def _each(self, call: Callable[[GeneralTracker], None]) -> None:
        for name, tracker in list(self._started.items()):
            try:
                with _notes_to_stderr():
                    call(tracker)
            except Exception as error:  # of whatever kind a tracker raises
                del self._started[name]
                logger.warning("tracker %s: %s; left out from here on, the run's files have all", name, _told(error))


def require_trackers(names: Iterable[str]) -> None:
    """Finds out whether there are trackers of these names, and whether their packages are installed.

    Raises:
        InputError: one is not known, or its package is not installed.
    """
    if not (names := tuple(names)):
        return
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
    from accelerate.utils import LoggerType

    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            found = nearest(name, LOGGER_TYPE_TO_CLASS)
            hint = f"did you mean {found!r}?" if found else "register it by accelerate.tracking.register_tracker_class"
            raise InputError("tracking.trackers", f"of {', '.join(LOGGER_TYPE_TO_CLASS)}", repr(name), hint)
        if name in LoggerType and LoggerType(name) not in get_available_trackers():
            raise InputError(f"tracker {name}", "its package", "none", f"pip install {_PACKAGES.get(name, name)}")


@contextmanager
def tracked(config: StageAConfig, described: Mapping[str, Any], folder: Path, step: int) -> Iterator[Trackers]:
    """The trackers of a run, started for the block.

    A resumed run continues its records: by what each tracker knows it is kept in ``trackers.json``.

    Args:
        config: the run's configuration.
        described: what its ``config.json`` says; sent when a record begins.
        folder: the run's.
        step: optimizer steps done; what was recorded of later ones was lost with them.

    Raises:
        InputError: a tracker is not known, its package is not installed, or it cannot be started.
    """
    trackers = Trackers()
    try:
        if config.tracking.trackers:
            _start(trackers, config, described, folder, step)
        yield trackers
    finally:
        trackers.finish()


def figures(evaluation: Evaluation) -> dict[str, float]:
    """The figures of an evaluation that are worth a curve.

    Returns:
        By name, means over examples. ``vl/base_accuracy`` and ``text/base_accuracy`` are the base's. VL and text-only
        questions have ``<part>/<condition>/accuracy``, ``difference`` (from the base's), ``kl`` in nats and
        ``answer_change_rate``; documents ``bits_per_byte`` and ``difference``; audio ``accuracy``, and ``gain``:
        accuracy with the matched clip minus that under the condition.
    """
    found = {"vl/base_accuracy": evaluation.base.mean}
    if evaluation.base_text is not None:
        found["text/base_accuracy"] = evaluation.base_text.mean
    for part, results in (("vl", evaluation.vl), ("text", evaluation.text)):
        for name, result in results.items():
            found[f"{part}/{name}/accuracy"] = result.accuracy.mean
            found[f"{part}/{name}/difference"] = result.difference.mean
            found[f"{part}/{name}/kl"] = result.kl
            found[f"{part}/{name}/answer_change_rate"] = result.answer_change_rate
    for name, result in evaluation.documents.items():
        found[f"documents/{name}/bits_per_byte"] = result.bits_per_byte.mean
        found[f"documents/{name}/difference"] = result.difference.mean
    for name, result in evaluation.audio.items():
        found[f"audio/{name}/accuracy"] = result.accuracy.mean
    for name, gain in evaluation.audio_gain.items():
        found[f"audio/{name}/gain"] = gain.mean
    return found


def _start(trackers: Trackers, config: StageAConfig, described: Mapping[str, Any], folder: Path, step: int) -> None:
    """Starts them all, and notes by what each knows the run."""
    require_trackers(config.tracking.trackers)
    from accelerate import PartialState

    PartialState()  # Accelerate's trackers ask it which process they are in
    path, configuration = RunFolder(folder).trackers, _flat(described)
    records = read_object(path, "by what trackers know the run", _NEW) if path.exists() else {}
    for name in dict.fromkeys(config.tracking.trackers):
        begins = name not in records
        record = records.setdefault(name, _new_record(name, folder))
        try:
            tracker = _make(name, config.tracking.project, folder, record, step, configuration)
            with _notes_to_stderr():
                tracker.start()
            trackers.add(name, tracker)
            if name == "mlflow":  # which draws the id itself
                record["run_id"] = tracker.tracker.info.run_id
            if begins and name not in _CONFIGURED_AT_INIT:
                tracker.store_init_configuration(configuration)
        except Exception as error:  # of whatever kind: a login, a server, a folder
            hint = "mend it, or leave the tracker out"
            raise InputError(f"tracker {name}", "that it starts", _told(error), hint) from error
    write_text(path, json_text(records))


def _new_record(name: str, folder: Path) -> dict[str, str]:
    """The arguments by which a tracker finds its record of the run again.

    Folders are named by the second in which they were made, and those of other output roots may be called the same.
    """
    unique = uuid.uuid4().hex[:8]
    return {"wandb": {"id": unique}, "trackio": {"name": f"{folder.name}-{unique}"}}.get(name, {})


def _make(
    name: str, project: str, folder: Path, record: Mapping[str, str], step: int, configuration: dict[str, Any]
) -> Any:
    """A tracker of this name, not started yet."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    kind: Any = LOGGER_TYPE_TO_CLASS[name]
    match name:
        case "tensorboard":  # its "project" is the folder of its files, which TensorBoard shows beside the run's name
            return kind(name, folder, purge_step=step + 1 if step else None)
        case "wandb":
            return kind(project, name=folder.name, dir=str(folder), resume="allow", config=configuration, **record)
        case "trackio":
            return kind(project, resume="allow", config=configuration, **record)
        case "mlflow":
            return kind(project, run_name=folder.name, **record)
        case _:
            return kind(project, folder) if kind.requires_logging_directory else kind(project)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted keys; what is no number, text or truth value is JSON."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value if isinstance(value, (bool, int, float, str)) else json.dumps(value)
    return found


def _notes_to_stderr() -> redirect_stdout[TextIO]:
    """What trackers print for people is no output of the command."""
    return redirect_stdout(sys.stderr)


def _told(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
