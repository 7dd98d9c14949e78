"""Every option of the ablation reaches the configuration, and what the sources and limits stand for."""

import pytest

from experiments.overfitting.run_overfitting import build_parser, configure
from experiments.overfitting.settings import VAL_SOURCES, evaluation_limits, with_epochs
from safe_train.config import StageAConfig
from safe_train.configs.retention_variants import OVERFITTING_VARIANTS
from safe_train.errors import InputError

FLAGS = (
    "--variant", "--subset-size", "--seed", "--seeds", "--train-source", "--val-source", "--val-size",
    "--train-batch-size", "--val-batch-size", "--num-epochs", "--lr-projector", "--lr-adapter", "--null-space-rank",
    "--null-space-min-samples", "--null-space-refresh", "--num-workers", "--data-path", "--pack-root", "--output-root",
    "--model-config", "--max-eval-batches", "--generation-max-new-tokens",
    "--text-source", "--text-share", "--text-val-size",
)  # fmt: skip


def configured(pack, *options):
    return configure(build_parser().parse_args(["--pack-root", str(pack), *map(str, options)]), seed=7)


def setting(config, dotted):
    for name in dotted.split("."):
        config = getattr(config, name)
    return config


def test_the_defaults_are_those_of_the_format():
    given = vars(build_parser().parse_args([]))
    expected = {
        "subset_size": 400, "seed": 42, "val_size": 500, "train_batch_size": 8, "val_batch_size": 16, "num_epochs": 30,
        "lr_projector": 1e-4, "lr_adapter": 5e-5, "null_space_rank": 8, "null_space_min_samples": 64,
        "null_space_refresh": 2000, "num_workers": 0, "generation_max_new_tokens": 12, "model_config": "demo",
    }  # fmt: skip
    assert {name: given[name] for name in expected} == expected
    assert str(given["output_root"]) == "experiments/overfitting/runs"


@pytest.mark.parametrize(
    ("options", "dotted", "value"),
    [
        (["--variant", "no_retention"], "variant", "no_retention"),
        (["--variant", "soft_retention"], "variant", "fisher_retention"),
        (["--variant", "full_safe"], "variant", "full_retention"),
        (["--variant", "soft_retention"], "label", "soft_retention"),
        (["--subset-size", 12], "data.max_train_audio", 12),
        (["--train-source", "mock"], "data.train_audio_source", "embedded"),
        (["--train-source", "audiocaps"], "data.train_audio_source", "audiocaps"),
        (["--train-source", "avqa"], "data.train_audio_source", "avqa"),
        (["--train-source", "pack"], "data.train_audio_source", "pack"),
        (["--val-source", "vqa"], "data.val_vl_source", "vqa"),
        (["--val-source", "mock_vl"], "data.val_vl_source", "embedded"),
        (["--val-source", "pack_mixed"], "data.val_audio_source", "pack"),
        (["--val-size", 33], "evaluation.max_vl", 33),
        (["--text-source", "none"], "data.train_text_source", "none"),
        (["--text-source", "pack"], "data.val_text_source", "pack"),
        ([], "data.train_text_source", "auto"),
        (["--text-share", 0.5], "data.text_ratio", 0.5),
        ([], "evaluation.max_text", None),
        (["--text-val-size", 21], "evaluation.max_text", 21),
        (["--text-val-size", 21, "--max-eval-batches", 1], "evaluation.max_text", 16),
        (["--max-eval-batches", 2], "evaluation.max_text", 32),
        (["--train-batch-size", 3], "optimization.audio_batch_size", 3),
        (["--train-batch-size", 3], "optimization.vl_batch_size", 3),
        (["--val-batch-size", 5], "evaluation.batch_size", 5),
        (["--lr-projector", 0.5], "optimization.lr_projector", 0.5),
        (["--lr-adapter", 0.25], "optimization.lr_adapter", 0.25),
        (["--null-space-rank", 3], "retention.null_space_rank", 3),
        (["--null-space-min-samples", 9], "retention.null_space_min_samples", 9),
        (["--null-space-refresh", 77], "retention.null_space_refresh_interval", 77),
        (["--num-workers", 2], "data.num_workers", 2),
        (["--data-path", "/somewhere"], "data.root", "/somewhere"),
        (["--output-root", "/elsewhere"], "output_root", "/elsewhere"),
        (["--model-config", "full"], "model.config", "full"),
        (["--max-eval-batches", 2, "--val-batch-size", 4], "evaluation.max_vl", 8),
        (["--generation-max-new-tokens", 5], "evaluation.max_new_tokens", 5),
    ],
)
def test_options_reach_the_configuration(tmp_path, options, dotted, value):
    config = configured(tmp_path, *options)
    assert setting(config, dotted) == value
    assert config.seed == 7


def test_the_pack_is_the_one_that_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert configured("some/pack").data.pack_root == str(tmp_path / "some/pack")


def test_a_pack_in_its_usual_place_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments/overfitting/data_pack").mkdir(parents=True)
    config = configure(build_parser().parse_args([]), seed=1)
    assert config.data.pack_root == str(tmp_path / "experiments/overfitting/data_pack")


def test_without_a_pack_source_none_is_made():
    config = configure(build_parser().parse_args(["--train-source", "mock", "--val-source", "mock_vl"]), seed=1)
    assert config.data.pack_root is None
    assert config.data.train_vl_source == "embedded"


@pytest.mark.parametrize(
    ("options", "protected"),
    [
        ([], "pack"),
        (["--data-path", "/data"], "vqa"),
        (["--val-source", "vqa"], "vqa"),
        (["--val-source", "mock_vl"], "embedded"),
    ],
)
def test_the_source_of_the_rows_to_protect(tmp_path, options, protected):
    assert configured(tmp_path, *options).data.train_vl_source == protected


@pytest.mark.parametrize(
    ("source", "size", "max_batches", "limits"),
    [
        ("pack_vl", 500, None, (500, 100)),
        ("pack_vl", 20, None, (20, 20)),
        ("vqa", 500, 4, (64, 64)),
        ("pack_audio", 300, None, (100, 300)),
        ("pack_train_audio", 300, 10, (100, 160)),
        ("pack_mixed", 501, None, (251, 251)),
    ],
)
def test_how_many_rows_are_evaluated(source, size, max_batches, limits):
    found = evaluation_limits(VAL_SOURCES[source], size, max_batches, batch_size=16)
    assert (found["vl"], found["audio"]) == limits


@pytest.mark.parametrize(("epochs", "clips", "steps"), [(30, 400, 1500), (1, 8, 1), (1, 9, 2), (3, 9, 4)])
def test_epochs_become_steps(epochs, clips, steps):
    config = StageAConfig.model_validate({"optimization": {"audio_batch_size": 8}})
    assert with_epochs(config, epochs, clips).optimization.max_steps == steps


def test_the_help_tells_every_option_and_the_mapping():
    text = build_parser().format_help()
    assert [flag for flag in FLAGS if flag not in text] == []
    for name, registered in OVERFITTING_VARIANTS.items():
        assert f"{name:14} = {registered}\n" in text


@pytest.mark.parametrize(
    "options",
    [
        ["--variant", "fisher_retention"],
        ["--seed", "1", "--seeds", "2"],
        ["--val-size", "0"],
        ["--train-source", "wavecaps"],
        ["--subset", "3"],
    ],
    ids=" ".join,
)
def test_bad_options_are_one_line(options, capsys):
    with pytest.raises(SystemExit) as caught:
        build_parser().parse_args(options)
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: python -m experiments.overfitting.run_overfitting: ")


def test_a_learning_rate_that_no_run_could_mean(tmp_path):
    with pytest.raises(InputError, match=r"optimization\.lr_projector: expected greater than 0"):
        configured(tmp_path, "--lr-projector", "0")
