"""A short run from command to closing table, what is read back from it, and signals on the way."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from safe_train.cli import safe
from safe_train.config import build_config
from safe_train.data.datasets.vqa import VQA
from safe_train.data.example import Example
from safe_train.embedded.dataset import DatasetSizes, write_dataset
from safe_train.errors import InputError
from safe_train.evaluation.conditions import CONDITIONS, Condition, Playback, keep_retention
from safe_train.evaluation.evaluator import Evaluator
from safe_train.metrics.metric import Metric, score_each
from safe_train.metrics.registry import METRICS
from safe_train.report.summary import HEADER, read_summary
from safe_train.runs.layout import read_config
from safe_train.training.build import load_examples
from safe_train.training.callbacks import RunCallbacks
from safe_train.training.run import resume_run, start_run
from tests.conftest import SMALL_SIZES
from tests.files import drop_keys

ROOT = Path(__file__).parents[2]
SMALL = DatasetSizes(**SMALL_SIZES)
SETTINGS = (
    "optimization.audio_batch_size=4", "optimization.vl_batch_size=4", "retention.fisher_samples=8",
    "evaluation.max_vl=24", "evaluation.max_audio=20", "evaluation.batch_size=7",
)  # fmt: skip


DEFAULT_CONDITIONS = ("silence", "distractor", "loud")
"""Those of a run that names none."""

TEXT = {"train": 20, "val": 12}
"""Text-only questions; each split has two documents beside them."""


@pytest.fixture(scope="module")
def small_data(small_data, tmp_path_factory):
    """The small data with text-only examples of this file's own."""
    root = tmp_path_factory.mktemp("with_text") / "data"
    shutil.copytree(small_data, root)
    for split, count in TEXT.items():
        rows = [
            {"id": f"{split}{k}", "question": f"is {k} a digit?", "answer": "yes" if k < 10 else "no"}
            for k in range(count)
        ] + [{"id": f"{split} text {k}", "text": f"a {k} and two low bells"} for k in range(2)]
        (root / "text").mkdir(exist_ok=True)
        (root / "text" / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return root


def invoke(*arguments):
    result = CliRunner().invoke(safe, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def train_arguments(data, root, *settings):
    assignments = [word for setting in (*SETTINGS, *settings) for word in ("--set", setting)]
    return ["train", "--data-root", data, "--output-root", root, "--seed", 5, *assignments]


@pytest.fixture(scope="module")
def finished(small_data, tmp_path_factory):
    """A run of full_retention with an evaluation half way, and what it printed."""
    root = tmp_path_factory.mktemp("runs")
    settings = ("optimization.max_steps=6", "log_every=2", "checkpoint_every=4", "evaluation.eval_steps=3")
    result = invoke(*train_arguments(small_data, root, *settings))
    (folder,) = root.iterdir()
    return folder, result


@pytest.fixture
def run(finished):
    return finished[0]


def metrics_of(run):
    return json.loads((run / "metrics.json").read_text())


def test_the_folder_is_named_by_time_and_variant_and_holds_what_it_should(run):
    assert re.fullmatch(r"\d{8}-\d{6}_full_retention", run.name)
    assert {path.name for path in run.iterdir()} == {
        "config.json", "metrics.json", "metrics.jsonl", "evaluations.jsonl", "subset_indices.json", "checkpoints",
        "summary.txt", "audio_gain_vs_vl_change.png", "evaluation",
    }  # fmt: skip
    suffixes = {path.suffix for path in run.rglob("*") if path.is_file()}
    assert suffixes == {".json", ".jsonl", ".safetensors", ".txt", ".png"}  # nothing pickled


@pytest.mark.parametrize("part", ["train_audio", "train_vl", "train_text", "val_vl", "val_text", "val_audio"])
def test_a_placeholder_is_refused_before_any_work(small_data, tmp_path, part):
    """In the last row of any part; the base has answered nothing by then."""
    config = build_config({}, {"data.root": str(small_data), "output_root": str(tmp_path)})
    rows, stages = load_examples(config), []
    rows = replace(rows, **{part: [*getattr(rows, part), Example("last", "an <image>?", ("a",))]})
    with pytest.raises(InputError, match=r"example last: expected text without the processor's placeholders"):
        start_run(config, RunCallbacks(stage=stages.append), rows=rows)
    assert stages == ["loading"]
    assert list(tmp_path.iterdir()) == []


def test_the_configuration_is_whole(run, small_data):
    config = read_config(run)
    assert (config.seed, config.variant, config.data.root) == (5, "full_retention", str(small_data))
    written = json.loads((run / "config.json").read_text())
    assert written["effective"]["retention_variant"]["distillation_weight"] == 0.2
    assert written["effective"]["trainable_parameters"] > 0
    assert set(written["versions"]) >= {"python", "torch", "transformers"}
    assert written["machine"]["threads"] == torch.get_num_threads()


def test_subsets_are_told_by_index(run):
    indices = json.loads((run / "subset_indices.json").read_text())
    assert {name: len(values) for name, values in indices.items()} == {
        "train_audio": 40, "train_vl": 60, "train_text": 22, "val_audio": 20, "val_vl": 24, "val_text": 14,
    }  # fmt: skip
    assert max(indices["val_vl"]) < 40


def test_metrics_have_a_line_at_each_logged_step(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert lines[-1]["gate"] == 1.0
    assert {"audio_loss", "kl", "ewc", "null_space_removed", "gradient_norm"} <= set(lines[-1])


def test_checkpoints_are_written_as_often_as_asked(run):
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-0000004", "step-0000006"]


def test_the_evaluation_half_way_uses_a_tenth_of_the_rows(run):
    (line,) = (json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines())
    assert line["step"] == 3
    assert line["vl"]["bypass"]["bit_equal"] is True
    accuracies = line["vl"]["silence"]["by_kind"].values()
    assert len(accuracies) <= 3  # 24 rows, every tenth


def test_the_bypass_is_the_base_bit_for_bit_and_the_fusion_was_at_work(run):
    vl = metrics_of(run)["evaluation"]["vl"]
    assert vl["bypass"]["bit_equal"] is True
    assert vl["bypass"]["fusion_calls"] == 0
    assert all(
        vl[name]["is_measurement"] and vl[name]["fusion_calls"] > 0 for name in ("silence", "distractor", "loud")
    )


def test_text_only_rows_are_measured_like_vl_rows(run):
    evaluation = metrics_of(run)["evaluation"]
    for kind, rows in (("text", 12), ("documents", 2)):
        results = evaluation[kind]
        assert set(results) == {"bypass", *DEFAULT_CONDITIONS}
        assert {result["rows"] for result in results.values()} == {rows}
        assert results["bypass"]["bit_equal"] is True
        assert results["silence"]["is_measurement"]
    assert evaluation["base_bits_per_byte"]["mean"] > 0
    (base,) = run.glob("evaluation/base-*")
    (safe,) = set(run.glob("evaluation/*/")) - {base}
    assert {path.name for path in base.iterdir()} == {
        "key.json", "rows.vl.jsonl", "rows.audio.jsonl", "rows.text.jsonl", "vl.base.jsonl", "text.base.jsonl",
    }  # fmt: skip
    assert {f"text.{name}.jsonl" for name in ("bypass", "silence", "distractor", "loud")} <= {
        p.name for p in safe.iterdir()
    }
    key = json.loads((safe / "key.json").read_text())
    assert (key["max_new_tokens"], key["text_max_new_tokens"]) == (12, 12)
    (line,) = (json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines())
    assert (line["text"]["silence"]["rows"], line["documents"]["silence"]["rows"]) == (12, 2)  # too few for a tenth


def test_the_closing_table_is_printed_and_kept(finished):
    run, result = finished
    table = (run / "summary.txt").read_text()
    assert result.stdout == f"{table}\nrun folder: {run}\n"
    blocks = [re.split(r" {2,}", block.splitlines()[0]) for block in table.split("\n\n")]
    names = [name for block in blocks if block[0] == "run" for name in block[1:]]
    assert ["run", *names] == list(HEADER)  # in blocks that fit a terminal, each with the name of the run
    assert max(map(len, table.split("\n\nVL base:")[0].splitlines())) <= 80
    assert "bit-equal" in table
    evaluation = metrics_of(run)["evaluation"]
    assert f"{100 * evaluation['base']['mean']:.1f} %" in table
    assert f"{100 * evaluation['vl']['distractor']['difference']['mean']:+.1f} [" in table


def test_the_picture_is_one(run):
    with Image.open(run / "audio_gain_vs_vl_change.png") as image:
        assert image.format == "PNG"
        assert len(image.convert("L").getcolors()) > 10


def test_the_log_tells_the_stages(finished):
    stages = re.findall(r"^\[ *[\d.]+ s\] (.*)$", finished[1].stderr, flags=re.MULTILINE)
    assert stages[:5] == ["loading", "reading files", "VL, base", "text, base", "training"]
    assert [words for words in stages if words.startswith("text, ")][1:] == [
        "text, bypass", "text, silence", "text, distractor", "text, loud",
    ]  # fmt: skip
    assert stages[-1] == "audio, loud"


def test_report_shows_runs_side_by_side(run, tmp_path):
    printed = invoke("report", run, run, "--picture", tmp_path / "two.png").stdout
    first_table = printed.split("\n\n")[0]
    assert first_table.count("full_retention 5") == 2
    assert (tmp_path / "two.png").stat().st_size > 0


@pytest.mark.parametrize("name", ["none/two.png", "two.xyz"])
def test_a_picture_that_cannot_be_written(run, tmp_path, name):
    result = CliRunner().invoke(safe, ["report", str(run), "--picture", str(tmp_path / name)])
    assert result.exit_code == 2
    assert f"{tmp_path / name}: expected a picture that can be written" in result.stderr


def test_a_mechanism_that_never_became_active_is_a_warning(run, tmp_path):
    copy = Path(shutil.copytree(run, tmp_path / run.name))
    assert "became active" not in invoke("report", copy).stdout
    metrics = metrics_of(run)
    metrics["training"]["inactive"] = ["Fisher"]
    (copy / "metrics.json").write_text(json.dumps(metrics))
    assert "WARNING full_retention 5: Fisher was on but never became active" in invoke("report", copy).stdout


def without_seconds(values):
    return {key: value for key, value in values.items() if key not in ("seconds", "data_seconds")}


@pytest.fixture
def copied(run, tmp_path):
    return Path(shutil.copytree(run, tmp_path / run.name))


def test_eval_gives_the_figures_of_the_run_again(run, copied):
    """With the answers that are there, and with all of them asked for again."""
    for _ in range(2):
        again = json.loads(invoke("eval", copied, "--json").stdout)
        assert without_seconds(again) == without_seconds(metrics_of(run)["evaluation"])
        shutil.rmtree(copied / "evaluation")


def test_eval_prints_a_table(copied):
    result = invoke("eval", copied)
    assert result.stdout.startswith("VL questions: base accuracy ")
    assert re.search(r"^bypass +\d+ +\S+ % +bit-equal ", result.stdout, re.MULTILINE)


def test_eval_goes_on_where_it_was_cut_off(copied):
    """Half of one file is taken away; no other file is written again, and the answers are the same."""
    (cut,) = copied.glob("evaluation/*/vl.silence.jsonl")
    whole, others = cut.read_bytes(), [path for path in copied.glob("evaluation/*/*.jsonl") if path != cut]
    times = {path: path.stat().st_mtime_ns for path in others if not path.name.startswith("rows.")}
    cut.write_bytes(whole[: len(whole) // 2])
    invoke("eval", copied)
    assert cut.read_bytes() == whole
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_more_conditions_join_those_of_the_run(copied):
    found = json.loads(invoke("eval", copied, "--conditions", "loud,gate_0.5", "--json").stdout)
    assert set(found["vl"]) == {"bypass", "loud", "gate_0.5"}
    (results,) = copied.glob("evaluation/*/results.json")
    assert set(json.loads(results.read_text())["evaluation"]["vl"]) == {
        "bypass", "silence", "distractor", "loud", "gate_0.5"
    }  # fmt: skip


def test_eval_with_other_rows(copied):
    fewer = json.loads(invoke("eval", copied, "--max-vl", 5, "--max-audio", 3, "--json").stdout)
    assert sum(fewer["vl"]["silence"]["by_kind"].values()) <= 5
    assert fewer["vl"]["bypass"]["bit_equal"] is True
    assert len(list(copied.glob("evaluation/*/results.json"))) == 2  # other rows, another folder


def test_eval_with_fewer_text_only_rows_or_at_another_gate(copied):
    arguments = ("--conditions", "silence", "--max-text", 3)
    (found, of_three) = (
        json.loads(invoke("eval", copied, *words, "--json").stdout) for words in (arguments[:2], arguments)
    )
    counts = [
        sum(result["silence"]["rows"] for result in (r["text"], r["documents"]) if result) for r in (found, of_three)
    ]
    assert counts == [14, 3]
    set_gate(copied, 0.5)
    half = json.loads(invoke("eval", copied, *arguments[:2], "--json").stdout)
    ratio = half["documents"]["silence"]["updates"][0] / found["documents"]["silence"]["updates"][0]
    assert ratio == pytest.approx(0.5, rel=1e-3)  # the first fused layer reads what no fusion has changed
    keys = [json.loads(path.read_text())["key"] for path in copied.glob("evaluation/*/results.json")]
    assert sorted(key.get("gate", 1.0) for key in keys) == [0.5, 1.0, 1.0]


def set_gate(run, gate):
    config = json.loads((run / "config.json").read_text())
    config["evaluation"]["gate"] = gate
    (run / "config.json").write_text(json.dumps(config))


def test_a_run_from_before_there_were_text_only_rows_goes_on_where_it_was(copied):
    """Its configuration knows none of the new settings, its data no text, and its results none of the new figures."""
    shutil.rmtree(copied / "evaluation")
    config = json.loads((copied / "config.json").read_text())
    for section, names in {
        "evaluation": ("max_text", "gate", "audio_metric"),
        "data": ("train_text_source", "val_text_source", "max_train_text", "text_ratio", "gains_db"),
        "model": ("audio_level_db",),
    }.items():
        for name in names:
            config[section].pop(name)
    config["evaluation"]["max_new_tokens"] = 12
    root = copied.parent / "older"
    shutil.copytree(config["data"]["root"], root)
    shutil.rmtree(root / "text")
    config["data"]["root"] = str(root)
    (copied / "config.json").write_text(json.dumps(config))
    assert read_config(copied).model.audio_level_db is None
    for checkpoint in (copied / "checkpoints").iterdir():
        drop_keys(checkpoint, "adapter_config.json", "audio_level_db", "audio_window")
    invoke("eval", copied, "--conditions", "silence")
    (path,) = copied.glob("evaluation/*/results.json")
    stored = json.loads(path.read_text())
    assert not [name for name in stored["key"] if "text" in name]
    assert not list(copied.glob("evaluation/*/*text*"))
    stored.pop("sha256")
    for name in NEW_FIGURES:
        stored["evaluation"].pop(name)
    path.write_text(json.dumps(stored))
    answers = {file: file.stat().st_mtime_ns for file in copied.glob("evaluation/*/vl.silence.jsonl")}
    found = json.loads(invoke("eval", copied, "--conditions", "distractor", "--json").stdout)
    assert set(found["vl"]) == {"bypass", "distractor"}
    (again,) = copied.glob("evaluation/*/results.json")
    assert again == path  # the same key
    assert set(json.loads(path.read_text())["evaluation"]["vl"]) == {"bypass", "silence", "distractor"}
    invoke("eval", copied, "--conditions", "silence")
    assert {file: file.stat().st_mtime_ns for file in answers} == answers


NEW_FIGURES = (
    "guessing", "base_above_guessing", "text", "base_text", "base_text_format_errors", "text_guessing",
    "base_text_above_guessing", "documents", "base_bits_per_byte", "audio_metric",
)  # fmt: skip


def test_eval_tells_what_its_figures_are_no_measurement_of(copied):
    """Six steps teach nobody to hear."""
    told = invoke("eval", copied).stderr.splitlines()
    (line,) = [line for line in told if line.startswith("hearing: ")]
    assert "not significantly above 0; train longer" in line
    assert not [line for line in told if line.startswith("VL: ")]


def test_figures_of_another_metric_are_not_put_beside_those_of_this_one(copied):
    first = json.loads(invoke("eval", copied, "--conditions", "distractor", "--json").stdout)
    set_metric(copied, {"token_f1": "exact_match", "exact_match": "token_f1"}[first["audio_metric"]])
    second = json.loads(invoke("eval", copied, "--conditions", "loud", "--json").stdout)
    assert {first["audio_metric"], second["audio_metric"]} == {"exact_match", "token_f1"}
    (path,) = copied.glob("evaluation/*/results.json")
    kept = json.loads(path.read_text())["evaluation"]
    assert set(kept["audio"]) == {"matched", "silence", "loud"}
    assert set(kept["audio_gain"]) == {"silence", "loud"}
    assert {"distractor", "loud"} <= set(kept["vl"])


def set_metric(run, metric):
    config = json.loads((run / "config.json").read_text())
    config["evaluation"]["audio_metric"] = metric
    (run / "config.json").write_text(json.dumps(config))


def test_a_single_document_is_refused_before_the_work(copied, tmp_path):
    root = Path(shutil.copytree(read_config(copied).data.root, tmp_path / "one"))
    (root / "text" / "val.jsonl").write_text(json.dumps({"text": "one low bell"}) + "\n")
    result = CliRunner().invoke(safe, ["eval", str(copied), "--data-root", str(root)])
    assert result.exit_code == 2
    assert "at least two documents" in result.stderr.splitlines()[-1]


def test_the_positive_control_fails_and_keeps_its_own_answers(copied):
    result = CliRunner().invoke(safe, ["eval", str(copied), "--positive-control", "--json"])
    # The base is no better than chance on this file's own text: there, damage has nothing to take away.
    assert result.exit_code == 1
    told = result.stderr.splitlines()[-1]
    assert told.startswith("the fusions were damaged on purpose: the positive control did not fail: text silence")
    assert "VL" not in told
    assert "gain" not in told
    control = json.loads(result.stdout)
    assert control["vl"]["bypass"]["bit_equal"] is True
    assert control["vl"]["silence"]["difference"]["high"] < 0
    damages = [json.loads(path.read_text())["key"]["damage"] for path in copied.glob("evaluation/*/results.json")]
    assert sorted(damages) == [0.0, 2.0]


def test_resuming_a_finished_run_trains_no_more(run, tmp_path):
    copy = Path(shutil.copytree(run, tmp_path / run.name))
    invoke("train", "--resume", copy)
    assert metrics_of(copy)["training"]["steps"] == 6
    assert without_seconds(metrics_of(copy)["evaluation"]) == without_seconds(metrics_of(run)["evaluation"])
    assert (copy / "metrics.jsonl").read_text() == (run / "metrics.jsonl").read_text()


def test_resuming_a_finished_run_leaves_what_it_took(run, tmp_path):
    """The second process only reads the answers: its seconds are not those of the run."""
    copy = Path(shutil.copytree(run, tmp_path / run.name))
    result = invoke("train", "--resume", copy)
    assert "training was done before" in result.stderr
    assert metrics_of(copy) == metrics_of(run)
    assert (copy / "summary.txt").read_text() == (run / "summary.txt").read_text()


def test_resuming_a_finished_run_whose_metrics_are_damaged_writes_them_anew(run, tmp_path):
    copy = Path(shutil.copytree(run, tmp_path / run.name))
    (copy / "metrics.json").write_text("{")
    invoke("train", "--resume", copy)
    assert without_seconds(metrics_of(copy)["evaluation"]) == without_seconds(metrics_of(run)["evaluation"])
    assert metrics_of(copy)["training"]["steps"] == 6


def test_a_stop_within_the_evaluation_half_way_is_heard_and_leaves_the_same_run(finished, tmp_path, monkeypatch):
    """After its first batch; what is written then goes on to the figures of a run that nobody stopped."""
    folder, _ = finished
    config = read_config(folder).model_copy(update={"output_root": str(tmp_path)})
    steps, batches, generate = [], [], Evaluator._generate

    def counted(evaluator, rows, *options):
        batches.append(len(rows))
        return generate(evaluator, rows, *options)

    monkeypatch.setattr(Evaluator, "_generate", counted)
    callbacks = RunCallbacks(step=lambda step, _total, _metrics: steps.append(step), should_stop=lambda: 3 in steps)
    outcome = start_run(config, callbacks)
    assert (steps, len(batches)) == ([1, 2, 3], 1)
    assert (outcome.training.steps, outcome.training.finished, outcome.table) == (3, False, None)
    assert [path.name for path in (outcome.folder / "checkpoints").iterdir()] == ["step-0000003"]
    assert not (outcome.folder / "evaluations.jsonl").exists()
    stopped_again = resume_run(outcome.folder, RunCallbacks(should_stop=lambda: len(batches) > 1))
    assert (stopped_again.training.steps, stopped_again.training.finished, len(batches)) == (3, False, 2)
    resume_run(outcome.folder, RunCallbacks())
    for name in ("evaluations.jsonl", "metrics.jsonl"):
        found, expected = (
            [without_seconds(json.loads(line)) for line in (run / name).read_text().splitlines()]
            for run in (outcome.folder, folder)
        )
        assert found == expected
    for name in ("step-0000004", "step-0000006"):
        found, expected = (run / "checkpoints" / name / "adapter.safetensors" for run in (outcome.folder, folder))
        assert found.read_bytes() == expected.read_bytes()


@pytest.mark.parametrize("files", [[], ["--image"], ["--audio"], ["--image", "--audio"]], ids="+".join)
def test_ask_gives_both_answers(run, small_data, files):
    paths = {
        "--image": next((small_data / "vqa" / "val2014").glob("*.png")),
        "--audio": next((small_data / "audiocaps" / "audio" / "val").glob("*.wav")),
    }
    printed = invoke(
        "ask", run, "how many shapes are there?", *(word for name in files for word in (name, paths[name]))
    )
    assert re.fullmatch(r"base: .*\nSAFE: .*\n", printed.stdout)


def test_ask_reads_the_image(run, small_data):
    """The base alone names the count that the annotation gives."""
    folder = small_data / "vqa"
    annotations = json.loads((folder / "v2_mscoco_val2014_annotations.json").read_text())["annotations"]
    questions = json.loads((folder / "v2_OpenEnded_mscoco_val2014_questions.json").read_text())["questions"]
    pairs = list(zip(questions, annotations, strict=True))[:4]
    right = 0
    for question, annotation in pairs:
        image = folder / "val2014" / f"COCO_val2014_{question['image_id']:012d}.png"
        printed = invoke("ask", run, question["question"], "--image", image).stdout
        right += printed.startswith(f"base: {annotation['multiple_choice_answer']}\n")
    assert right >= 3


@pytest.mark.parametrize("option", ["--image", "--audio"])
@pytest.mark.parametrize("content", [None, b"nothing of the kind"], ids=["missing", "damaged"])
def test_ask_about_a_file_that_cannot_be_read(run, tmp_path, option, content):
    path = tmp_path / ("a.png" if option == "--image" else "a.wav")
    if content is not None:
        path.write_bytes(content)
    result = CliRunner().invoke(safe, ["ask", str(run), "what?", option, str(path)])
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith(f"error: {path}: expected ")


def test_a_checkpoint_of_another_configuration(run, tmp_path):
    copy = Path(shutil.copytree(run, tmp_path / run.name))
    config = json.loads((copy / "config.json").read_text())
    config["model"]["fusion_dim"] = 64
    (copy / "config.json").write_text(json.dumps(config))
    for words, told in (
        (
            ["train", "--resume", copy],
            "expected the settings of step-0000006, got model.fusion_dim 64 in place of null",
        ),
        (["eval", copy], "expected the tensors of this configuration"),
        (["ask", copy, "what?"], "expected the tensors of this configuration"),
    ):
        result = CliRunner().invoke(safe, list(map(str, words)))
        assert result.exit_code == 2
        assert told in result.stderr.splitlines()[-1]


def test_an_unfinished_run_has_no_summary(run, tmp_path):
    copy = Path(shutil.copytree(run, tmp_path / run.name))
    (copy / "metrics.json").unlink()
    with pytest.raises(InputError, match="the metrics of a finished run"):
        read_summary(copy)


@pytest.fixture
def stopped(small_data, tmp_path):
    """Starts a run in a process of its own, sends it a signal in the middle, and waits for its end."""

    def send(number):
        settings = ("optimization.max_steps=2000", "log_every=1", "variant=no_retention")
        code = "from safe_train.cli import safe; safe()"
        arguments = map(str, train_arguments(small_data, tmp_path, *settings))
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            while not list(tmp_path.glob("*/metrics.jsonl")):  # written by the first step
                assert process.poll() is None, process.communicate()
                time.sleep(0.02)
            process.send_signal(number)
            stdout, _ = process.communicate(timeout=120)
        finally:
            process.kill()
        (folder,) = tmp_path.iterdir()
        return process.returncode, stdout, folder

    return send


def test_sigint_leaves_a_checkpoint_that_can_be_used(stopped, small_data):
    returned, stdout, folder = stopped(signal.SIGINT)
    assert returned == 130
    assert f"safe-train --resume {folder}" in stdout
    assert not (folder / "metrics.json").exists()
    clip = next((small_data / "audiocaps" / "audio" / "val").glob("*.wav"))
    assert "SAFE: " in invoke("ask", folder, "what do you hear?", "--audio", clip).stdout


def test_sigusr1_leaves_a_run_that_goes_on(stopped):
    returned, stdout, folder = stopped(signal.SIGUSR1)
    steps = int(re.search(r"stopped after step (\d+)", stdout)[1])
    assert returned == 75
    assert [path.name for path in (folder / "checkpoints").iterdir()] == [f"step-{steps:07d}"]
    finish_after(folder, steps + 2)
    invoke("train", "--resume", folder)
    assert metrics_of(folder)["training"]["steps"] == steps + 2


def finish_after(folder, steps):
    """Shortens the rest of a run, so that a test can wait for its end; its checkpoint does not say what it was."""
    config = json.loads((folder / "config.json").read_text())
    config["optimization"]["max_steps"] = steps
    (folder / "config.json").write_text(json.dumps(config))
    (checkpoint,) = (folder / "checkpoints").iterdir()
    drop_keys(checkpoint, "state.json", "settings")


def test_eval_on_rows_of_another_folder(copied, tmp_path):
    """More validation questions; the first of them, and the clips, are those of the smaller folder."""
    root = tmp_path / "larger"
    write_dataset(root, replace(SMALL, val_questions=SMALL.val_questions + 20))
    arguments = ("--max-vl", SMALL.val_questions + 20, "--data-root", root)
    larger = json.loads(invoke("eval", copied, *arguments, "--json").stdout)
    assert larger["vl"]["bypass"]["rows"] == SMALL.val_questions + 20
    assert larger["vl"]["bypass"]["bit_equal"] is True


def test_a_larger_validation_split_begins_with_the_smaller_one(small_data, tmp_path):
    write_dataset(tmp_path, replace(SMALL, val_questions=SMALL.val_questions + 20))
    small, large = (VQA().records(root, "val") for root in (small_data, tmp_path))
    assert [q.question for q in large[: len(small)]] == [q.question for q in small]
    assert [q.answers for q in large[: len(small)]] == [q.answers for q in small]
    assert len(large) == len(small) + 20


@pytest.mark.parametrize(
    ("limit", "place"),
    [(2_000, "a file that can be written"), (60_000, "room for a checkpoint")],
    ids=["settings", "checkpoint"],
)
def test_a_disk_without_room_is_one_line_and_leaves_nothing_half_written(small_data, tmp_path, limit, place):
    """The largest file is limited, which fails a write in the middle as a full disk does."""
    code = (
        f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); "
        "from safe_train.cli import safe; safe()"
    )
    arguments = train_arguments(small_data, tmp_path, "optimization.max_steps=2", "variant=no_retention")
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert place in errors[0]
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*.partial"))
    assert not list(tmp_path.glob("*/checkpoints/step-*"))


def test_a_run_from_before_there_were_text_only_rows_goes_on_without_them(finished, tmp_path):
    """Its configuration does not name their source; that of a new run always does."""
    folder, _ = finished
    values = json.loads((folder / "config.json").read_text())
    assert values["data"].pop("train_text_source") == "auto"
    assert read_config(folder).data.train_text_source == "auto"
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert read_config(tmp_path).data.train_text_source == "none"
    assert read_config(tmp_path).data.val_text_source == "auto"  # what it lost can be measured nevertheless


# --- a new condition or metric is one definition and one line of its registry


def hear_backwards(examples, distractors, draw):
    """Each example hears the clip of its counterpart from the other end of the list."""
    clips = distractors.unrelated(examples, draw)
    return [replace(example, audio=clip) for example, clip in zip(examples, reversed(clips), strict=True)]


def test_a_registered_condition_is_evaluated_and_reported(copied, monkeypatch):
    """Under a half-open gate its loss would not count; with the gate open it does, and the report names it."""
    what = Playback("the clip of a counterpart", hear_backwards)
    monkeypatch.setitem(CONDITIONS, "backwards", Condition("backwards", vl=what, audio=what))
    monkeypatch.setitem(CONDITIONS, "ajar", Condition("ajar", vl=what, gate=0.3))
    table = invoke("eval", copied, "--conditions", "backwards,ajar").stdout
    assert len(re.findall(r"^backwards +\d+ ", table, re.MULTILINE)) == 4  # VL, text-only, documents, audio
    assert len(re.findall(r"^ajar +\d+ ", table, re.MULTILINE)) == 3
    (results,) = copied.glob("evaluation/*/results.json")
    evaluation = json.loads(results.read_text())["evaluation"]
    assert {"backwards", "ajar"} <= set(evaluation["vl"]) & set(evaluation["text"]) & set(evaluation["documents"])
    assert "backwards" in evaluation["audio"]
    assert "backwards" in evaluation["audio_gain"]
    assert "ajar" not in evaluation["audio"]
    assert (results.parent / "vl.backwards.jsonl").is_file()
    invoke("report", copied, "--output", copied / "page.html")
    page, figures = (copied / "page.html").read_text(), json.loads((copied / "page.json").read_text())
    assert '<th scope="col">backwards</th>' in page
    assert page.count("the clip of a counterpart") >= 2
    assert "backwards" in figures["arms"][0]["vl"]
    assert set(keep_retention(figures["arms"][0]["vl"])) == {"silence", "distractor", "loud", "backwards"}


def test_an_unregistered_condition_is_refused(copied):
    """Negative control of the test above."""
    result = CliRunner().invoke(safe, ["eval", str(copied), "--conditions", "backwards"])
    assert result.exit_code == 2
    assert "--conditions: expected all or some of bypass, matched" in result.stderr


def test_a_registered_metric_scores_tables_and_report(copied, monkeypatch):
    """Its value is the number of words that an answer and its first reference begin with in common, at most four."""

    def count(said, references):
        same = [a == b for a, b in zip(said.split(), references[0].split(), strict=False)][:4]
        return float(same.index(False) if False in same else len(same))

    metric = Metric("first_words", "first words", score_each(count), highest=4.0)
    monkeypatch.setitem(METRICS, "first_words", metric)
    set_metric(copied, "first_words")
    table = invoke("eval", copied).stdout
    (results,) = copied.glob("evaluation/*/results.json")
    evaluation = json.loads(results.read_text())["evaluation"]
    lines = [json.loads(line) for line in (results.parent / "audio.matched.jsonl").read_text().splitlines()]
    rows = [json.loads(line) for line in (results.parent / "rows.audio.jsonl").read_text().splitlines()]
    values = [count(line["answer"], row["answers"]) for line, row in zip(lines, rows, strict=True)]
    assert evaluation["audio_metric"] == "first_words"
    mean = sum(values) / len(values)
    assert evaluation["audio"]["matched"]["accuracy"]["mean"] == pytest.approx(mean / 4)
    assert "audio examples: scored by first words" in table
    assert re.search(rf"^matched +{len(values)} +{mean:.2f} \[", table, re.MULTILINE)
    assert "audio: first words with the matched clip" in " ".join(invoke("report", copied).stdout.split())
    page = (copied.parent / "report.html").read_text()
    assert "scored by first words against references" in page
    assert f"{mean:.2f}<span" in page


def test_an_unregistered_metric_is_refused(copied):
    """Negative control of the test above."""
    set_metric(copied, "first_words")
    result = CliRunner().invoke(safe, ["eval", str(copied)])
    assert result.exit_code == 2
    assert "evaluation.audio_metric: expected 'auto', 'exact_match', 'token_f1' or 'cider_d'" in result.stderr
