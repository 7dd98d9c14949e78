"""The shape of the trained parts, from settings and the registered configuration."""

import json

import pytest

from safe_train.config import build_config
from safe_train.errors import InputError
from safe_train.training.build import adapter_config, attach, load_base_model, spread_layers


def shape(num_layers=8, **settings):
    config = build_config({}, {f"model.{name}": json.dumps(value) for name, value in settings.items()})
    return adapter_config(config.model, num_layers, seed=0)


@pytest.mark.parametrize(
    ("count", "layers", "indices"), [(2, 32, (15, 30)), (4, 8, (1, 3, 4, 6)), (1, 8, (6,)), (3, 3, (0, 1, 2))]
)
def test_layers_are_spread_evenly_up_to_the_last_but_one(count, layers, indices):
    assert spread_layers(count, layers) == indices


def test_fused_layers_may_be_named():
    assert shape(fusion_layer_indices=[0, 5]).fusion_layers == (0, 5)
    assert shape(fusion_layers=4).fusion_layers == spread_layers(4, 8)


RISING = "fusion_layer_indices must be layers from 0 on, rising, each once"


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"fusion_layer_indices": [3, 8]}, r"fusion_layer_indices: expected indices below .* 8 decoder layers, got 8"),
        ({"fusion_layer_indices": [3, 1]}, RISING),
        ({"fusion_layer_indices": [1, 1]}, RISING),
        ({"fusion_layer_indices": [-1]}, RISING),
        ({"fusion_layer_indices": []}, RISING),
        ({"fusion_layer_indices": [1], "fusion_layers": 2}, "one of fusion_layers, a number, and fusion_layer_indices"),
        ({"fusion_layers": 9}, r"model\.fusion_layers: expected at most 8 decoder layers, got 9"),
        ({"projector_layers": 1}, r"projector_layers.*greater than or equal to 2"),
    ],
)
def test_what_does_not_fit_is_one_line(settings, line):
    with pytest.raises(InputError, match=line):
        shape(**settings)


def test_a_model_is_made_of_them():
    config = build_config({}, {"model.fusion_layer_indices": "[0, 2]", "model.projector_layers": "3"})
    model = attach(load_base_model(config), config)
    assert model.config.fusion_layers == (0, 2)
    assert len(model.fusions) == 2
    assert all(len(projector.between) == 1 for projector in model.projectors)
    assert "projectors.0.between.0.weight" in model.trainable_parameters()
    assert "projectors.0.between.0.weight" in model.trainable_linears()
