r"""Trains Stage A on few clips for many epochs, evaluates, and leaves a run folder.

    python -m experiments.overfitting.run_overfitting --variant full_safe
    python -m experiments.overfitting.run_overfitting --variant no_retention --seeds 42 43 44 \
        --train-source pack --val-source pack_vl --pack-root experiments/overfitting/data_pack

Without any data at hand, the embedded model runs on a pack made from procedural data. Clips, their order, the initial
weights and the rows of the evaluation depend on the seed and never on the variant.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.overfitting.arguments import OneLineParser, at_least_one, at_least_zero
from experiments.overfitting.settings import (
    COMPANIONS,
    TRAIN_SOURCES,
    VAL_SOURCES,
    stage_a_config,
    with_epochs,
)
from safe_train.cli.errors import one_line_errors
from safe_train.config import StageAConfig
from safe_train.configs.model_configs import MODEL_CONFIGS
from safe_train.configs.retention_variants import OVERFITTING_VARIANTS
from safe_train.data.settings import TEXT_SOURCES

if TYPE_CHECKING:
    from safe_train.training.build import Rows

logger = logging.getLogger(__name__)

PACK = Path("experiments/overfitting/data_pack")


def build_parser() -> OneLineParser:
    """The options, with the meaning of the variants and of the validation sources in the help."""
    variants = "\n".join(f"  {name:14} = {registered}" for name, registered in OVERFITTING_VARIANTS.items())
    sources = "\n".join(f"  {name:16} {source.meaning}" for name, source in VAL_SOURCES.items())
    parser = OneLineParser(
        "run_overfitting",
        f"{__doc__}\nvariants, and what they are called in configs.retention_variants:\n{variants}"
        f"\n\nvalidation sources (rows of the other kind come along, at most {COMPANIONS}):\n{sources}",
    )
    add = parser.add_argument
    add("--variant", choices=OVERFITTING_VARIANTS, default="full_safe", help="retention variant")
    add("--subset-size", type=at_least_one, default=400, help="clips to train on")
    seeds = parser.add_mutually_exclusive_group()
    seeds.add_argument("--seed", type=at_least_zero, default=42, help="seed of subsets, order and initial weights")
    seeds.add_argument("--seeds", type=at_least_zero, nargs="+", help="several seeds, a run for each")
    add("--train-source", choices=TRAIN_SOURCES, default="pack", help="clips to train on; mock: procedural")
    add("--val-source", choices=VAL_SOURCES, default="pack_vl", help="rows to evaluate on, see above")
    add("--val-size", type=at_least_one, default=500, help="rows to evaluate on, in each condition")
    add(
        "--text-source",
        choices=TEXT_SOURCES.choices(),
        default="auto",
        help="text-only rows; auto: those beside the VL rows",
    )
    add("--text-share", type=float, default=0.25, help="share of protected rows that are text-only, if there are any")
    add("--text-val-size", type=at_least_one, help="text-only rows to evaluate on; if not given, all")
    add("--train-batch-size", type=at_least_one, default=8, help="clips a step, and as many protected rows")
    add("--val-batch-size", type=at_least_one, default=16, help="rows a batch of the evaluation")
    add("--num-epochs", type=at_least_one, default=30, help="times that each clip is shown")
    add("--lr-projector", type=float, default=1e-4, help="peak learning rate of the projectors")
    add("--lr-adapter", type=float, default=5e-5, help="peak learning rate of the fusions")
    add("--null-space-rank", type=at_least_one, default=8, help="dimensions of the protected subspace")
    add("--null-space-min-samples", type=at_least_one, default=64, help="protected rows before its first estimate")
    add("--null-space-refresh", type=at_least_one, default=2000, help="protected rows between two estimates")
    add(
        "--num-workers",
        type=at_least_zero,
        default=0,
        help="threads that decode clips and images; 0: none but the main",
    )
    add("--data-path", type=Path, help="folder with audiocaps/, avqa/, vqa/, as the sources need; if not given, data")
    add("--pack-root", type=Path, help=f"the pack; if not given, {PACK} if it exists, or else a procedural one")
    add("--output-root", type=Path, default=Path("experiments/overfitting/runs"), help="folder for run folders")
    add("--model-config", choices=MODEL_CONFIGS, default="demo", help="base and audio encoders")
    add("--max-eval-batches", type=at_least_one, help="batches in each condition; if not given, all of --val-size")
    add("--generation-max-new-tokens", type=at_least_one, default=12, help="longest answer in tokens")
    return parser


def configure(given: argparse.Namespace, seed: int) -> StageAConfig:
    """The configuration of one seed, with the pack found or made and the source of the protected rows chosen.

    The rows to protect come from the source of the evaluated VL rows: their training split or, as a pack has none, the
    questions about a fifth of its images, which are then not evaluated. With ``--data-path``, rows to protect beside a
    pack are the training split of its ``vqa/``.

    Raises:
        InputError: an option does not fit, or the procedural pack cannot be written.
    """
    pack, procedural = _pack(given)
    protected = VAL_SOURCES[given.val_source].vl
    if protected == "pack" and given.data_path is not None:
        protected = "vqa"
    elif protected == "pack" and procedural:
        protected = "embedded"
    filled = argparse.Namespace(**vars(given) | {"data_path": given.data_path or Path("data")})
    return stage_a_config(filled, seed, pack_root=pack, protected=protected)


def _pack(given: argparse.Namespace) -> tuple[str | None, bool]:
    """The pack's folder, or None if no source is one, and whether it is the procedural one."""
    if "pack" not in (given.train_source, VAL_SOURCES[given.val_source].vl, given.text_source):
        return None, False
    if given.pack_root is None and not PACK.is_dir():
        from experiments.overfitting.embedded_pack import embedded_pack_root

        logger.info("no --pack-root and no %s: a pack made from the procedural data is used", PACK)
        return str(embedded_pack_root()), True
    return str((given.pack_root or PACK).expanduser().absolute()), False


def notes(given: argparse.Namespace, rows: Rows) -> dict[str, Any]:
    """What ``config.json`` tells beside the Stage A configuration."""
    return {
        "experiment": "overfitting",
        "variant": given.variant,
        "variants": dict(OVERFITTING_VARIANTS),
        "num_epochs": given.num_epochs,
        "train_source": given.train_source,
        "val_source": given.val_source,
        "text_source": given.text_source,
        "num_rows": {part: len(indices) for part, indices in rows.indices.items()},
    }


def _tell_shortfalls(config: StageAConfig, rows: Rows) -> None:
    asked = {"train_audio": config.data.max_train_audio, "val_vl": config.evaluation.max_vl}
    if config.data.val_audio_source != "trained":
        asked["val_audio"] = config.evaluation.max_audio
    for part, limit in asked.items():
        there = len(rows.indices[part])
        if limit is not None and there < limit:
            logger.warning("%s: %d rows instead of %d: its source has no more", part, there, limit)


def run_seed(given: argparse.Namespace, seed: int) -> Path:
    """Trains and evaluates one seed; returns the run's folder. A run that is stopped ends the program."""
    from safe_train.cli.callbacks import StopRequest, watching
    from safe_train.cli.train import show_outcome
    from safe_train.training.build import load_examples
    from safe_train.training.run import start_run

    config = configure(given, seed)
    rows = load_examples(config)
    _tell_shortfalls(config, rows)
    config = with_epochs(config, given.num_epochs, len(rows.train_audio))
    stop = StopRequest()
    with stop.listening(), watching(stop) as callbacks:
        outcome = start_run(config, callbacks, rows=rows, notes=notes(given, rows))
    show_outcome(outcome, stop)
    return outcome.folder


@one_line_errors
def main(arguments: list[str] | None = None) -> None:
    """The command."""
    given = build_parser().parse_args(arguments)
    from safe_train.cli.options import quiet_libraries
    from safe_train.report.summary import format_table, read_summary

    quiet_libraries()
    folders = [run_seed(given, seed) for seed in given.seeds or [given.seed]]
    if len(folders) > 1:
        print(format_table([read_summary(folder) for folder in folders]))


if __name__ == "__main__":
    main()
