"""Ten examples of finished runs in Markdown, as the report shows them: ``python -m experiments.real.examples RUNS``.

Pictures and clips are named, not shown: most of them may not be passed on. ``safe report RUNS`` plays and shows them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from safe_train.cli.errors import one_line_errors
from safe_train.cli.options import quiet_libraries
from safe_train.report.examples import AnsweredExample, choose_examples
from safe_train.report.grouping import group_runs
from safe_train.report.runs import read_runs

COUNTS = {"VL": 4, "text": 3, "audio": 3}
"""How many of each kind of example."""


def choose_ten(examples: Iterable[AnsweredExample]) -> list[AnsweredExample]:
    """The first examples of each kind."""
    chosen: dict[str, list[AnsweredExample]] = {part: [] for part in COUNTS}
    for example in examples:
        if len(chosen[example.part]) < COUNTS[example.part]:
            chosen[example.part].append(example)
    return [example for found in chosen.values() for example in found]


def examples_markdown(examples: Iterable[AnsweredExample]) -> str:
    """A table: question, picture, clip, what is right, what the base says, what SAFE says."""
    lines = ["| variant | question | picture | heard | right | base | SAFE |", "|---|---|---|---|---|---|---|"]
    for example in examples:
        picture = Path(example.picture.path).stem if example.picture else ""
        base = f"{example.base} (in silence)" if example.part == "audio" else example.base
        heard = Path(example.clip.words).name
        cells = (example.arm, example.question, picture, heard, example.references[0], base, example.safe)
        lines.append(f"| {' | '.join(_cell(cell) for cell in cells)} |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


@one_line_errors
def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="run folders, or folders that hold some")
    arguments = parser.parse_args()
    quiet_libraries()
    groups, _ = group_runs(read_runs(arguments.runs).runs)
    print(examples_markdown(choose_ten(choose_examples(groups))))


if __name__ == "__main__":
    main()
