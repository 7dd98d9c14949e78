"""Every class of bases that is supported can be planned from its configuration and processor alone."""

import pytest

from safe_train.config import build_config
from safe_train.estimate import format_plan, plan_run
from tests.model.families import FAMILIES

EVERYDAY = ("llava", "qwen2_5_vl")
"""One whose vision tower is run, and one for which it is estimated."""


@pytest.mark.parametrize(
    "name", [name if name in EVERYDAY else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
)
def test_a_base_of_the_family_is_planned(name, small_data, tmp_path):
    folder = FAMILIES[name].save(tmp_path / name)
    for weights in folder.glob("*.safetensors"):
        weights.unlink()
    settings = {
        "data.root": small_data, "variant": "soft_retention", "model.base_model": folder, "model.fusion_layers": 2,
        "optimization.audio_batch_size": 2, "optimization.vl_batch_size": 2,
    }  # fmt: skip
    plan = plan_run(build_config({}, {key: str(value) for key, value in settings.items()}))
    assert plan.frozen > plan.held["frozen base"] / 8
    assert plan.step.cost.flops > 2 * (plan.tokens.audio + plan.tokens.vl) * plan.trained / 10
    assert plan.step.peak > plan.held_bytes
    assert ("2 FLOP a parameter and patch" in format_plan(plan)) == plan.vision_is_estimated
