"""A run's folder becomes an adapter whose card tells what the run measured."""

import json
import shutil

import pytest
import yaml
from click.testing import CliRunner
from huggingface_hub import ModelCard
from safetensors.torch import load_file

from safe_train.cli import safe
from safe_train.config import build_config
from safe_train.data.rows import Row
from safe_train.experiment import attach, load_base_model, row_encoder
from safe_train.huggingface import SafeConfig, SafeForConditionalGeneration
from safe_train.run import Observer, load_trained, read_config, start_run
from tests.huggingface.made import conversation

SETTINGS = {
    "optimization.max_steps": "3", "optimization.audio_batch_size": "4", "optimization.vl_batch_size": "4",
    "variant": "soft_retention", "evaluation.max_vl": "12", "evaluation.max_audio": "8", "evaluation.batch_size": "12",
}  # fmt: skip


def export(run, folder, *options):
    return CliRunner().invoke(safe, ["export", str(run), str(folder), *options], catch_exceptions=False)


@pytest.fixture(scope="module")
def run(small_data, tmp_path_factory):
    """A finished run of three steps."""
    roots = {"data.root": str(small_data), "output_root": str(tmp_path_factory.mktemp("runs"))}
    return start_run(build_config({}, SETTINGS | roots), Observer()).folder


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    result = export(run, folder, "--license", "apache-2.0")
    assert (result.exit_code, result.stdout) == (0, f"adapter: {folder}\n")
    return folder


def metadata(folder):
    _, front, _ = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(front)


def test_the_model_answers_as_the_run_does(run, exported, heard):
    trained = attach(load_base_model(read_config(run)), read_config(run))
    load_trained(run, trained)
    encoder, model = row_encoder(trained), SafeForConditionalGeneration.from_pretrained(exported)
    rows: list[Row] = heard[:6]
    options = {"max_new_tokens": 8, "do_sample": False}
    expected = trained.generate(encoder.prompt_batch(rows).inputs, encoder.features_of(rows), **options)
    inputs = model.processor.apply_chat_template(
        [conversation(row) for row in rows], add_generation_prompt=True, tokenize=True, return_dict=True
    )
    generated = model.generate(**inputs, **options)[:, inputs["input_ids"].shape[1] :]
    assert generated.tolist() == expected.tolist()


def test_the_figures_are_the_runs(run, exported):
    measured = json.loads((run / "metrics.json").read_text())["evaluation"]
    figures = SafeConfig.from_pretrained(exported).retention
    assert (figures["variant"], figures["seed"], figures["step"]) == ("soft_retention", 42, 3)
    assert figures["vl"].keys() == measured["vl"].keys() - {"bypass"}
    for name, found in figures["vl"].items():
        assert found["difference"] == [measured["vl"][name]["difference"][key] for key in ("mean", "low", "high")]
    gain = measured["audio_gain"]["silence"]
    assert figures["audio_gain"]["silence"] == [gain[key] for key in ("mean", "low", "high")]
    card = (exported / "README.md").read_text()
    mean, low, high = (100 * measured["vl"]["distractor"]["difference"][key] for key in ("mean", "low", "high"))
    assert f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]" in card


def test_the_metadata_are_what_the_hub_reads(run, exported):
    found = metadata(exported)
    assert (found["license"], found["library_name"], found["pipeline_tag"]) == (
        "apache-2.0", "safe-audio", "image-text-to-text",
    )  # fmt: skip
    assert "base_model" not in found  # the embedded base is not on the hub
    assert {"safe", "audio"} <= set(found["tags"])
    data = ModelCard.load(exported / "README.md").data
    measured = json.loads((run / "metrics.json").read_text())["evaluation"]
    by_name = {result.metric_name: result.metric_value for result in data.eval_results}
    assert by_name["accuracy (VL, silence)"] == pytest.approx(measured["vl"]["silence"]["accuracy"]["mean"], abs=1e-6)


def test_a_base_on_the_hub_is_named_as_such(run, tmp_path):
    export(run, tmp_path / "named", "--base-model", "llava-hf/llava-1.5-13b-hf", "--base-revision", "v1")
    found = metadata(tmp_path / "named")
    assert (found["base_model"], found["base_model_relation"]) == ("llava-hf/llava-1.5-13b-hf", "adapter")
    config = SafeConfig.from_pretrained(tmp_path / "named")
    assert (config.base_model, config.base_revision) == ("llava-hf/llava-1.5-13b-hf", "v1")


def test_the_weights_are_the_checkpoints(run, exported):
    stored = load_file(exported / "model.safetensors")
    newest = load_file(run / "checkpoints" / "step-0000003" / "adapter.safetensors")
    assert stored.keys() == newest.keys()
    assert all((stored[name] == newest[name]).all() for name in newest)


def refused(*arguments):
    result = export(*arguments)
    assert result.exit_code == 2
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    return line


def test_results_of_another_checkpoint_are_not_told(run, tmp_path):
    other = shutil.copytree(run, tmp_path / "run")
    for path in (other / "evaluation").glob("*/results.json"):
        content = json.loads(path.read_text())
        content["key"]["step"] = 2
        path.write_text(json.dumps(content))
    assert "one of step 2, and a checkpoint of step 3" in refused(other, tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_a_run_without_results_and_a_folder_with_files_are_refused(run, tmp_path):
    unfinished = shutil.copytree(run, tmp_path / "run")
    (unfinished / "metrics.json").unlink()
    assert "metrics.json" in refused(unfinished, tmp_path / "adapter")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    assert "a new or empty folder" in refused(run, tmp_path / "full")
