"""Compares the bypass of finished runs with the base, bit for bit, on every example of the validation sets.

    python -m experiments.real.bypass runs/real/real/*/42/* --json docs/results/real_bypass.json

A run's own evaluation compares logits and answers on the examples that it draws. Here it is the hidden states that the
head reads, at every position of every example: questions with an image, text-only questions and documents without
audio, and text-only and audio examples once more with a clip attached and the gate shut.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from safe_train.cli.errors import one_line_errors
from safe_train.cli.options import quiet_libraries
from safe_train.data.cache.features import FeatureCache
from safe_train.data.collator import Collator
from safe_train.data.example import Example
from safe_train.errors import InputError
from safe_train.io.files import json_text, write_text
from safe_train.io.fingerprints import versions
from safe_train.model.batch import Batch
from safe_train.model.safe_model import SafeModel
from safe_train.runs.environment import find_machine
from safe_train.runs.layout import read_config
from safe_train.training.build import Rows, attach, build_collator, load_base_model, load_examples
from safe_train.training.run import load_trained

BATCH = 25

Digests = dict[str, list[str]]
"""Of each batch, by part and route, as ``VL, without audio``."""


@dataclass(frozen=True)
class Compared:
    """What a run's bypass gave.

    Attributes:
        run: variant and seed.
        examples: how many were compared, by part and route.
        equal: of how many every bit is the base's; a batch counts as a whole.
    """

    run: str
    examples: dict[str, int]
    equal: dict[str, int]

    @property
    def is_equal(self) -> bool:
        """Whether all are."""
        return self.examples == self.equal


def parts(rows: Rows) -> dict[str, list[Example]]:
    """The validation sets by name."""
    return {
        "VL": rows.val_vl,
        "text-only questions": [example for example in rows.val_text if not example.is_document],
        "documents": [example for example in rows.val_text if example.is_document],
        "audio": rows.val_audio,
    }


@torch.no_grad()
def digests(
    collator: Collator, examples: Mapping[str, Sequence[Example]], states: Callable[[Batch, bool], Tensor]
) -> Digests:
    """SHA-256 of the hidden states of each batch.

    Args:
        collator: encodes the examples.
        examples: by part.
        states: from a batch, and whether audio is attached behind a shut gate, to hidden states [B, T, H].
    """
    found: Digests = {}
    for part, is_shut in _routes(examples):
        batches = (examples[part][start : start + BATCH] for start in range(0, len(examples[part]), BATCH))
        found[_name(part, is_shut=is_shut)] = [
            _sha256(states(collator.training_batch(batch), is_shut)) for batch in batches
        ]
    return found


def compare(run: Path, model: SafeModel, examples: Mapping[str, Sequence[Example]], base: Digests) -> Compared:
    """Compares a run's bypass with the base's digests of the same examples."""
    load_trained(run, model)
    collator = build_collator(model)

    def states(batch: Batch, is_shut: bool) -> Tensor:
        if not is_shut:
            return model.last_hidden_state(batch.inputs, None)
        model.gate = 0.0
        try:
            features = batch.features or collator.features_of(batch.rows)
            return model.last_hidden_state(batch.inputs, features)
        finally:
            model.gate = 1.0

    found, config = digests(collator, examples, states), read_config(run)
    sizes = {_name(part, is_shut=is_shut): len(examples[part]) for part, is_shut in _routes(examples)}
    equal = {
        name: sum(
            min(BATCH, sizes[name] - number * BATCH)
            for number, (one, other) in enumerate(zip(found[name], base[name], strict=True))
            if one == other
        )
        for name in sizes
    }
    return Compared(f"{config.variant} {config.seed}", sizes, equal)


def compare_all(runs: Sequence[Path], max_rows: int | None = None) -> Iterator[Compared]:
    """Compares the bypass of runs on one base with it, which is passed once, before anything is attached.

    Args:
        runs: folders of finished runs.
        max_rows: examples of each part, instead of all.

    Raises:
        InputError: the runs' bases or data differ.
    """
    configs = [read_config(run) for run in runs]
    for run, config in zip(runs, configs, strict=True):
        for part in ("base_model", "config", "attention"):
            if (got := getattr(config.model, part)) != (first := getattr(configs[0].model, part)):
                raise InputError(run, f"model.{part} {first}, as of the first run", str(got), "compare it alone")
        if config.data.root != configs[0].data.root or config.precision != configs[0].precision:
            raise InputError(run, "data and precision of the first run", "others", "compare it alone")
    whole = {"max_vl": max_rows, "max_text": max_rows, "max_audio": max_rows}
    config = configs[0].model_copy(update={"evaluation": configs[0].evaluation.model_copy(update=whole)})
    examples, base = parts(load_examples(config)), load_base_model(config)
    untouched = Collator(base.processor, FeatureCache([]), base.model.device, dtype=base.model.dtype)
    expected = digests(untouched, examples, lambda batch, _is_shut: base.last_hidden_state(**batch.inputs))
    for run, config in zip(runs, configs, strict=True):
        model = attach(base, config)
        try:
            yield compare(run, model, examples, expected)
        finally:
            model.detach()


def _routes(examples: Mapping[str, Sequence[Example]]) -> list[tuple[str, bool]]:
    routes = (("VL", False), ("text-only questions", False), ("documents", False))
    shut = (("text-only questions", True), ("documents", True), ("audio", True))
    return [(part, is_shut) for part, is_shut in (*routes, *shut) if examples[part]]


def _name(part: str, *, is_shut: bool) -> str:
    return f"{part}, {'gate shut' if is_shut else 'without audio'}"


def _sha256(states: Tensor) -> str:
    return hashlib.sha256(states.cpu().contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


@one_line_errors
def main() -> None:
    """Prints a line for each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of finished runs")
    parser.add_argument("--max-rows", type=int, metavar="N", help="examples of each part, instead of all")
    parser.add_argument("--json", type=Path, help="where the counts go")
    arguments = parser.parse_args()
    quiet_libraries()
    found = []
    for one in compare_all(arguments.runs, arguments.max_rows):
        found.append(one)
        counts = ", ".join(f"{name} {one.equal[name]:,} of {size:,}" for name, size in one.examples.items())
        print(f"{one.run}: {'bit-equal' if one.is_equal else 'DIFFERS'}: {counts}", flush=True)
    if arguments.json is not None:
        content = {
            "processor": find_machine().processor,
            "versions": versions(),
            "runs": [asdict(one) for one in found],
        }
        write_text(arguments.json, json_text(content))
    if not all(one.is_equal for one in found):
        parser.exit(1)


if __name__ == "__main__":
    main()
