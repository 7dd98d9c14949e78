"""Runs of two steps: what they leave behind, and that variants of a seed differ in their mechanisms alone."""

import json
import re

import pytest
import torch

from experiments.overfitting import embedded_pack
from experiments.overfitting.run_overfitting import build_parser, configure, main
from safe_train.configs.retention_variants import OVERFITTING_VARIANTS
from safe_train.data.datasets.pack import PackClips, PackQuestions
from safe_train.runs.layout import read_config
from safe_train.training.build import (
    attach,
    build_batches,
    build_sampler,
    load_base_model,
    load_examples,
)
from safe_train.training.trainer import StageATrainer

SHORT = (
    "--subset-size", "8", "--num-epochs", "2", "--val-size", "6", "--val-batch-size", "6", "--train-source", "pack",
    "--val-source", "pack_vl", "--null-space-min-samples", "8", "--null-space-rank", "3",
)  # fmt: skip


@pytest.fixture(scope="module")
def runs(pack, tmp_path_factory):
    """A run folder by (variant, seed): every variant with seed 1, and no_retention with seed 2."""
    root = tmp_path_factory.mktemp("runs")
    folders = {}
    for variant in OVERFITTING_VARIANTS:
        seeds = ("1", "2") if variant == "no_retention" else ("1",)
        main([*SHORT, "--variant", variant, "--seeds", *seeds, "--pack-root", str(pack), "--output-root", str(root)])
        for folder in root.glob(f"*_{variant}"):
            folders[variant, json.loads((folder / "config.json").read_text())["seed"]] = folder
    return folders


def written(folder, name):
    return json.loads((folder / name).read_text())


def short_configuration(pack, variant, seed):
    given = build_parser().parse_args([*SHORT, "--variant", variant, "--pack-root", str(pack)])
    return configure(given, seed)


def test_there_is_a_run_for_each_variant_and_seed(runs):
    assert set(runs) == {("no_retention", 1), ("no_retention", 2), ("soft_retention", 1), ("full_safe", 1)}
    for (variant, _), folder in runs.items():
        assert re.fullmatch(rf"\d{{8}}-\d{{6}}_{variant}", folder.name)


def test_the_folder_holds_what_the_format_promises(runs):
    for folder in runs.values():
        names = {path.name for path in folder.iterdir()}
        assert {"config.json", "metrics.json", "subset_indices.json", "checkpoints"} <= names
        assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-0000002"]
        assert written(folder, "metrics.json")["evaluation"]["vl"]["bypass"]["bit_equal"] is True


def test_the_configuration_tells_the_mapping_and_the_epochs(runs, pack):
    for (variant, seed), folder in runs.items():
        config = written(folder, "config.json")
        assert (config["variant"], config["label"], config["seed"]) == (OVERFITTING_VARIANTS[variant], variant, seed)
        assert config["data"]["pack_root"] == str(pack)
        notes = config["notes"]
        assert notes["variants"] == dict(OVERFITTING_VARIANTS)
        assert (notes["variant"], notes["num_epochs"], notes["train_source"]) == (variant, 2, "pack")
        assert notes["num_rows"]["train_audio"] == 8


def test_variants_of_a_seed_have_the_same_subset_order_and_evaluation_rows(runs):
    """The indices are equal byte for byte, and another seed's are not."""
    indices = {key: (folder / "subset_indices.json").read_bytes() for key, folder in runs.items()}
    assert indices["no_retention", 1] == indices["soft_retention", 1] == indices["full_safe", 1]
    first, second = (json.loads(indices["no_retention", seed]) for seed in (1, 2))
    assert first["train_audio"] != second["train_audio"]
    assert len(first["train_audio"]) == 8


def test_variants_of_a_seed_have_the_same_order_and_initialization(pack):
    """Batch by batch and bit by bit; another seed's differ."""

    def start(variant, seed):
        config = short_configuration(pack, variant, seed)
        stream = build_sampler(load_examples(config), config)
        batches = [(stream.audio_batch(number, 4), stream.retention_batch(number, 4)) for number in range(5)]
        parameters = attach(load_base_model(config), config).trainable_parameters()
        return batches, {name: parameter.detach() for name, parameter in parameters.items()}

    def same(one, other):
        return all(torch.equal(one[name], other[name]) for name in one.keys() | other.keys())

    (batches, weights), *others = [start(variant, 1) for variant in OVERFITTING_VARIANTS]
    for other_batches, other_weights in others:
        assert other_batches == batches
        assert same(other_weights, weights)
    other_batches, other_weights = start("full_safe", 2)
    assert other_batches != batches
    assert not same(other_weights, weights)


def test_the_mechanisms_are_those_of_the_variant(runs):
    def measured(variant):
        return set(written(runs[variant, 1], "metrics.json")["training"]["last"])

    assert "kl" not in measured("no_retention")
    assert {"kl", "ewc"} <= measured("soft_retention")
    assert "null_space_removed" not in measured("soft_retention")
    assert {"kl", "ewc", "null_space_removed"} <= measured("full_safe")


def test_null_space_options_reach_the_mechanism(pack):
    config = short_configuration(pack, "full_safe", 1)
    model = attach(load_base_model(config), config)
    stage = StageATrainer(config, model, build_batches(config, model, load_examples(config)))
    assert stage.retention.mechanisms[-1].rank == 3
    assert stage.described_configuration()["effective"]["retention_variant"]["null_space_min_samples"] == 8


def test_the_rows_of_a_run_are_found_again(runs):
    """What resuming and ``safe eval`` need: the written configuration leads to the written indices."""
    for folder in runs.values():
        assert load_examples(read_config(folder)).indices == written(folder, "subset_indices.json")


def test_protected_and_evaluated_questions_are_of_different_images(runs, pack):
    indices = written(runs["full_safe", 1], "subset_indices.json")
    images = [question.image_id for question in PackQuestions().records(pack, "")]
    protected, evaluated = ({images[index] for index in indices[part]} for part in ("train_vl", "val_vl"))
    assert protected
    assert evaluated
    assert not protected & evaluated


def test_several_seeds_end_with_one_table(pack, tmp_path, monkeypatch, capsys):
    trained = []

    def pretend(given, seed):
        trained.append(seed)
        return tmp_path / str(seed)

    monkeypatch.setattr("experiments.overfitting.run_overfitting.run_seed", pretend)
    monkeypatch.setattr("safe_train.report.summary.read_summary", lambda folder: folder.name)
    monkeypatch.setattr("safe_train.report.summary.format_table", lambda runs: f"table of {runs}")
    main(["--seeds", "42", "43", "44"])
    assert trained == [42, 43, 44]
    assert capsys.readouterr().out == "table of ['42', '43', '44']\n"
    main(["--seed", "5"])
    assert trained[3:] == [5]
    assert capsys.readouterr().out == ""


def test_too_few_rows_are_told(pack, tmp_path, caplog, monkeypatch):
    def stop(*_arguments, **_options):
        raise InterruptedError

    monkeypatch.setattr("safe_train.training.run.start_run", stop)
    with pytest.raises(InterruptedError):
        main(["--pack-root", str(pack), "--output-root", str(tmp_path)])
    assert "train_audio: 12 rows instead of 400: its source has no more" in caplog.text
    (evaluated,) = re.findall(r"val_vl: (\d+) rows instead of 500", caplog.text)
    assert 0 < int(evaluated) < 20  # the questions about a fifth of the images are protected


def test_bad_input_is_one_line_and_leaves_no_run(tmp_path, capsys):
    root = tmp_path / "runs"
    with pytest.raises(SystemExit) as caught:
        main(["--pack-root", str(tmp_path / "none"), "--output-root", str(root)])
    assert caught.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {tmp_path / 'none'}: expected the folder of a")
    assert not root.exists()


def test_a_bare_machine_gets_a_procedural_pack(small_data, tmp_path, monkeypatch, caplog):
    data = tmp_path / "embedded-data-0"
    data.mkdir()
    for name in ("vqa", "audiocaps"):
        (data / name).symlink_to(small_data / name)
    (data / "text").mkdir()
    for split, count in (("train", 3), ("val", 2)):
        entries = [{"id": f"{split}{number}", "prompt": "?", "answer": "a"} for number in range(count)]
        (data / "text" / f"{split}.json").write_text(json.dumps(entries))
    for module in ("experiments.overfitting.embedded_pack", "safe_train.data.sources"):
        monkeypatch.setattr(f"{module}.embedded_data_root", lambda: data)
    monkeypatch.setattr(embedded_pack, "NUM_CLIPS", 10)
    monkeypatch.setattr(embedded_pack, "NUM_QUESTIONS", 12)
    monkeypatch.chdir(tmp_path)
    caplog.set_level("INFO")
    config = configure(build_parser().parse_args([]), seed=1)
    assert "a pack made from the procedural data is used" in caplog.text
    assert config.data.pack_root == str(tmp_path / "embedded-pack-0")
    rows = load_examples(config)
    assert {part: len(indices) for part, indices in rows.indices.items()} == {
        "train_audio": 10, "train_vl": 60, "val_audio": 10, "val_vl": 12, "train_text": 3, "val_text": 2,
    }  # fmt: skip
    assert len(PackClips().records(tmp_path / "embedded-pack-0", "")) == 10
    assert [row.row_id for row in rows.train_text] == ["train0", "train1", "train2"]  # beside the procedural VL rows
    assert [row.row_id for row in rows.val_text] == ["val0", "val1"]  # of the pack
    assert config.data.val_text_source == "auto"
