"""``safe train`` and ``safe-train``: a run, its continuation, its estimate."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from safe_train.cli.errors import EXIT_INTERRUPTED, EXIT_REQUEUE, fail, one_line_errors, unknown
from safe_train.cli.options import HELP, command, completes, quiet_libraries, tell, version_option
from safe_train.configs.gpus import GPUS
from safe_train.configs.model_configs import MODEL_CONFIGS
from safe_train.configs.retention_variants import RETENTION_VARIANTS
from safe_train.errors import InputError

if TYPE_CHECKING:
    from safe_train.cli.callbacks import StopRequest
    from safe_train.config import StageAConfig
    from safe_train.training.run import RunOutcome


def _check_gpu(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and value not in GPUS:
        fail(unknown(f"--gpu {value}", "a kind of GPU", value, GPUS))
    return value


def _parse_assignments(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    assignments = {}
    for value in values:
        key, separator, text = value.partition("=")
        if not separator:
            fail(InputError(f"--set {value}", "key=value", "no =", "for instance --set optimization.max_steps=100"))
        assignments[key.strip()] = text
    return assignments


@command(context_settings=HELP)
@version_option
@click.option(
    "--variant",
    shell_complete=completes(RETENTION_VARIANTS),
    help=f"Retention variant: {', '.join(RETENTION_VARIANTS)}, or one of a file or an installed package.",
)
@click.option("--variants-file", type=click.Path(), metavar="FILE", help="YAML file of further retention variants.")
@click.option(
    "--model-config",
    shell_complete=completes(MODEL_CONFIGS),
    help=f"Base and audio encoders by name: {', '.join(MODEL_CONFIGS)}.",
)
@click.option("--base-model", help="Vision-language model: hub id or local folder.")
@click.option("--audio-encoder", multiple=True, help="Audio encoder: hub id or local folder; may be given twice.")
@click.option("--data-root", help="Folder with audiocaps/, vqa/ and text/; by default the procedural data.")
@click.option("--output-root", help="Folder for run folders [runs].")
@click.option("--seed", type=int, help="Seed of data order, initialization and sampling [42].")
@click.option("--max-steps", type=int, help="Optimizer steps.")
@click.option("--device", help="auto, cpu, cuda or cuda:N.")
@click.option("--precision", help="fp32 or bf16, of the frozen base.")
@click.option(
    "--tracker",
    multiple=True,
    metavar="NAME",
    help="Experiment tracker: tensorboard, wandb, trackio, mlflow or another of Accelerate's; may be given again.",
)
@click.option("--resume", type=click.Path(path_type=Path), metavar="RUN", help="Resume from a run's newest checkpoint.")
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="YAML or JSON file of settings.")
@click.option(
    "--set", "assignments", multiple=True, callback=_parse_assignments, metavar="KEY=VALUE", help="Any setting, dotted."
)
@click.option(
    "--help-settings", is_flag=True, help="List every setting with its type, choices, bounds and default, and leave."
)
@click.option("--dry-run", is_flag=True, help="Print parameters, memory and hours of the run, and leave.")
@click.option(
    "--gpu",
    callback=_check_gpu,
    shell_complete=completes(GPUS),
    help=f"With --dry-run: it must fit into one of {', '.join(GPUS)}.",
)
@one_line_errors
def train(
    resume: Path | None,
    config_file: Path | None,
    assignments: dict[str, str],
    help_settings: bool,
    dry_run: bool,
    gpu: str | None,
    **options: Any,
) -> None:
    """Train Stage A and evaluate the result.

    With no options: full_retention on the embedded model, offline.
    """
    from safe_train.config import build_config, read_config_file

    if help_settings:
        from safe_train.config_reference import format_settings

        click.echo(format_settings())
        return
    named = _named_settings(options)
    if gpu is not None and not dry_run:
        raise InputError("--gpu", "--dry-run beside it", "none", "add it: a run itself takes --device")
    if resume is not None:
        others = [*named, *assignments, *(["config"] if config_file else []), *(["dry run"] if dry_run else [])]
        _require_no_other_settings(others)
    values = read_config_file(config_file) if config_file else {}
    where = str(config_file) if config_file else "command line"
    config = build_config(values, assignments, where, options=named)
    if dry_run:
        _plan(config, gpu)
        return
    quiet_libraries()
    from safe_train.cli.callbacks import StopRequest, watching
    from safe_train.training.run import resume_run, start_run

    stop = StopRequest()
    with stop.listening(), watching(stop) as callbacks:
        outcome = start_run(config, callbacks) if resume is None else resume_run(resume, callbacks)
    show_outcome(outcome, stop)


def _require_no_other_settings(given: list[str]) -> None:
    """A resumed run keeps its configuration."""
    if given:
        hint = "drop it, or start a new run without --resume"
        raise InputError("--resume", "no other settings: a run resumes as it was configured", given[0], hint)


def _plan(config: StageAConfig, gpu: str | None) -> None:
    """Prints what a run would take; ends the program if it would not fit into the named GPU."""
    quiet_libraries()
    from safe_train.estimate import format_plan, plan_run, require_fit
    from safe_train.training.base_defaults import follow_base
    from safe_train.training.build import resolve_device
    from safe_train.training.trackers import require_trackers

    require_trackers(config.tracking.trackers)
    kind = GPUS[gpu] if gpu is not None else None
    plan = plan_run(follow_base(config, "cuda" if kind is not None else resolve_device(config.device).type))
    click.echo(format_plan(plan, kind))
    if kind is not None:
        require_fit(plan, kind)


def _named_settings(options: dict[str, Any]) -> dict[str, Any]:
    """Options as dotted settings, the unset ones left out."""
    keys = {
        "variant": "variant",
        "variants_file": "variants_file",
        "model_config": "model.config",
        "base_model": "model.base_model",
        "data_root": "data.root",
        "output_root": "output_root",
        "seed": "seed",
        "max_steps": "optimization.max_steps",
        "device": "device",
        "precision": "precision",
    }
    named = {key: options[name] for name, key in keys.items() if options[name] is not None}
    several = {"audio_encoder": "model.audio_encoders", "tracker": "tracking.trackers"}
    return named | {key: options[name] for name, key in several.items() if options[name]}


def show_outcome(outcome: RunOutcome, stop: StopRequest) -> None:
    """Prints the closing table of a run; one that was stopped ends the program with the exit code of its signal."""
    if outcome.table is None:
        tell(f"stopped after step {outcome.training.steps}; resume with: safe-train --resume {outcome.folder}")
        sys.exit(EXIT_INTERRUPTED if stop.signal is signal.SIGINT else EXIT_REQUEUE)
    tell(outcome.table)
    tell(f"run folder: {outcome.folder}")
