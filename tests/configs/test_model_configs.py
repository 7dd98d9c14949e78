"""The named model configurations, and the number of fusion layers they ask for."""

import dataclasses

import pytest

from configs.model_configs import DEMO, FULL, MODEL_CONFIGS, MULTIMODAL, REAL, get_model_config


def test_the_configurations_are_found_by_name():
    assert {name: get_model_config(name) for name in MODEL_CONFIGS} == {
        "demo": DEMO,
        "full": FULL,
        "multimodal": MULTIMODAL,
        "real": REAL,
    }
    assert all(name == config.name for name, config in MODEL_CONFIGS.items())


def test_which_models_they_name():
    assert (DEMO.base_model, DEMO.audio_encoders) == ("embedded", ("embedded",))
    assert (FULL.base_model, FULL.audio_encoders) == ("llava-hf/llava-1.5-13b-hf", ("laion/clap-htsat-unfused",))
    assert MULTIMODAL.base_model == FULL.base_model
    assert MULTIMODAL.audio_encoders == (*FULL.audio_encoders, "openai/whisper-small")


def test_an_unknown_configuration_is_told_with_the_nearest():
    with pytest.raises(ValueError, match="known are demo, full, multimodal, real; did you mean 'multimodal'"):
        get_model_config("multi-modal")


@pytest.mark.parametrize(("decoder_layers", "expected"), [(40, 5), (32, 4), (16, 2), (8, 2), (3, 2), (2, 2), (1, 1)])
def test_auto_is_one_layer_in_eight_and_at_least_two(decoder_layers, expected):
    assert FULL.num_fusion_layers(decoder_layers) == expected


def test_a_number_of_fusion_layers_is_kept():
    assert dataclasses.replace(FULL, fusion_layers=7).num_fusion_layers(40) == 7


def test_more_fusion_layers_than_the_decoder_has_are_refused():
    with pytest.raises(ValueError, match="at most the decoder's 3 layers, got 4"):
        dataclasses.replace(DEMO, fusion_layers=4).num_fusion_layers(3)


@pytest.mark.parametrize("field", ["num_audio_tokens", "projector_hidden", "fusion_dim", "fusion_layers"])
def test_empty_parts_are_refused(field):
    with pytest.raises(ValueError, match=f"{field} must be at least 1, got 0"):
        dataclasses.replace(DEMO, **{field: 0})


def test_a_configuration_without_an_audio_encoder_is_refused():
    with pytest.raises(ValueError, match="at least one encoder"):
        dataclasses.replace(DEMO, audio_encoders=())
