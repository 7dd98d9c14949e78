"""Prints the optimizer steps in which ``safe-train`` shows every training clip a number of times, rounded up.

python scripts/steps_of_epochs.py 3 --data-root data --set optimization.audio_batch_size=16
"""

from __future__ import annotations

import argparse
import math

from safe_train.cli.errors import one_line_errors
from safe_train.config import StageAConfig, build_config
from safe_train.data.sources import read_audio_examples

OPTIONS = {
    "--variant": "variant", "--seed": "seed", "--output-root": "output_root", "--model-config": "model.config",
    "--data-root": "data.root",
}  # fmt: skip
"""Those of ``safe-train`` that ``full_training.sh`` names, and the settings that they stand for."""


def steps_of(config: StageAConfig, num_epochs: int) -> int:
    """Epochs times clips over the clips of a step."""
    data, optimization = config.data, config.optimization
    rows = read_audio_examples(data.train_audio_source, data, data.train_split).draw(data.max_train_audio, config.seed)
    clips_a_step = optimization.audio_batch_size * optimization.gradient_accumulation_steps
    return math.ceil(num_epochs * len(rows.rows) / clips_a_step)


@one_line_errors
def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("num_epochs", type=int)
    for name in OPTIONS:
        parser.add_argument(name)
    parser.add_argument("--set", dest="assignments", action="append", default=[], metavar="KEY=VALUE")
    given = vars(parser.parse_args())
    assignments = dict(assignment.split("=", 1) for assignment in given["assignments"])
    named = {key: given[name.removeprefix("--").replace("-", "_")] for name, key in OPTIONS.items()}
    options = {key: value for key, value in named.items() if value is not None}
    print(steps_of(build_config({}, assignments, options=options), given["num_epochs"]))


if __name__ == "__main__":
    main()
