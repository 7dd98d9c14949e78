"""The ablation's arms are valid configurations, and its table says what the runs say."""

import json

import pytest

from experiments.ablation import REGIMES, arms, markdown, read_all, row
from safe_train.config import build_config
from safe_train.summary import read_summary


def estimate(mean):
    return {"mean": mean, "low": mean - 0.01, "high": mean + 0.01}


def metrics(seed, silence, distractor):
    vl = {
        condition: {
            "accuracy": estimate(0.9), "difference": estimate(change), "answer_change_rate": 0.05, "kl": 0.02,
            "bit_equal": True if condition == "bypass" else None, "fusion_calls": 8, "relative_update": 0.1,
        }
        for condition, change in (("bypass", 0.0), ("silence", silence), ("distractor", distractor))
    }  # fmt: skip
    audio = {
        condition: {"accuracy": estimate(a)} for condition, a in (("matched", 0.9), ("silence", 0.1), ("distractor", 0))
    }
    evaluation = {"base": estimate(0.95), "vl": vl, "audio": audio, "seconds": 1.0}
    training = {"seconds": 20.0 + seed, "inactive": [], "steps": 4}
    return {"variant": "soft_retention", "seed": seed, "training": training, "evaluation": evaluation}


@pytest.mark.parametrize("regime", REGIMES)
def test_every_arm_is_a_configuration_of_its_own(regime):
    configurations = [build_config({}, settings) for settings in arms(regime).values()]
    assert len({configuration.model_dump_json() for configuration in configurations}) == len(configurations)


def test_means_and_ranges_are_over_the_seeds(tmp_path):
    for seed, silence, distractor in ((1, -0.02, -0.04), (2, 0.0, -0.10)):
        folder = tmp_path / "plentiful" / "soft_retention" / str(seed) / "run"
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps(metrics(seed, silence, distractor)))
    runs = read_all(tmp_path)
    assert {regime: list(by_arm) for regime, by_arm in runs.items()} == {"plentiful": ["soft_retention"], "scarce": []}
    found = row(runs["plentiful"]["soft_retention"])
    assert found["seeds"] == [1, 2]
    assert found["worst"] == pytest.approx(-10.0)
    assert found["training_seconds"] == pytest.approx(21.5)
    cells = markdown({"soft_retention": found}).splitlines()[-1]
    assert "| -1.0 (-2.0 to +0.0) | -7.0 (-10.0 to -4.0) | -10.0 |" in cells


def test_a_bypass_that_differs_is_not_averaged_away(tmp_path):
    runs = []
    for seed, equal in ((1, True), (2, False)):
        values = metrics(seed, 0.0, 0.0)
        values["evaluation"]["vl"]["bypass"]["bit_equal"] = equal
        folder = tmp_path / str(seed)
        folder.mkdir()
        (folder / "metrics.json").write_text(json.dumps(values))
        runs.append(read_summary(folder))
    assert row(runs)["bypass_bit_equal"] is False
