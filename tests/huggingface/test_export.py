"""A run's folder becomes an adapter whose card tells what the run measured."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from transformers import Qwen2VLConfig

from safe_train.cli import safe
from safe_train.config import build_config
from safe_train.data.example import Example
from safe_train.embedded import weights
from safe_train.huggingface import SafeConfig, SafeForConditionalGeneration
from safe_train.io.fingerprints import tensors_sha256
from safe_train.model.audio.encoder import load_audio_encoder
from safe_train.model.loading import load_base
from safe_train.runs.layout import read_config
from safe_train.training.build import attach, build_collator, load_audio_encoders, load_base_model
from safe_train.training.callbacks import RunCallbacks
from safe_train.training.run import load_trained, start_run
from tests.files import results_of
from tests.huggingface.made import conversation

SETTINGS = {
    "optimization.max_steps": "3", "optimization.audio_batch_size": "4", "optimization.vl_batch_size": "4",
    "variant": "soft_retention", "evaluation.max_vl": "12", "evaluation.batch_size": "12",
    "evaluation.max_audio": "8", "evaluation.max_text": "16",
}  # fmt: skip


def export(run, folder, *options):
    return CliRunner().invoke(safe, ["export", str(run), str(folder), *options], catch_exceptions=False)


@pytest.fixture(scope="module")
def run(small_data, tmp_path_factory):
    """A finished run of three steps."""
    roots = {"data.root": str(small_data), "output_root": str(tmp_path_factory.mktemp("runs"))}
    return start_run(build_config({}, SETTINGS | roots), RunCallbacks()).folder


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
    encoder, model = build_collator(trained), SafeForConditionalGeneration.from_pretrained(exported)
    rows: list[Example] = heard[:6]
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


def test_procedural_data_are_published_as_such(run, exported, tmp_path):
    card = (exported / "README.md").read_text()
    figures = SafeConfig.from_pretrained(exported).retention
    assert figures["data"] == {"vl": "procedural", "text": "procedural", "audio": "procedural", "split": "val"}
    assert "vqa" not in card
    assert "audiocaps" not in card
    for result in ModelCard.load(exported / "README.md").data.eval_results:
        assert (result.dataset_type, result.dataset_name) == ("procedural", "procedural data of SAFE, val")


def test_other_data_keep_the_name_of_their_format(run, tmp_path):
    """The same rows as a folder of one's own would have them: an official header, clips named after videos."""
    other = shutil.copytree(run, tmp_path / "run")
    questions = tmp_path / "data" / "vqa" / "v2_OpenEnded_mscoco_val2014_questions.json"
    questions.parent.mkdir(parents=True)
    questions.write_text('{"info": {}, "data_type": "mscoco", "questions": []}')
    for part, column, name in (("vl", "image", "vqa/val2014/1.jpg"), ("audio", "audio", "audiocaps/audio/val/x.wav")):
        for path in (other / "evaluation").glob(f"*/rows.{part}.jsonl"):
            rows = [
                json.loads(line) | {column: str(tmp_path / "data" / name)} for line in path.read_text().splitlines()
            ]
            path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    export(other, tmp_path / "named")
    data = SafeConfig.from_pretrained(tmp_path / "named").retention["data"]
    assert data == {"vl": "vqa", "text": "text", "audio": "audiocaps", "split": "val"}
    formats = " and ".join(f"data in the format of {name}" for name in ("vqa", "audiocaps", "text"))
    assert f"evaluated on {formats} (val)" in (tmp_path / "named" / "README.md").read_text()


def test_an_exported_adapter_keeps_every_figure_when_it_is_saved_again(exported, tmp_path):
    model = SafeForConditionalGeneration.from_pretrained(exported)
    model.save_pretrained(tmp_path)
    assert SafeConfig.from_pretrained(tmp_path).retention == SafeConfig.from_pretrained(exported).retention
    assert (tmp_path / "README.md").read_text() == (exported / "README.md").read_text()


def test_an_adapter_that_is_given_another_base_has_no_figures(exported, tmp_path):
    model = SafeForConditionalGeneration.from_pretrained(exported)
    model.config.base_model = "llava-hf/llava-1.5-7b-hf"
    model.save_pretrained(tmp_path)
    assert SafeConfig.from_pretrained(tmp_path).retention is None
    assert "base_model was another" in (tmp_path / "README.md").read_text()


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
        content = results_of(path)
        content["key"]["step"] = 2
        path.write_text(json.dumps(content))
    assert "one of step 2, and a checkpoint of step 3" in refused(other, tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_results_of_other_weights_are_not_told(run, tmp_path):
    other = shutil.copytree(run, tmp_path / "run")
    for path in (other / "evaluation").glob("*/results.json"):
        content = results_of(path)
        content["key"]["trained_parts_sha256"] = "0" * 64
        path.write_text(json.dumps(content))
    assert "one of other weights of step 3" in refused(other, tmp_path / "adapter")


def test_the_embedded_base_is_never_another(run, tmp_path):
    line = refused(run, tmp_path / "adapter", "--base-model", "llava-hf/llava-1.5-7b-hf")
    assert "the base that the run was trained with" in line
    assert "a base on the hub" in refused(run, tmp_path / "adapter", "--base-revision", "v1")
    assert not (tmp_path / "adapter").exists()


@pytest.fixture(scope="module")
def half_open(small_data, tmp_path_factory):
    """A run whose base, an embedded one with other weights, lies in a folder; it is evaluated at half the gate."""
    base = tmp_path_factory.mktemp("bases") / "mine"
    shutil.copytree(weights.base_folder(), base)
    tensors = load_file(base / "model.safetensors")
    save_file({name: tensor * 1.01 for name, tensor in tensors.items()}, base / "model.safetensors", {"format": "pt"})
    settings = {
        "data.root": str(small_data), "output_root": str(tmp_path_factory.mktemp("runs")),
        "model.base_model": str(base), "evaluation.gate": "0.5", "model.audio_level_db": "-30",
    }  # fmt: skip
    return start_run(build_config({}, SETTINGS | settings), RunCallbacks()).folder, base


def test_a_base_of_a_folder_may_be_named(half_open, tmp_path):
    run, base = half_open
    export(run, tmp_path / "named", "--base-model", "someone/her-base", "--base-revision", "v1")
    found = metadata(tmp_path / "named")
    assert (found["base_model"], found["base_model_relation"]) == ("someone/her-base", "adapter")
    config = SafeConfig.from_pretrained(tmp_path / "named")
    assert (config.base_model, config.base_revision) == ("someone/her-base", "v1")
    digest = tensors_sha256(load_base(str(base)).model.named_parameters())
    card = (tmp_path / "named" / "README.md").read_text()
    assert "published as `someone/her-base` at `v1` by its author" in card
    assert f"measured on a folder with weights sha256 `{digest}`" in card


@pytest.mark.parametrize("option", ["--base-model", "--base-revision"])
@pytest.mark.parametrize("text", ["a`b", "a\nb", "a b", "/folder", "<a>", "a/../b", "", "é"])
def test_what_is_no_name_is_refused_in_one_line(half_open, tmp_path, option, text):
    good = {"--base-model": "someone/her-base", "--base-revision": "v1"} | {option: text}
    line = refused(half_open[0], tmp_path / "adapter", *(word for pair in good.items() for word in pair))
    assert f"error: {option}: expected a " in line
    assert line.endswith(f"got {text!r}; correct it")


@pytest.fixture(scope="module")
def own_encoder(small_data, tmp_path_factory):
    """A run whose audio encoder lies in a folder, and the folder."""
    root = tmp_path_factory.mktemp("own")
    folder = root / "secret project" / "encoder"
    shutil.copytree(weights.audio_encoder_folder(), folder)
    values = {"data.root": str(small_data), "output_root": str(root / "runs"), "model.audio_encoders": f"['{folder}']"}
    return start_run(build_config({}, SETTINGS | values), RunCallbacks()).folder, folder


def test_a_folder_of_one_s_own_is_published_under_the_name_of_the_hub(own_encoder, tmp_path, caplog):
    run, folder = own_encoder
    assert export(run, tmp_path / "plain").exit_code == 0
    told = f"{folder} is found on this machine alone, and its path is published; name it by --audio-encoder"
    assert told in caplog.messages
    assert "An audio encoder is not on the hub" in (tmp_path / "plain" / "README.md").read_text()
    assert export(run, tmp_path / "named", "--audio-encoder", "someone/her-encoder").exit_code == 0
    written = {path.name: path.read_bytes() for path in (tmp_path / "named").iterdir()}
    assert not [name for name, content in written.items() if b"secret project" in content]
    assert sum(b"someone/her-encoder" in content for content in written.values()) == 3
    assert "An audio encoder is not on the hub" not in (tmp_path / "named" / "README.md").read_text()
    assert (tmp_path / "named").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("name", ["a`b", "x\n# y", "../up", "a/b/c", "[x](y)", ""])
def test_the_name_of_an_encoder_that_is_none_is_refused(own_encoder, tmp_path, name):
    line = refused(own_encoder[0], tmp_path / "adapter", "--audio-encoder", name)
    assert "--audio-encoder: expected a hub id" in line
    assert not (tmp_path / "adapter").exists()


def test_encoders_are_named_one_by_one_and_never_as_another(run, own_encoder, tmp_path):
    words = ("--audio-encoder", "a/b", "--audio-encoder", "c/d")
    assert "a name for each of 1 audio encoders, got 2" in refused(own_encoder[0], tmp_path / "adapter", *words)
    assert "the run's own audio encoder embedded" in refused(run, tmp_path / "adapter", *words[:2])


@pytest.mark.parametrize("name", ["README.md", "config.json", "processor_config.json", "model.safetensors"])
@pytest.mark.parametrize("there", [False, True], ids=["new", "empty"])
def test_a_full_disk_leaves_nothing_and_the_export_can_be_tried_again(run, tmp_path, monkeypatch, name, there):
    folder = tmp_path / "adapter"
    if there:
        folder.mkdir()

    def full(*arguments, **_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        place = {
            "README.md": "safe_train.huggingface.adapter_files.write_text",
            "config.json": "safe_train.huggingface.configuration.SafeConfig.save_pretrained",
            "processor_config.json": "safe_train.huggingface.processing.write_text",
            "model.safetensors": "safe_train.huggingface.adapter_files.save_tensors",
        }[name]
        patch.setattr(place, full)
        line = refused(run, folder)
    assert f"error: {folder}: expected " in line
    assert "No space left on device" in line
    assert [path.name for path in tmp_path.iterdir()] == (["adapter"] if there else [])
    assert export(run, folder).exit_code == 0
    assert len(list(folder.iterdir())) == 4


def test_a_name_that_is_taken_is_one_line(run, tmp_path):
    for make in (Path.touch, lambda path: path.symlink_to(tmp_path / "gone")):
        make(tmp_path / "adapter")
        assert "something else of this name" in refused(run, tmp_path / "adapter")
        (tmp_path / "adapter").unlink()


def test_a_copy_of_the_embedded_base_is_no_other_either(half_open, run, tmp_path):
    copied = shutil.copytree(run, tmp_path / "run")
    for path in (copied / "evaluation").glob("*/results.json"):
        content = results_of(path)
        content["key"]["base"]["source"] = str(half_open[1])
        path.write_text(json.dumps(content))
    assert "the embedded one" in refused(copied, tmp_path / "adapter", "--base-model", "someone/her-base")


def test_the_name_of_a_base_on_the_hub_is_its_own(run, tmp_path):
    copied = shutil.copytree(run, tmp_path / "run")
    for path in (copied / "evaluation").glob("*/results.json"):
        content = results_of(path)
        content["key"]["base"] = {"source": "someone/her-base", "sha256": "0" * 64}
        path.write_text(json.dumps(content))
    line = refused(copied, tmp_path / "adapter", "--base-model", "someone/another")
    assert "the run's own base someone/her-base, got someone/another" in line
    assert export(copied, tmp_path / "adapter", "--base-model", "someone/her-base").exit_code == 0
    assert SafeConfig.from_pretrained(tmp_path / "adapter").base_sha256 is None


@pytest.mark.parametrize(
    ("change", "complaint"),
    [({}, ""), ({"hidden_size": 96}, "which has "), ({"num_hidden_layers": 4}, "which has "), (None, "model_type")],
)
def test_a_named_base_that_is_on_this_machine_must_have_the_shapes(half_open, tmp_path, monkeypatch, change, complaint):
    run, base = half_open
    snapshot = tmp_path / "hub" / "models--someone--her-base" / "snapshots" / "0123"
    (snapshot.parent.parent / "refs").mkdir(parents=True)
    (snapshot.parent.parent / "refs" / "main").write_text("0123")
    snapshot.mkdir(parents=True)
    config = json.loads((base / "config.json").read_text())
    if change is None:
        config = Qwen2VLConfig().to_dict()
    else:
        config["text_config"] |= change
    (snapshot / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    arguments = (run, tmp_path / "adapter", "--base-model", "someone/her-base")
    if complaint:
        line = refused(*arguments)
        assert "a model of the same shapes" in line
        assert complaint in line
    else:
        assert export(*arguments).exit_code == 0


def test_gate_and_loudness_are_published_as_they_were_evaluated(half_open, tmp_path, heard):
    run, _ = half_open
    export(run, tmp_path / "adapter")
    card = (tmp_path / "adapter" / "README.md").read_text()
    assert "The gate is at 0.5, not fully open" in card
    assert "evaluated at gate 0.5 on" in card
    model = SafeForConditionalGeneration.from_pretrained(tmp_path / "adapter")
    assert (model.safe_model.gate, model.config.audio_level_db) == (0.5, -30.0)
    inputs = model.processor.apply_chat_template([conversation(heard[0])], tokenize=True, return_dict=True)
    values, lengths = inputs["audio_values"], inputs["audio_lengths"]
    own, ten_times = model.audio_features(values, lengths)[0], model.audio_features(10 * values, lengths)[0]
    torch.testing.assert_close(own.values, ten_times.values)  # at one level, both are heard alike
    plain = load_audio_encoder("embedded")
    assert not torch.allclose(plain([values[0, 0]]).values, plain([10 * values[0, 0]]).values)


def test_an_adapter_that_hears_several_windows_hears_them_wherever_it_is_loaded(small_data, tmp_path):
    """The embedded encoder's window is 2 s: of 5 s it hears 4, in its run, in its pipeline and when it is shared."""
    values = {
        "data.root": str(small_data), "output_root": str(tmp_path / "runs"), "model.audio_windows": "2",
        "model.audio_features": "[grid]", "optimization.max_steps": "1",
    }  # fmt: skip
    run = start_run(build_config({}, SETTINGS | values), RunCallbacks()).folder
    assert export(run, tmp_path / "adapter").exit_code == 0
    model = SafeForConditionalGeneration.from_pretrained(tmp_path / "adapter")
    again = SafeForConditionalGeneration.from_safe_model(model.safe_model)
    assert again.config.audio_windows == model.config.audio_windows == 2
    rate, (trained,) = model.processor.sampling_rates[0], load_audio_encoders(read_config(run))
    clip = 0.1 * np.random.default_rng(0).standard_normal(5 * rate).astype("float32")
    expected = trained([torch.from_numpy(clip)])
    assert expected.mask.all()
    for loaded in (model, again):
        given = loaded.processor(text="what?", audio=clip, sampling_rate=rate)
        (found,) = loaded.audio_features(given["audio_values"], given["audio_lengths"])
        assert torch.equal(found.values, expected.values)
        late = given["audio_values"].clone()
        late[..., 3 * rate :] = 0.0
        assert not torch.equal(loaded.audio_features(late, given["audio_lengths"])[0].values, expected.values)


def test_a_run_without_results_and_a_folder_with_files_are_refused(run, tmp_path):
    unfinished = shutil.copytree(run, tmp_path / "run")
    (unfinished / "metrics.json").unlink()
    assert "metrics.json" in refused(unfinished, tmp_path / "adapter")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    assert "a new or empty folder" in refused(run, tmp_path / "full")


def test_an_earlier_export_is_replaced_whole_when_that_is_asked_for(run, tmp_path):
    folder = tmp_path / "adapter"
    assert export(run, folder, "--overwrite").exit_code == 0  # nothing is there yet
    (folder / "left.bin").touch()
    assert "--overwrite an earlier export" in refused(run, folder)
    assert export(run, folder, "--overwrite", "--license", "apache-2.0").exit_code == 0
    assert not (folder / "left.bin").exists()
    assert metadata(folder)["license"] == "apache-2.0"
    (tmp_path / "link").symlink_to(folder)  # a rename would take the link away and leave what it leads to
    assert "an earlier export, a new folder or an empty one" in refused(run, tmp_path / "link", "--overwrite")
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("config", [None, "{}", '{"model_type": "llava"}', "{"])
def test_no_other_folder_is_replaced(run, tmp_path, config):
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter.tex").write_text("all of it")
    if config is not None:
        (folder / "config.json").write_text(config)
    assert "an earlier export, a new folder or an empty one" in refused(run, folder, "--overwrite")
    assert (folder / "chapter.tex").read_text() == "all of it"
