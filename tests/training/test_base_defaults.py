"""What is not given follows from the base; the embedded base and what is given stay as they are."""

from __future__ import annotations

import json
import logging

import pytest
from transformers import LlavaConfig

from safe_train.config import build_config
from safe_train.configs.model_configs import FULL, sizes_for
from safe_train.embedded import weights
from safe_train.errors import InputError
from safe_train.model.sources import base_source, encoder_sources
from safe_train.runs.layout import read_config
from safe_train.training.base_defaults import TUNED_WIDTH, follow_base
from safe_train.training.build import adapter_config

SEVEN_B = {"hidden_size": 4096, "num_hidden_layers": 32}


@pytest.fixture
def llava(tmp_path):
    """A configuration of the size of LLaVA-1.5-7B, and no weights."""
    LlavaConfig(text_config={"model_type": "llama", **SEVEN_B}).save_pretrained(tmp_path / "llava")
    return str(tmp_path / "llava")


def test_the_embedded_base_is_what_the_defaults_were_tuned_on():
    config = json.loads((weights.base_folder() / "config.json").read_text())
    assert config["text_config"]["hidden_size"] == TUNED_WIDTH


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"model.base_model": "embedded"}, {"model.base_model": str(weights.base_folder())}, {"model.config": "demo"}],
)
def test_nothing_follows_from_the_embedded_base(settings, device):
    config = build_config({}, settings)
    assert follow_base(config, device) is config


def test_sizes_rates_and_precision_follow_from_another_base(llava, caplog):
    """A quarter of 4096 and twice that, one layer in eight of 32, and the tuned rate times 128 / 4096."""
    config = build_config({}, {"model.base_model": llava, "model.audio_encoders": "[clap]"})
    with caplog.at_level(logging.INFO, logger="safe_train"):
        found = follow_base(config, "cuda")
    shape = adapter_config(found.model, 32, 0)
    assert (shape.fusion_dim, shape.projector_hidden, len(shape.fusion_layers)) == (1024, 2048, 4)
    assert found.optimization.lr_adapter == found.optimization.lr_projector == 4e-3 / 32 == 1.25e-4
    assert found.precision == "bf16"
    assert follow_base(config, "cpu").precision == "fp32"
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO][:1]
    for part in ("4096 wide", "model.fusion_dim=1024", "optimization.lr_adapter=0.000125", ", precision=bf16"):
        assert part in line
    assert "procedural sounds" not in caplog.text


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.fusion_dim", 256), ("model.projector_hidden", 99), ("model.fusion_layers", 3), ("precision", "fp32"),
        ("optimization.lr_adapter", 4e-3), ("optimization.lr_projector", 1e-3),
    ],
)  # fmt: skip
def test_what_is_given_stays(llava, key, value):
    config = build_config({}, {"model.base_model": llava}, options={key: value})
    plain = follow_base(build_config({}, {"model.base_model": llava}), "cuda").model_dump()
    found = follow_base(config, "cuda").model_dump()
    section, _, name = key.rpartition(".")
    (plain[section] if section else plain)[name] = value
    assert found == plain


@pytest.mark.parametrize(("width", "rate"), [(64, 4e-3), (128, 4e-3), (256, 2e-3), (4096, 1.25e-4)])
def test_rates_fall_with_the_width_and_never_rise(tmp_path, width, rate):
    LlavaConfig(text_config={"model_type": "llama", "hidden_size": width}).save_pretrained(tmp_path / "base")
    found = follow_base(build_config({}, {"model.base_model": str(tmp_path / "base")}), "cpu").optimization
    assert found.lr_adapter == found.lr_projector == rate


def test_a_named_configuration_keeps_its_sizes(llava):
    config = build_config({}, {"model.base_model": llava, "model.config": "demo"})
    found = follow_base(config, "cuda")
    assert found.model == config.model
    assert found.optimization.lr_adapter == 1.25e-4


def test_a_resumed_run_goes_on_as_it_was(llava, tmp_path):
    """What was set is written, and an older run's settings are its own, whatever the base."""
    for config in (
        follow_base(build_config({}, {"model.base_model": llava}), "cuda"),
        build_config({}, {"model.base_model": llava}),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config.model_dump(mode="json")))
        again = read_config(tmp_path)
        assert again == config
        assert follow_base(again, "cuda") == config


def test_the_embedded_encoder_beside_another_base_is_told(llava, caplog):
    follow_base(build_config({}, {"model.base_model": llava}), "cpu")
    assert "the embedded audio encoder knows procedural sounds alone" in caplog.text


@pytest.mark.parametrize(
    ("width", "layers", "expected"),
    [
        (32, 1, (256, 1, 128)),
        (896, 24, (512, 3, 256)),
        (2048, 24, (1024, 3, 512)),
        (5120, 40, None),
        (8192, 80, (2048, 10, 1024)),
    ],
)
def test_sizes_grow_with_the_base_up_to_those_of_full(width, layers, expected):
    full = (FULL.projector_hidden, FULL.num_fusion_layers(layers), FULL.fusion_dim)
    assert tuple(sizes_for(width, layers).values()) == (expected or full)


def test_a_base_without_a_configuration_is_told(tmp_path):
    with pytest.raises(InputError, match=r"a folder with the config\.json of the vision-language model, got none"):
        follow_base(build_config({}, {"model.base_model": str(tmp_path)}), "cpu")


@pytest.fixture
def real_folders(llava, tmp_path, monkeypatch):
    """A cache with the folders of the model configuration ``real``, with another model's configuration in them."""
    monkeypatch.setenv("SAFE_CACHE", str(tmp_path / "cache"))
    real = tmp_path / "cache" / "real"
    for name in ("audio_encoder", "data"):
        (real / name).mkdir(parents=True)
    (real / "base").symlink_to(llava)
    return real


def test_the_defaults_of_a_named_configuration_come_first(real_folders):
    config = follow_base(build_config({}, {"model.config": "real"}), "cpu")
    assert (config.precision, config.model.audio_seconds, config.data.train_audio_source) == ("bf16", 5.0, "avqa")
    assert config.data.root == str(real_folders / "data")
    assert (base_source(config.model), *encoder_sources(config.model)) == (
        str(real_folders / "base"),
        str(real_folders / "audio_encoder"),
    )
    assert config.optimization.lr_adapter == 4e-3 / 32  # the folder's model is 4096 wide
    assert follow_base(config, "cpu") == config


def test_what_is_given_stands_before_the_defaults_of_a_named_configuration(real_folders):
    given = {"model.config": "real", "precision": "fp32", "model.audio_seconds": "30", "data.root": "elsewhere"}
    config = follow_base(build_config({}, given), "cpu")
    assert (config.precision, config.model.audio_seconds, config.data.root) == ("fp32", 30.0, "elsewhere")
    assert config.data.val_audio_source == "avqa"


def test_folders_that_have_not_been_made_are_told_with_the_command_that_makes_them(tmp_path, monkeypatch):
    monkeypatch.setenv("SAFE_CACHE", str(tmp_path))
    with pytest.raises(
        InputError, match=r"real/data: expected a folder .* 'real', got no such folder; run `make real`"
    ):
        follow_base(build_config({}, {"model.config": "real"}), "cpu")
