"""The commands ``safe`` and ``safe-train``. Heavy imports happen inside the commands, so that ``--help`` is instant."""

from __future__ import annotations

import json
import logging
import signal
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from configs.gpus import GPUS
from configs.model_configs import MODEL_CONFIGS
from configs.retention_variants import OVERFITTING_VARIANTS, RETENTION_VARIANTS, list_variants
from safe_train.errors import InputError
from safe_train.launch import find_launch
from safe_train.shown import one_line
from safe_train.usage import EXIT_INTERRUPTED, EXIT_REQUEUE, OneLineGroup, fail, one_line_errors, unknown

if TYPE_CHECKING:
    from safe_train.config import StageAConfig
    from safe_train.console import StopRequest
    from safe_train.evaluation import Evaluation
    from safe_train.run import RunOutcome

_DISTRIBUTION = "safe-audio"
_CONTROL_DAMAGE = 2.0  # updates of the positive control, relative to the hidden states they are added to


def _check_variant(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and value not in RETENTION_VARIANTS:
        fail(unknown(f"--variant {value}", "a retention variant", value, RETENTION_VARIANTS))
    return value


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


def _print_version(context: click.Context, _parameter: click.Parameter, asked: bool) -> None:
    if not asked or context.resilient_parsing:
        return
    try:
        click.echo(f"{_DISTRIBUTION} {version(_DISTRIBUTION)}")
    except PackageNotFoundError:
        click.echo(f"{_DISTRIBUTION}, a source tree that is not installed")
    context.exit()


def _completes(names: Iterable[str]) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """Shell completion by these names."""
    return lambda _context, _parameter, begun: [name for name in names if name.startswith(begun)]


_HELP = {"help_option_names": ["-h", "--help"]}
_version_option = click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Show the version."
)


@click.group(cls=OneLineGroup, context_settings=_HELP)
@_version_option
def safe() -> None:
    """Add hearing to a vision-language model, and measure that it still sees and answers as before."""


@safe.command(context_settings=_HELP)
@_version_option
@click.option(
    "--variant",
    callback=_check_variant,
    shell_complete=_completes(RETENTION_VARIANTS),
    help=f"Retention variant: {', '.join(RETENTION_VARIANTS)}.",
)
@click.option(
    "--model-config",
    shell_complete=_completes(MODEL_CONFIGS),
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
@click.option("--resume", type=click.Path(path_type=Path), metavar="RUN", help="Go on from a run's newest checkpoint.")
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
    shell_complete=_completes(GPUS),
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
        if others:
            given = others[0]
            way_out = "drop it, or start a new run without --resume"
            raise InputError("--resume", "no other settings: a run goes on as it was configured", given, way_out)
        _run(resume=resume)
        return
    values = read_config_file(config_file) if config_file else {}
    where = str(config_file) if config_file else "command line"
    config = build_config(values, assignments, where, options=named)
    if dry_run:
        _plan(config, gpu)
        return
    _run(config=config)


def _plan(config: StageAConfig, gpu: str | None) -> None:
    """Prints what a run would take; ends the program if it would not fit into the named GPU."""
    quiet_libraries()
    from safe_train.experiment import resolve_device
    from safe_train.following import follow_base
    from safe_train.plan import format_plan, plan_run, require_fit

    kind = GPUS[gpu] if gpu is not None else None
    plan = plan_run(follow_base(config, "cuda" if kind is not None else resolve_device(config.device).type))
    click.echo(format_plan(plan, kind))
    if kind is not None:
        require_fit(plan, kind)


def _named_settings(options: dict[str, Any]) -> dict[str, Any]:
    """Options as dotted settings, the unset ones left out."""
    keys = {
        "variant": "variant",
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
    return named | ({"model.audio_encoders": options["audio_encoder"]} if options["audio_encoder"] else {})


def _run(**source: Any) -> None:
    """Starts or resumes a run, shows it, and leaves with its exit code."""
    quiet_libraries()
    from safe_train.console import StopRequest, watching
    from safe_train.run import resume_run, start_run

    stop = StopRequest()
    with stop.listening(), watching(stop) as observer:
        outcome = (
            resume_run(source["resume"], observer) if "resume" in source else start_run(source["config"], observer)
        )
    show_outcome(outcome, stop)


def show_outcome(outcome: RunOutcome, stop: StopRequest) -> None:
    """Prints the closing table of a run; one that was stopped ends the program with the exit code of its signal."""
    if outcome.table is None:
        _tell(f"stopped after step {outcome.training.steps}; go on with: safe-train --resume {outcome.folder}")
        sys.exit(EXIT_INTERRUPTED if stop.signal is signal.SIGINT else EXIT_REQUEUE)
    _tell(outcome.table)
    _tell(f"run folder: {outcome.folder}")


def _tell(line: str) -> None:
    """Prints a line, of several processes in the main one alone."""
    if find_launch().is_main:
        click.echo(line)


@safe.command()
def variants() -> None:
    """List the retention variants."""
    list_variants()
    click.echo("\nnames of the overfitting ablation:")
    for name, registered in OVERFITTING_VARIANTS.items():
        click.echo(f"  {name} = {registered}")


@safe.command("eval")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--conditions", "names", default="", metavar="NAMES", help="all, or names with commas; default as in training."
)
@click.option("--data-root", help="Folder with the rows; default as in training.")
@click.option("--max-vl", type=click.IntRange(1), help="VL rows; default as in training.")
@click.option("--max-text", type=click.IntRange(1), help="Text-only rows; default as in training.")
@click.option("--max-audio", type=click.IntRange(1), help="Audio rows; default as in training.")
@click.option("--batch-size", type=click.IntRange(1), help="Rows a batch.")
@click.option(
    "--margin", type=click.FloatRange(0, 1, min_open=True, max_open=True), help="Accepted loss, 0.005 = 0.5 points."
)
@click.option(
    "--captions", "caption_metrics", is_flag=True, default=None, help="Also score captions by CIDEr-D (extra: metrics)."
)
@click.option(
    "--positive-control", is_flag=True, help="Damage the fusions first: every condition but the bypass must fail."
)
@click.option("--json", "as_json", is_flag=True, help="Print every figure as JSON in place of the table.")
@one_line_errors
def evaluate(
    run: Path, names: str, data_root: str | None, positive_control: bool, as_json: bool, **changes: float | None
) -> None:
    """Evaluate the newest checkpoint of a run.

    Prints a table and keeps every answer in the run's folder; interrupted, it goes on where it stopped. Exit code 1 if
    the positive control does not fail.
    """
    quiet_libraries()
    from safe_train.console import StopRequest, watching
    from safe_train.evaluation import select
    from safe_train.evaluation.meaning import meaning
    from safe_train.evaluation.table import format_evaluation
    from safe_train.run import evaluate_run, read_config
    from safe_train.text_table import terminal_width

    conditions = select([name.strip() for name in names.split(",")]) if names else None
    settings = {key: value for key, value in changes.items() if value is not None}
    damage = _CONTROL_DAMAGE if positive_control else 0.0
    stop = StopRequest()
    with stop.listening(), watching(stop) as observer:
        evaluation = evaluate_run(run, settings, observer, data_root=data_root, conditions=conditions, damage=damage)
    _tell(json.dumps(evaluation.to_dict(), indent=2) if as_json else format_evaluation(evaluation, terminal_width()))
    if positive_control:
        _say_control(evaluation)
    elif find_launch().is_main:
        margin = settings.get("margin", read_config(run).evaluation.margin)
        for line in meaning(evaluation, margin=margin).lines():
            click.echo(line, err=True)


def _say_control(evaluation: Evaluation) -> None:
    """Says whether a model that was damaged on purpose fails under every condition; leaves with 1 if it does not."""
    passed = evaluation.passed_although_damaged()
    if find_launch().is_main:
        found = (
            f"the positive control did not fail: {', '.join(passed)}" if passed else "every condition fails, as it must"
        )
        click.echo(f"the fusions were damaged on purpose: {found}", err=True)
    if passed:
        sys.exit(1)


@safe.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), help="The page; by default report.html beside the runs.")
@click.option("--picture", type=click.Path(path_type=Path), help="Also draw audio gain against VL change to this PNG.")
@one_line_errors
def report(runs: tuple[Path, ...], output: Path | None, picture: Path | None) -> None:
    """Compare finished runs in a table, a page and a JSON file.

    RUNS are run folders, or folders that hold some at any depth. Runs that differ in their seeds alone are one arm.
    """
    quiet_libraries()
    from safe_train.report import read_runs, write_report
    from safe_train.summary import draw_picture, format_table
    from safe_train.text_table import terminal_width

    found = read_runs(runs)
    click.echo(format_table(found.summaries, terminal_width()))
    if picture is not None:
        draw_picture(found.summaries, picture)
    written = write_report(found, output)
    for left in written.left_out:
        click.echo(one_line(f"left out: {left.folder}: {left.reason}"))
    click.echo(f"report: {written.page}\nfigures: {written.figures}")


@safe.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("question")
@click.option("--image", type=click.Path(path_type=Path), help="An image file.")
@click.option("--audio", type=click.Path(path_type=Path), help="An audio file; without it SAFE hears silence.")
@one_line_errors
def ask(run: Path, question: str, image: Path | None, audio: Path | None) -> None:
    """Ask the base and SAFE a question."""
    quiet_libraries()
    from safe_train.ask import ask as ask_both

    answers = ask_both(run, question, image, audio)
    click.echo(f"base: {answers.base}\nSAFE: {answers.safe}")


@safe.command()
@click.argument("folder", type=click.Path(path_type=Path))
@one_line_errors
def replay(folder: Path) -> None:
    """Compute a step again that met NaN or infinity.

    FOLDER is RUN/non_finite/step-N, which such a run keeps. Exit code 1 if everything is finite this time.
    """
    quiet_libraries()
    from safe_train.step_replay import replay as replay_step

    replayed = replay_step(folder)
    click.echo(f"step {replayed.step}: " + ", ".join(f"{name} {value}" for name, value in replayed.losses.items()))
    click.echo(f"weights not finite before it: {', '.join(replayed.weights) or 'none'}")
    if replayed.is_finite:
        click.echo("finite this time: the step could not be reproduced", err=True)
        sys.exit(1)


@safe.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--base-model", help="Hub id of the base, where the run loaded it from a folder.")
@click.option(
    "--audio-encoder",
    "audio_encoders",
    multiple=True,
    help="Hub id of the audio encoder, where the run loaded it from a folder; once for each.",
)
@click.option("--base-revision", help="Branch, tag or commit of the base on the hub.")
@click.option("--license", default="unknown", show_default=True, help="License of the adapter, as the hub writes it.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier export in FOLDER.")
@one_line_errors
def export(run: Path, folder: Path, overwrite: bool, **publication: Any) -> None:
    """Write a run's adapter and model card for Hugging Face.

    FOLDER then loads by the Auto classes, and can be uploaded to the hub; the card has the run's results.
    """
    quiet_libraries()
    from safe_train.huggingface.export import Publication, export_run

    given = {name: value for name, value in publication.items() if value is not None}
    export_run(run, folder, Publication(**given), overwrite=overwrite)
    click.echo(f"adapter: {folder}")


@safe.command()
@one_line_errors
def env() -> None:
    """Show versions, devices and the kernel backend.

    Combinations of packages that are known not to work are named.
    """
    from safe_train.environment import collect, format_environment

    click.echo(format_environment(collect()))


@safe.command(
    "container",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def container_group(arguments: tuple[str, ...]) -> None:
    """Build, test and compare the container image."""
    from containers.cli import container  # not needed by anything else here

    container.main(list(arguments), prog_name="safe container")


@safe.group("data")
def data_group() -> None:
    """Check data folders, and make the procedural data."""


@data_group.command("embedded")
@click.option("--val-questions", type=click.IntRange(1), help="VL questions of the validation split [2000].")
@one_line_errors
def embedded_data(val_questions: int | None) -> None:
    """Make the procedural data and print their folder.

    Nothing is written where they are there already.

    The first questions of a larger validation split are those of a smaller one; the other splits stay as they are.
    """
    from safe_train.embedded.dataset import DatasetSizes, embedded_data_root

    click.echo(embedded_data_root(DatasetSizes(val_questions=val_questions) if val_questions else DatasetSizes()))


@data_group.command("check")
@click.argument("root", type=click.Path(path_type=Path))
@click.option("--set", "sets", multiple=True, help="audiocaps, wavcaps, avqa, vqa, text or pack; default all there.")
@click.option("--split", "splits", multiple=True, help="Splits to read; default those of train, val, test there.")
@click.option("--json", "report_path", type=click.Path(path_type=Path), help="Also write the report to this file.")
@one_line_errors
def check_data(root: Path, sets: tuple[str, ...], splits: tuple[str, ...], report_path: Path | None) -> None:
    """Open every file of a data folder or pack.

    Lists are read, audio files decoded and images opened; what is missing or damaged is counted. Exit code 2 if
    anything is.
    """
    from safe_train.data.check import check_root, require_no_defects
    from safe_train.data.check_report import reports_json
    from safe_train.files import write_text

    reports = []
    for report in check_root(root, sets=sets, splits=splits):
        click.echo(str(report))
        reports.append(report)
    if report_path is not None:
        write_text(report_path, reports_json(root, reports))
    require_no_defects(root, reports)


def quiet_libraries() -> None:
    """Keeps the libraries' own progress bars out of the output; their warnings stay."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in ("httpx", "matplotlib"):
        logging.getLogger(name).setLevel(logging.WARNING)
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
