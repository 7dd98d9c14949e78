"""Experiment trackers that a run reports to beside its own files: Accelerate's, and those registered with it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safe_train.config import StageAConfig
from safe_train.errors import InputError, StoppedError, nearest
from safe_train.evaluation.results import Evaluation
from safe_train.io.files import json_text, read_object, write_text
from safe_train.io.messages import one_line, shortened
from safe_train.runs.layout import RunFolder

if TYPE_CHECKING:
    from safe_train.training.tracker_records import End, TrackerRecord

logger = logging.getLogger(__name__)

_PACKAGES = {"comet_ml": "comet-ml"}
"""The package of a tracker that is not called as its package."""

_NEW = "remove it, and the trackers begin new records"


class Trackers:
    """The records of a run in its trackers.

    One that fails while the run goes on is told in a warning and left out from there on: what it was to be sent is in
    the run's own files.

    Attributes:
        end: how the run has come to its end, for the trackers' own overviews.
    """

    def __init__(self) -> None:
        self._records: list[TrackerRecord] = []
        self.end: End = "finished"

    def add(self, record: TrackerRecord) -> None:
        """Adds one that has begun."""
        self._records.append(record)

    def log_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Sends what a step has logged, as ``train/<name>``; where it has logged nothing, nothing is sent."""
        self._log({f"train/{name}": value for name, value in metrics.items()}, step)

    def log_evaluation(self, step: int, evaluation: Evaluation, prefix: str) -> None:
        """Sends the :func:`figures` of an evaluation after a step, as ``<prefix>/<figure>``."""
        self._log({f"{prefix}/{name}": value for name, value in figures(evaluation).items()}, step)

    def finish(self) -> None:
        """Ends the records, as far as this start of the run goes."""
        self._each(lambda record: record.finish(self.end))
        self._records.clear()

    def _log(self, values: dict[str, float], step: int) -> None:
        if values:
            self._each(lambda record: record.log(values, step))

    def _each(self, call: Callable[[TrackerRecord], None]) -> None:
        for record in list(self._records):
            try:
                call(record)
            except Exception as error:  # of whatever kind a tracker raises
                self._records.remove(record)
                _warn(record.name, error)


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
            hint = f"did you mean {found!r}?" if found else "name one of them"
            raise InputError("tracking.trackers", f"of {', '.join(LOGGER_TYPE_TO_CLASS)}", repr(name), hint)
        if name in LoggerType and LoggerType(name) not in get_available_trackers():
            raise InputError(f"tracker {name}", "its package", "none", f"pip install {_PACKAGES.get(name, name)}")


def require_reachable(names: Iterable[str]) -> None:
    """The same, and lets those ask that need a login.

    Raises:
        InputError: as :func:`require_trackers`, or there is no login.
    """
    require_trackers(names := tuple(names))
    for name in names:
        from safe_train.training.tracker_records import log_in

        try:
            log_in(name)
        except Exception as error:
            raise InputError(f"tracker {name}", "a login", _told(error), "log in, or leave the tracker out") from error


@contextmanager
def tracked(config: StageAConfig, described: Mapping[str, Any], folder: Path, step: int) -> Iterator[Trackers]:
    """The trackers of a run, started for the block.

    A resumed run continues its records: by what each tracker knows it is kept in ``trackers.json``. It also goes on
    without a tracker that does not start any more, which is told in a warning.

    Args:
        config: the run's configuration.
        described: what its ``config.json`` says; sent when a record begins.
        folder: the run's.
        step: optimizer steps done; what was recorded of later ones was lost with them.

    Raises:
        InputError: a tracker of a new run is not known, its package is not installed, or it cannot be started; or
            ``trackers.json`` holds something else.
    """
    trackers = Trackers()
    try:
        if config.tracking.trackers:
            _begin(trackers, config, described, folder, step)
        yield trackers
    except BaseException as error:
        trackers.end = "stopped" if isinstance(error, StoppedError) else "failed"
        raise
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


def _begin(trackers: Trackers, config: StageAConfig, described: Mapping[str, Any], folder: Path, step: int) -> None:
    """Begins a record in each, and notes by what it is found again."""
    path, configuration = RunFolder(folder).trackers, _flat(described)
    known = _read_known(path)
    for name in dict.fromkeys(config.tracking.trackers):
        try:
            require_trackers([name])
            from safe_train.training.tracker_records import RECORDS, TrackerRecord

            record = RECORDS.get(name, TrackerRecord)(name, config.tracking.project, folder, known.get(name))
            record.begin(step, configuration)
        except Exception as error:  # of whatever kind: a server, a folder, a record that was deleted
            if step:
                _warn(name, error)
                continue
            if isinstance(error, InputError):
                raise
            hint = "mend it, or leave the tracker out"
            raise InputError(f"tracker {name}", "that it starts", _told(error), hint) from error
        trackers.add(record)
        if name in RECORDS:
            known[name] = record.known
            write_text(path, json_text(known))


def _read_known(path: Path) -> dict[str, dict[str, str]]:
    """What ``trackers.json`` says, if it is there."""
    if not path.exists():
        return {}
    expected = "by what trackers know the run"
    known = read_object(path, expected, _NEW)
    for name, arguments in known.items():
        if not isinstance(arguments, dict) or not all(isinstance(value, str) for value in arguments.values()):
            raise InputError(f"{path}: {name}", expected, shortened(json.dumps(arguments)), _NEW)
    return known


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted keys; what is no number, text or truth value is JSON."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value if isinstance(value, (bool, int, float, str)) else json.dumps(value)
    return found


def _warn(name: str, error: Exception) -> None:
    logger.warning("tracker %s: %s; left out from here on, the run's files have all", name, _told(error))


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, InputError) else one_line(f"{type(error).__name__}: {error}")
