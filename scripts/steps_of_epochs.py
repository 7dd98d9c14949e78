"""Prints the optimizer steps in which ``safe-train`` shows every training clip a number of times, rounded up.

python scripts/steps_of_epochs.py 3 --set data.root=data --set optimization.audio_batch_size=16
"""

from __future__ import annotations

import argparse
import math

from safe_train.config import StageAConfig, build_config
from safe_train.data.sources import read_audio_rows
from safe_train.usage import one_line_errors


def steps_of(config: StageAConfig, num_epochs: int) -> int:
    """Epochs times clips over the clips of a step."""
    data, optimization = config.data, config.optimization
    rows = read_audio_rows(data.train_audio_source, data, data.train_split).draw(data.max_train_audio, config.seed)
    clips_a_step = optimization.audio_batch_size * optimization.gradient_accumulation_steps
    return math.ceil(num_epochs * len(rows.rows) / clips_a_step)


@one_line_errors
def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("num_epochs", type=int)
    parser.add_argument("--set", dest="assignments", action="append", default=[], metavar="KEY=VALUE")
    given = parser.parse_args()
    assignments = dict(assignment.split("=", 1) for assignment in given.assignments)
    print(steps_of(build_config({}, assignments), given.num_epochs))


if __name__ == "__main__":
    main()
