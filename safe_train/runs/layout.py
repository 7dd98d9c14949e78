"""The paths of a run's files, in ``<output_root>/<time>_<label>/``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from safe_train.config import StageAConfig, build_config, run_settings
from safe_train.io.files import read_object


@dataclass(frozen=True)
class RunFolder:
    """The paths of a run's files, whether they exist or not.

    Attributes:
        path: the run's folder.
    """

    CONFIG: ClassVar = "config.json"
    METRICS: ClassVar = "metrics.json"
    METRICS_LOG: ClassVar = "metrics.jsonl"
    CHECKPOINTS: ClassVar = "checkpoints"

    path: Path

    @property
    def config(self) -> Path:
        """Every setting and the values derived from them; written before the first step."""
        return self.path / self.CONFIG

    @property
    def subsets(self) -> Path:
        """Which examples of each source were drawn."""
        return self.path / "subset_indices.json"

    @property
    def metrics_log(self) -> Path:
        """A line of metrics for each logged step."""
        return self.path / self.METRICS_LOG

    @property
    def evaluation_log(self) -> Path:
        """A line for each evaluation during training."""
        return self.path / "evaluations.jsonl"

    @property
    def trackers(self) -> Path:
        """By which names and ids experiment trackers know the run."""
        return self.path / "trackers.json"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / self.CHECKPOINTS

    @property
    def evaluations(self) -> Path:
        """Folder of every answer, of the base and of SAFE, and the results."""
        return self.path / "evaluation"

    @property
    def metrics(self) -> Path:
        """How the training ended and what its evaluation found; there once a run is finished."""
        return self.path / self.METRICS

    @property
    def summary(self) -> Path:
        """The closing table."""
        return self.path / "summary.txt"

    @property
    def picture(self) -> Path:
        """Audio gain against the change of the answers."""
        return self.path / "audio_gain_vs_vl_change.png"

    def failed_step(self, step: int) -> Path:
        """Folder of a step that met NaN or infinity."""
        return self.path / "non_finite" / f"step-{step:07d}"


def read_config(folder: Path) -> StageAConfig:
    """The configuration of a run.

    Raises:
        InputError: the folder is no run's.
    """
    path = RunFolder(folder).config
    way_out = "name a run folder, such as runs/20260101-120000_full_retention"
    values = read_object(path, "the configuration of a run", way_out)
    return build_config(run_settings(values), {}, where=str(path), of_a_run=True)
