"""Figures are told beside the weights that they were measured on, and beside no others."""

import copy
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from safe_train.huggingface import SafeConfig, SafeForConditionalGeneration
from safe_train.huggingface.binding import OTHER_WEIGHTS, UNBOUND
from safe_train.io.fingerprints import tensors_sha256
from tests.huggingface.made import RETENTION, figures_of, loud_model

FLATTERING = "99.9"
"""Audio accuracy of the made-up figures, in percent."""


def published(folder):
    """Card and configuration."""
    return (folder / "README.md").read_text(), json.loads((folder / "config.json").read_text())


def evaluated():
    model = loud_model()
    return SafeForConditionalGeneration.from_safe_model(model, retention=figures_of(model))


def disturb(model):
    with torch.no_grad():
        for parameter in model.safe_model.trainable_parameters().values():
            parameter.add_(1e-3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))


def assert_nothing_is_told(folder, reason=OTHER_WEIGHTS):
    card, config = published(folder)
    assert f"{reason[0].upper()}{reason[1:]}." in card
    assert (config.get("retention"), config["not_evaluated"]) == (None, reason)
    for text in (card, (folder / "config.json").read_text()):
        assert FLATTERING not in text
        assert "0.999" not in text
    assert "model-index" not in card


def test_unchanged_weights_keep_every_figure(folder, tmp_path):
    card, config = published(folder)
    assert f"matched {FLATTERING} %" in card
    assert config["retention"]["audio"]["matched"]["accuracy"][0] == 0.999
    again = SafeForConditionalGeneration.from_pretrained(folder)
    again.save_pretrained(tmp_path)
    assert published(tmp_path) == (card, config)


def test_weights_with_noise_have_no_figures(tmp_path):
    model = evaluated()
    disturb(model)
    model.save_pretrained(tmp_path / "first")
    assert_nothing_is_told(tmp_path / "first")
    SafeForConditionalGeneration.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "second")
    assert_nothing_is_told(tmp_path / "second")  # nor once the figures are forgotten


def test_a_single_bit_counts(tmp_path):
    model = evaluated()
    weight = model.fusions[0].output.weight
    with torch.no_grad():
        weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(torch.inf))
    model.save_pretrained(tmp_path)
    assert_nothing_is_told(tmp_path)


def test_tensors_given_in_place_of_the_models_own_count(tmp_path):
    model = evaluated()
    given = {name: tensor + 0.01 for name, tensor in model.safe_model.trainable_parameters().items()}
    model.save_pretrained(tmp_path / "other", state_dict=given)
    assert_nothing_is_told(tmp_path / "other")
    model.save_pretrained(tmp_path / "own")  # saving other weights has not taken the figures from these
    assert FLATTERING in published(tmp_path / "own")[0]


def test_the_digest_is_the_evaluations(folder):
    model = SafeForConditionalGeneration.from_pretrained(folder)
    expected = tensors_sha256(loud_model().trainable_parameters().items())  # as the evaluation's key takes it
    assert tensors_sha256(model.safe_model.trainable_parameters().items()) == expected
    assert tensors_sha256(load_file(folder / "model.safetensors").items()) == expected
    half = SafeForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16)
    assert tensors_sha256(half.safe_model.trainable_parameters().items()) == expected


def test_a_replaced_weights_file_is_told_at_loading_and_at_saving(folder, tmp_path, recwarn):
    SafeForConditionalGeneration.from_pretrained(folder)
    assert not [warning for warning in recwarn if OTHER_WEIGHTS in str(warning.message)]
    swapped = shutil.copytree(folder, tmp_path / "swapped")
    tensors = load_file(swapped / "model.safetensors")
    save_file({name: tensor + 0.01 for name, tensor in tensors.items()}, swapped / "model.safetensors")
    with pytest.warns(UserWarning, match="have not been evaluated"):
        model = SafeForConditionalGeneration.from_pretrained(swapped)
    model.save_pretrained(tmp_path / "saved")
    assert_nothing_is_told(tmp_path / "saved")


def test_figures_without_a_digest_are_read_and_not_written_again(folder, tmp_path):
    old = shutil.copytree(folder, tmp_path / "old")
    config = json.loads((old / "config.json").read_text())
    del config["retention"]["weights_sha256"]
    (old / "config.json").write_text(json.dumps(config))
    model = SafeForConditionalGeneration.from_pretrained(old)
    assert model.config.retention == RETENTION
    model.save_pretrained(tmp_path / "saved")
    assert_nothing_is_told(tmp_path / "saved", UNBOUND)


def test_another_gate_than_the_evaluated_one_has_no_figures(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    config["retention"]["settings"] = {"gate": 1.0, "base_model": "embedded"}
    bound = shutil.copytree(folder, tmp_path / "bound")
    (bound / "config.json").write_text(json.dumps(config))
    model = SafeForConditionalGeneration.from_pretrained(bound)
    model.save_pretrained(tmp_path / "same")
    assert FLATTERING in published(tmp_path / "same")[0]
    model.safe_model.gate = 0.5
    model.save_pretrained(tmp_path / "half")
    assert_nothing_is_told(
        tmp_path / "half", "this adapter has not been evaluated as it is: gate was another when it was"
    )
    assert "The gate is at 0.5, not fully open" in published(tmp_path / "half")[0]


def test_a_model_without_figures_says_so(tmp_path):
    SafeForConditionalGeneration.from_safe_model(loud_model()).save_pretrained(tmp_path)
    assert "No evaluation came with this adapter." in published(tmp_path)[0]


def test_figures_in_the_configuration_alone_are_not_changed_by_saving(tmp_path):
    model = evaluated()
    before = copy.deepcopy(model.config.retention)
    disturb(model)
    model.save_pretrained(tmp_path)
    assert model.config.retention == before
    assert SafeConfig.from_pretrained(tmp_path).retention is None
