"""The ablation's arms are valid configurations, and its table says what the runs say."""

import json
import subprocess
import sys

import pytest
from scipy.stats import t

from experiments.ablation import CONDITIONS, MAIN, REGIMES, arms, markdown, read_all, row, run_all
from safe_train.config import build_config
from safe_train.errors import InputError
from safe_train.summary import read_summary


def estimate(mean):
    return {"mean": mean, "low": mean - 0.01, "high": mean + 0.01}


def metrics(seed, **changes):
    """What a finished run's metrics.json holds, as far as the table reads it; changes in accuracy by condition."""
    vl = {
        condition: {
            "accuracy": estimate(0.9), "difference": estimate(changes.get(condition, 0.0)), "rows": 40, "kl": 0.02,
            "answer_change_rate": 0.05, "bit_equal": True if condition == "bypass" else None, "is_measurement": True,
        }
        for condition in ("bypass", *CONDITIONS)
    }  # fmt: skip
    audio = {
        condition: {"accuracy": estimate(a)} for condition, a in (("matched", 0.9), ("silence", 0.1), ("distractor", 0))
    }
    gain = {"silence": estimate(0.8)}
    evaluation = {"base": estimate(0.95), "vl": vl, "audio": audio, "audio_gain": gain, "seconds": 1.0}
    training = {"seconds": 20.0 + seed, "inactive": [], "steps": 4}
    return {"variant": "soft_retention", "seed": seed, "training": training, "evaluation": evaluation}


def write(folder, values):
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize("regime", REGIMES)
def test_every_arm_is_a_configuration_of_its_own(regime):
    configurations = [build_config({}, settings) for settings in arms(regime).values()]
    assert len({configuration.model_dump_json() for configuration in configurations}) == len(configurations)
    assert tuple(arms(regime))[: len(MAIN)] == MAIN


def test_means_intervals_and_the_worst_condition_are_over_the_seeds(tmp_path):
    for seed, silence, loud in ((1, -0.02, -0.04), (2, 0.0, -0.10), (3, -0.01, -0.01)):
        folder = tmp_path / "plentiful" / "soft_retention" / str(seed) / "run"
        write(folder, metrics(seed, silence=silence, loud=loud))
    runs = read_all(tmp_path)
    assert {regime: list(by_arm) for regime, by_arm in runs.items()} == {"plentiful": ["soft_retention"], "scarce": []}
    found = row(runs["plentiful"]["soft_retention"])
    assert found["seeds"] == [1, 2, 3]
    assert found["vl_change"]["silence"]["mean"] == pytest.approx(-1.0)
    loud = found["vl_change"]["loud"]
    deviation = (((-4 + 5) ** 2 + (-10 + 5) ** 2 + (-1 + 5) ** 2) / 2) ** 0.5
    half = t.ppf(0.975, 2) * deviation / 3**0.5
    assert (loud["mean"], loud["low"], loud["high"]) == pytest.approx((-5.0, -5.0 - half, -5.0 + half))
    assert (found["worst_condition"], found["worst_seed"]) == ("loud", pytest.approx(-10.0))
    cells = markdown({"soft_retention": found}).splitlines()[-1]
    assert f"| -5.0 ({-5 - half:+.1f} to {-5 + half:+.1f}) | -10.0 | 90.0 % | +80.0 |" in cells


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [("bit_equal", False, "bypass_bit_equal"), ("is_measurement", False, "is_measurement")],
)
def test_one_bad_seed_is_not_averaged_away(tmp_path, field, value, told):
    good, bad = metrics(1), metrics(2)
    for condition in bad["evaluation"]["vl"].values():
        if condition[field] is not None:
            condition[field] = value
    runs = [read_summary(write(tmp_path / str(seed), values)) for seed, values in ((1, good), (2, bad))]
    assert row(runs[:1])[told] is True
    assert row(runs)[told] is False


def test_an_unknown_arm_is_refused(tmp_path):
    with pytest.raises(InputError, match="--arms: expected some of 'no_retention'"):
        run_all("plentiful", [1], tmp_path, ["none"])


def test_the_command_lists_its_options():
    command = [sys.executable, "-m", "experiments.ablation", "run", "--help"]
    assert "--regime" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
