"""Learning rates are chosen by one rule, on rows and seeds of their own."""

import itertools
import json
import re
from dataclasses import replace

import pytest

from experiments.ablation import SEEDS
from experiments.arms import EARLY_STOPPED, arms, chosen_arms, folder_name, is_tuned
from experiments.exploring import explore
from experiments.front import draw_front, front, place
from experiments.tuning import (
    GRID,
    Point,
    choose,
    grid_jobs,
    point_of,
    read_rates,
    tune,
    tuned,
    tuning_markdown,
)
from experiments.tuning import SEEDS as TUNING_SEEDS
from safe_train.config import build_config
from safe_train.embedded.dataset import DatasetSizes
from safe_train.errors import InputError
from tests.experiments.test_ablation import metrics, with_text, write


@pytest.fixture(autouse=True)
def _no_data(monkeypatch):
    monkeypatch.setattr("experiments.tuning.embedded_data_root", lambda sizes: f"data-{sizes.tune_questions}")


def points(*values):
    return [Point(rate, audio, worst) for rate, audio, worst in values]


def test_of_the_rates_that_hear_the_one_that_loses_least_is_chosen():
    assert choose(points((1e-3, 99.5, -4.0), (2e-3, 100.0, -9.0), (4e-3, 99.0, -30.0))).rate == 1e-3


def test_a_rate_that_hears_less_by_more_than_a_point_is_never_chosen():
    """Else the rate at which nothing is learned would win: it loses nothing."""
    assert choose(points((1e-6, 3.0, 0.0), (5e-4, 98.99, -1.0), (1e-3, 100.0, -50.0))).rate == 1e-3


@pytest.mark.parametrize("audio", [99.0, 100 * 0.99, 100.0 - 1.0, sum([98.5, 99.5]) / 2, 98.99999999999999])
def test_just_a_point_is_still_within_whatever_the_rounding(audio):
    assert choose(points((5e-4, audio, -1.0), (1e-3, 100.0, -2.0))).rate == 5e-4
    assert choose(points((5e-4, 99.0, -1.0), (1e-3, 100.00000000000001, -2.0))).rate == 5e-4


def test_of_equal_losses_the_one_that_hears_more_and_then_the_lower_rate_and_the_earlier_step():
    assert choose(points((5e-4, 99.5, -1.0), (1e-3, 100.0, -1.0 - 1e-13))).rate == 1e-3
    assert choose(points((2e-3, 100.0, -1.0), (1e-3, 100.0, -1.0), (4e-3, 100.0, -1.0))).rate == 1e-3
    same = Point(1e-3, 100.0, -1.0)
    assert choose([replace(same, step=100), replace(same, step=50)]).step == 50


def test_the_order_of_the_points_does_not_matter():
    grid = points((5e-4, 99.5, -1.0), (1e-3, 100.0, -1.0), (2e-3, 99.2, -0.5), (4e-3, 90.0, 0.0))
    assert choose(grid) == choose(grid[::-1]) == grid[2]


def test_a_gain_is_no_loss_and_a_single_point_is_chosen():
    assert choose(points((5e-4, 100.0, 0.5), (1e-3, 100.0, 0.0))).rate == 5e-4
    assert choose(points((5e-4, 1.0, -99.0))).rate == 5e-4
    with pytest.raises(ValueError, match="at least one point"):
        choose([])


def test_the_worst_condition_has_the_lowest_mean_over_the_seeds_and_may_be_of_text_only_questions():
    one = with_text(metrics(7, audio=0.99, loud=-0.10), noise=-0.04)["evaluation"]
    other = with_text(metrics(8, audio=0.98, loud=0.0), noise=-0.08)["evaluation"]
    found = point_of(1e-3, [one, other])
    assert (found.audio, found.worst, found.condition) == (pytest.approx(98.5), pytest.approx(-6.0), "text, noise")


def test_neither_rows_nor_seeds_of_the_tuning_are_those_of_the_evaluation(tmp_path):
    found = grid_jobs(chosen_arms("plentiful", extras=False), GRID, TUNING_SEEDS, tmp_path, "")
    for job in found:
        data = build_config({}, dict(job.settings)).data
        assert (data.val_split, data.root, data.train_split) == ("tune", "data-500", "train")
    assert not {job.settings["seed"] for job in found} & {str(seed) for seed in SEEDS}
    assert build_config({}, arms("plentiful")["no_retention"]).data.val_split == "val"
    assert DatasetSizes().tune_questions == 0


def test_a_grid_has_a_run_for_each_arm_rate_and_seed(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr("experiments.tuning.make", lambda found, workers: made.extend(found))
    tune("scarce", None, GRID, TUNING_SEEDS, tmp_path, 2)
    open_arms = [name for name, settings in chosen_arms("scarce", extras=False).items() if is_tuned(settings)]
    assert "no_retention, a quarter of the learning rate" not in open_arms
    assert len({job.folder for job in made}) == len(made) == len(open_arms) * len(GRID) * len(TUNING_SEEDS)
    assert sum(job.early_stopping for job in made) == len(EARLY_STOPPED) * len(GRID) * len(TUNING_SEEDS)
    rates = {build_config({}, dict(job.settings)).optimization.lr_projector for job in made}
    assert rates == set(GRID)
    with pytest.raises(InputError, match="--arms: expected arms whose learning rate is open"):
        tune("scarce", ["no_retention, a quarter of the learning rate"], GRID, [7], tmp_path, 1)


def write_grid(root, arm, found):
    for rate, seed, audio, loud in found:
        write(
            root / "scarce" / folder_name(arm) / f"{rate:g}" / str(seed) / "run", metrics(seed, audio=audio, loud=loud)
        )


def test_the_choice_is_that_of_the_runs_and_is_read_back(tmp_path):
    arm = "no_retention, gate 0.5"
    grid = [(rate, seed, audio, loud) for rate, audio, loud in ((5e-4, 0.5, 0.0), (1e-3, 0.995, -0.02), (2e-3, 1, -0.2))
            for seed in (7, 8)]  # fmt: skip
    write_grid(tmp_path, arm, grid)
    write_grid(tmp_path, "full_retention", grid[:4])
    found = tuned(tmp_path, "scarce")
    assert {name: values["chosen"] for name, values in found.items()} == {arm: 1e-3, "full_retention": 1e-3}
    assert (found[arm]["at_edge"], found["full_retention"]["at_edge"]) == (False, True)
    assert [point["rate"] for point in found[arm]["points"]] == [5e-4, 1e-3, 2e-3]
    assert found[arm]["points"][1]["by_seed"][8]["worst"] == pytest.approx(-2.0)
    assert "| 50.0 % / +0.0 | **99.5 % / -2.0** | 100.0 % / -20.0 |  |" in tuning_markdown(found)
    file = tmp_path / "rates.json"
    file.write_text(json.dumps({"regimes": {"scarce": found}}))
    assert read_rates(file, "scarce")[arm] == 1e-3
    with pytest.raises(InputError, match=r"rates.json: expected the tuned learning rates of 'harder', got no 'harder'"):
        read_rates(file, "harder")


def test_rates_with_different_seeds_are_not_compared(tmp_path):
    write_grid(tmp_path, "full_retention", [(5e-4, 7, 1.0, 0.0), (5e-4, 8, 1.0, 0.0), (1e-3, 7, 1.0, 0.0)])
    with pytest.raises(InputError, match=r"0\.001: expected runs with the seeds \[7, 8\], got \[7\]"):
        tuned(tmp_path, "scarce")


def test_an_exploration_tells_worst_changes_and_audio(tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.exploring.make", lambda *_: None)
    run = with_text(metrics(7, loud=-0.03), silence=-0.05)
    write(tmp_path / "few" / "no_retention" / "0.001" / "7" / "run", run)
    line = explore("few", {"no_retention": {}}, [1e-3], [7], tmp_path, 1).splitlines()[-1]
    assert line == "| no_retention | 0.001 | 1 | -3.0 loud | -5.0 silence | 90.0 % |"


def test_the_front_holds_what_no_other_place_beats():
    places = [(3.0, 0.0), (0.0, 9.0), (1.0, 4.0), (2.0, 4.0), (1.0, 5.0), (4.0, 0.0), (1.0, 4.0)]
    assert front(places) == [(0.0, 9.0), (1.0, 4.0), (3.0, 0.0)]
    assert place({"audio": 99.0, "worst": 0.5}) == (1.0, 0.0)


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_the_front_is_drawn_with_its_labels_and_the_same_each_time(tmp_path, suffix):
    grid = [{"rate": 1e-3, "audio": 99.0, "worst": -2.0}, {"rate": 2e-3, "audio": 100.0, "worst": -20.0}]
    by_arm = {name: {"points": grid, "chosen": 1e-3} for name in ("a, b", "c", "d", "e", "f")}
    first, second = tmp_path / f"1{suffix}", tmp_path / f"2{suffix}"
    draw_front(by_arm, "scarce", first)
    draw_front(by_arm, "scarce", second)
    assert first.read_bytes() == second.read_bytes()
    if suffix == ".svg":
        assert all(f">{label}<" in first.read_text() for label in ("1e-3", "2e-3", *by_arm))


def test_rates_of_points_in_one_place_do_not_cover_each_other(tmp_path):
    grid = [{"rate": rate, "audio": 99.0, "worst": -99.0} for rate in (6.25e-5, 1e-3, 2e-3)]
    draw_front({"a": {"points": grid, "chosen": 1e-3}}, "scarce", tmp_path / "front.svg")
    drawn = (tmp_path / "front.svg").read_text()
    found = dict(re.findall(r' y="([\d.]+)"[^>]*>([^<]+)<', drawn))
    heights = sorted(float(height) for height, words in found.items() if words in ("6.25e-5", "1e-3", "2e-3"))
    assert len(heights) == 3
    assert min(high - low for low, high in itertools.pairwise(heights)) > 7.0  # points; the letters are 8 points high


def test_a_picture_that_cannot_be_written_is_told_in_one_line(tmp_path):
    by_arm = {"a": {"points": [{"rate": 1e-3, "audio": 99.0, "worst": -2.0}], "chosen": 1e-3}}
    with pytest.raises(InputError, match="expected a picture that can be written"):
        draw_front(by_arm, "scarce", tmp_path / "front.none")
    with pytest.raises(InputError, match="run tune first"):
        draw_front({}, "scarce", tmp_path / "front.svg")
