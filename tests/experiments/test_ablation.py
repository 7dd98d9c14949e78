"""The ablation's arms are valid configurations, its runs are made once, and its table says what the runs say."""

import json
import sys

import pytest
from scipy.stats import t

from experiments import ablation, early_stopping, loudness, non_inferiority
from experiments.ablation import PAIRS, jobs, rates_words, read_all, run_all
from experiments.arms import (
    CANDIDATES,
    CONDITIONS,
    DEFAULT_RATE,
    EARLY_STOPPED,
    EXTRA,
    MAIN,
    REAL_WIDTH,
    REGIMES,
    RIVALS,
    arms,
    at_rate,
    chosen_arms,
    is_tuned,
    regime_settings,
)
from experiments.records import FinishedRun
from experiments.tables import compare, markdown, row
from experiments.tuning import tuning_settings
from safe_train.config import build_config
from safe_train.errors import InputError
from safe_train.evaluation.conditions import conditions_for
from safe_train.training.base_defaults import TUNED_WIDTH


def estimate(mean):
    return {"mean": mean, "low": mean - 0.01, "high": mean + 0.01}


def answers(names, changes):
    return {
        condition: {
            "accuracy": estimate(0.9), "difference": estimate(changes.get(condition, 0.0)), "rows": 40, "kl": 0.02,
            "answer_change_rate": 0.05, "bit_equal": True if condition == "bypass" else None, "is_measurement": True,
        }
        for condition in ("bypass", *names)
    }  # fmt: skip


def metrics(seed, *, audio=0.9, **changes):
    """What a finished run's metrics.json holds, as far as the table reads it; changes in accuracy by condition.

    This is the form before there were text-only rows.
    """
    heard = {
        condition: {"accuracy": estimate(accuracy)}
        for condition, accuracy in (("matched", audio), ("silence", 0.1), ("distractor", 0), ("loud", 0.12))
    }
    gain = {"silence": estimate(0.8)}
    vl = answers(CONDITIONS, changes)
    evaluation = {"base": estimate(0.95), "vl": vl, "audio": heard, "audio_gain": gain, "seconds": 1.0}
    training = {"seconds": 20.0 + seed, "inactive": [], "steps": 4}
    return {"variant": "soft_retention", "seed": seed, "training": training, "evaluation": evaluation}


def with_text(values, *, bits=0.0, **changes):
    """The same with text-only questions, whose contradictory condition had no row, and documents."""
    names = [name for name in CONDITIONS if name != "contradictory"]
    documents = {
        name: {
            "difference": estimate(bits), "bit_equal": True if name == "bypass" else None, "is_measurement": True,
            "kl": 0.02,
        }
        for name in ("bypass", *names)
    }  # fmt: skip
    more = {"text": answers(names, changes), "base_text": estimate(0.85), "documents": documents}
    values["evaluation"] |= more | {"base_bits_per_byte": estimate(1.7)}
    return values


def write(folder, values):
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(values))
    return folder


def summaries(tmp_path, *values):
    return [FinishedRun.of(write(tmp_path / str(number), found)) for number, found in enumerate(values)]


@pytest.mark.parametrize("regime", [*REGIMES, *CANDIDATES])
def test_every_arm_is_a_configuration_of_its_own(regime):
    configurations = [build_config({}, settings) for settings in arms(regime).values()]
    assert len({configuration.model_dump_json() for configuration in configurations}) == len(configurations)
    assert tuple(arms(regime))[: len(MAIN)] == MAIN
    assert set(RIVALS) <= set(arms(regime))


def test_regimes_differ():
    everything = REGIMES | CANDIDATES
    assert len({json.dumps(settings, sort_keys=True) for settings in everything.values()}) >= len(everything) - 1
    with pytest.raises(InputError, match=r"--regime: expected one of plentiful.*did you mean 'scarce'"):
        regime_settings("scarse")


def test_the_arms_of_the_loudness_experiment_are_configurations_of_its_four_combinations():
    found = {name: build_config({}, settings) for name, settings in loudness.ARMS.items()}
    told = {name: (config.data.gains_db, config.model.audio_level_db) for name, config in found.items()}
    gains = (-20.0, -10.0, 10.0, 20.0)
    assert told == {"neither": ((), None), "gains": (gains, None), "level": ((), -20), "gains and level": (gains, -20)}
    for config in found.values():
        assert set(loudness.GAIN_CONDITIONS) | set(CONDITIONS) == set(config.evaluation.conditions)
        assert set(config.evaluation.conditions) <= set(conditions_for("vl"))
        assert {"loud", *loudness.GAIN_CONDITIONS} <= set(conditions_for("audio"))


def test_the_default_rate_on_real_weights_is_that_of_their_wider_base():
    """4e-3 was tuned at a width of 128; SmolLM2-135M is 576 wide."""
    quarter = build_config({}, arms("real")["no_retention, a quarter of the learning rate"]).optimization
    assert quarter.lr_adapter == quarter.lr_projector == pytest.approx(4e-3 * 128 / 576 / 4, rel=1e-5)


@pytest.mark.slow
def test_rows_for_tuning_are_those_of_the_data():
    assert tuning_settings(arms("real")["no_retention"]) == {"data.val_split": "tune"}
    procedural = tuning_settings(arms("plentiful")["no_retention"])
    assert procedural.pop("data.val_split") == "tune"
    assert "embedded-data" in procedural["data.root"]


def test_the_rivals_are_what_their_names_say():
    found = {name: build_config({}, settings) for name, settings in arms("plentiful").items()}
    quarter = found["no_retention, a quarter of the learning rate"]
    assert quarter.optimization.lr_adapter == quarter.optimization.lr_projector == DEFAULT_RATE / 4
    assert found["no_retention, gate 0.5"].evaluation.gate == 0.5
    stopped = found[EARLY_STOPPED[0]]
    assert stopped.checkpoint_keep * stopped.checkpoint_every >= stopped.optimization.max_steps
    assert {found[name].variant for name in RIVALS} == {"no_retention", "replay_only"}


def test_an_arm_takes_its_own_rate_or_its_variants_and_keeps_one_that_it_names():
    known, rates = arms("scarce"), {"nullspace_retention": 0.001, "no_retention, gate 0.5": 0.002, "no_retention": 0.0}

    def rate(name, given=rates):
        optimization = build_config({}, at_rate(name, known[name], given)).optimization
        assert optimization.lr_adapter == optimization.lr_projector
        return optimization.lr_adapter

    assert rate("nullspace, update") == rate("nullspace_retention") == 0.001
    assert rate("no_retention, gate 0.5") == 0.002
    quarter = "no_retention, a quarter of the learning rate"
    assert not is_tuned(known[quarter])
    assert rate(quarter) == DEFAULT_RATE / 4
    assert rate("full_retention", {}) == DEFAULT_RATE
    with pytest.raises(InputError, match="--rates: expected a learning rate of 'full_retention'"):
        rate("full_retention")


def test_extras_are_run_where_they_are_asked_for():
    assert set(arms("scarce")) - set(chosen_arms("scarce", extras=False)) == set(EXTRA["scarce"])
    assert list(chosen_arms("scarce", ["nullspace, update"], extras=False)) == ["nullspace, update"]


def test_each_job_has_a_folder_of_its_own(tmp_path):
    found = list(jobs("scarce", [1, 2], tmp_path, arms("scarce"), {}).values())
    assert len({job.folder for job in found}) == len(found) == 2 * len(arms("scarce"))
    assert {job.settings["seed"] for job in found} == {"1", "2"}
    assert {job.name.rpartition(", seed")[0] for job in found if job.early_stopping} == {f"scarce, {EARLY_STOPPED[0]}"}


def test_means_intervals_and_the_worst_condition_are_over_the_seeds(tmp_path):
    for seed, silence, loud in ((1, -0.02, -0.04), (2, 0.0, -0.10), (3, -0.01, -0.01)):
        folder = tmp_path / "plentiful" / "soft_retention" / str(seed) / "run"
        write(folder, metrics(seed, silence=silence, loud=loud))
    runs = read_all(tmp_path)
    assert {regime: list(by_arm) for regime, by_arm in runs.items()} == {
        "plentiful": ["soft_retention"],
        "scarce": [],
        "harder": [],
        "real": [],
        "real_gpu": [],
        "real_short": [],
    }
    found = row(runs["plentiful"]["soft_retention"])
    assert found["seeds"] == [1, 2, 3]
    assert found["vl_change"]["silence"]["mean"] == pytest.approx(-1.0)
    loud = found["vl_change"]["loud"]
    deviation = (((-4 + 5) ** 2 + (-10 + 5) ** 2 + (-1 + 5) ** 2) / 2) ** 0.5
    half = t.ppf(0.975, 2) * deviation / 3**0.5
    assert (loud["mean"], loud["low"], loud["high"]) == pytest.approx((-5.0, -5.0 - half, -5.0 + half))
    assert (found["worst_condition"], found["worst_seed"]) == ("loud", pytest.approx(-10.0))
    assert found["worst_by_seed"] == pytest.approx([-4.0, -10.0, -1.0])
    summary = markdown({"soft_retention": found}).split("\n\n")[0].splitlines()[-1]
    worst = f"-5.0 ({-5 - half:+.1f} to {-5 + half:+.1f})"
    assert summary == f"| soft_retention | 3 | ? | {worst} | loud | -10.0 | 90.0 % | 12.0 % | +80.0 |"


def test_text_only_questions_count_for_the_worst_and_documents_stand_beside(tmp_path):
    values = [
        with_text(metrics(seed, loud=-0.02), distractor=change, bits=0.0125)
        for seed, change in ((1, -0.06), (2, -0.01), (3, -0.05))
    ]
    found = row(summaries(tmp_path, *values))
    assert (found["worst_condition"], found["worst_change"]["mean"]) == ("text, distractor", pytest.approx(-4.0))
    assert found["worst_by_seed"] == pytest.approx([-6.0, -2.0, -5.0])  # seed 2 loses more on VL rows
    assert found["worst_seed"] == pytest.approx(-6.0)
    assert set(found["text_change"]) == set(CONDITIONS) - {"contradictory"}
    assert found["documents_change"]["loud"]["mean"] == pytest.approx(0.0125)
    assert (found["text_base"]["mean"], found["documents_base"]["mean"]) == pytest.approx((85.0, 1.7))
    written = markdown({"arm": found})
    assert "Text-only questions, change in points:\n\n| arm | silence | distractor | loud |" in written
    # Of seeds that agree the interval is that of their rows.
    assert "| arm | +0.0125 (+0.0025 to +0.0225) |" in written
    old = row(summaries(tmp_path / "old", metrics(1)))
    assert (old["text_change"], old["documents_change"]) == ({}, {})
    assert "ext-only" not in markdown({"arm": old})


@pytest.mark.parametrize("part", ["vl", "text", "documents"])
@pytest.mark.parametrize(
    ("field", "value", "told"),
    [("bit_equal", False, "bypass_bit_equal"), ("is_measurement", False, "is_measurement")],
)
def test_one_bad_seed_is_not_averaged_away(tmp_path, part, field, value, told):
    good, bad = with_text(metrics(1)), with_text(metrics(2))
    for condition in bad["evaluation"][part].values():
        if condition[field] is not None:
            condition[field] = value
    runs = summaries(tmp_path, good, bad)
    assert row(runs[:1])[told] is True
    assert row(runs)[told] is False


def test_arms_differ_where_the_corrected_test_says_so(tmp_path):
    """Worst changes by seed; the differences of the first pair are 1, 2, 3, of the second 3, -3, 0."""
    lost = {"a": (-0.01, -0.01, -0.01), "b": (-0.02, -0.03, -0.04), "c": (-0.04, 0.02, -0.01)}
    rows = {
        name: row(summaries(tmp_path / name, *(metrics(seed, loud=x, noise=x) for seed, x in enumerate(by_seed))))
        for name, by_seed in lost.items()
    }
    for values in rows.values():  # a change above zero: the other conditions are at zero, so the worst is zero
        assert max(values["worst_by_seed"]) <= 0
    first, second = compare(rows, [("a", "b"), ("a", "c")])
    statistic = 2 / (1 / 3**0.5)
    assert first.p == pytest.approx(2 * t.sf(statistic, 2))
    assert first.p_holm == pytest.approx(2 * first.p)
    assert (first.mean, first.high - first.mean) == pytest.approx((2.0, t.ppf(0.975, 2) / 3**0.5))
    assert not first.differ
    assert second.seeds == 3
    assert second.p_holm == pytest.approx(max(first.p_holm, second.p))
    assert compare({name: rows[name] for name in "ab"}, [("a", "b")], "audio")[0].p == 1.0


def test_the_same_difference_in_every_seed_differs_and_two_seeds_say_nothing(tmp_path):
    rows = {
        name: row(summaries(tmp_path / name, *(metrics(seed, loud=loud) for seed in range(3))))
        for name, loud in (("a", -0.01), ("b", -0.03))
    }
    (found,) = compare(rows, [("a", "b")])
    assert (found.p, found.differ, found.low, found.high) == (0.0, True, pytest.approx(2.0), pytest.approx(2.0))
    rows["b"]["seeds"] = [0, 1, 9]
    assert compare(rows, [("a", "b"), ("a", "none")]) == []


def test_the_pairs_are_of_arms_that_every_regime_has():
    for regime in REGIMES:
        assert {name for pairs in PAIRS.values() for pair in pairs for name in pair} <= set(arms(regime))


@pytest.mark.parametrize(
    ("rates", "words"),
    [
        ([DEFAULT_RATE, DEFAULT_RATE], "every arm at the default learning rate, 0.004"),
        ([DEFAULT_RATE, 5e-4], "each arm at its own learning rate"),
        ([DEFAULT_RATE, None], "learning rates that are not known"),
        ([[DEFAULT_RATE, 5e-4], 5e-4], "learning rates that differ between the seeds of an arm"),
    ],
)
def test_the_table_says_which_learning_rates_it_is_of(rates, words):
    rows = {name: {"learning_rate": rate} for name, rate in zip(MAIN, rates, strict=False)}
    quarter = {"no_retention, a quarter of the learning rate": {"learning_rate": DEFAULT_RATE / 4}}
    assert rates_words(rows | quarter, "plentiful") == words


@pytest.mark.parametrize(("factor", "words"), [(1.0, "every arm at the default learning rate"), (1.01, "each arm at")])
def test_on_real_weights_the_default_rate_is_the_one_that_the_run_has_worked_out(factor, words):
    rate = DEFAULT_RATE * (TUNED_WIDTH / REAL_WIDTH) * factor  # as base_defaults does, whose last bit may differ
    assert rates_words({name: {"learning_rate": rate} for name in MAIN}, "real").startswith(words)


def test_an_unknown_arm_is_refused(tmp_path):
    with pytest.raises(InputError, match="--arms: expected some of 'no_retention'"):
        run_all("plentiful", [1], tmp_path, ["none"])


def test_the_table_command_prints_and_writes_every_regime(tmp_path, monkeypatch, capsys):
    for arm, loud in (("soft_retention", -0.02), ("full_retention", -0.01)):
        for seed in (1, 2, 3):
            folder = tmp_path / "runs" / "scarce" / arm / str(seed) / "run"
            write(folder, metrics(seed, loud=loud * seed))
    file = tmp_path / "table.json"
    monkeypatch.setattr(sys, "argv", ["ablation", "table", str(tmp_path / "runs"), "--json", str(file)])
    ablation.main()
    printed = capsys.readouterr().out
    assert "## scarce" in printed
    assert "| full_retention - soft_retention | +2.00" in printed
    written = json.loads(file.read_text())
    assert set(written["regimes"]["scarce"]) == {"soft_retention", "full_retention"}
    (pair,) = written["differences"]["scarce"]["variants, worst change of each seed"]["pairs"]
    assert pair["mean"] == pytest.approx(2.0)


def test_the_loudness_table_tells_hearing_by_gain(tmp_path):
    values = metrics(1)
    for number, gain in enumerate(loudness.GAIN_CONDITIONS):
        values["evaluation"]["audio"][gain] = {"accuracy": estimate(0.5 + 0.1 * number)}
    write(tmp_path / "level" / "1" / "run", values)
    rows = {name: row(runs) for name, runs in loudness.read_all(tmp_path).items()}
    line = loudness.markdown(rows).splitlines()[4]
    means = [cell.split(" (")[0].strip() for cell in line.strip("| ").split("|")]
    assert means == ["level", "1", "50.0", "60.0", "90.0", "70.0", "12.0"]


@pytest.mark.parametrize(
    ("module", "words"), [(ablation, ["run"]), (ablation, ["tune"]), (loudness, ["run"]), (early_stopping, [])]
)
def test_the_command_lists_its_options(module, words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["", *words, "--help"])
    with pytest.raises(SystemExit):
        module.main()
    assert "--output-root" in capsys.readouterr().out


@pytest.mark.parametrize("experiment", [ablation, loudness, non_inferiority], ids=lambda module: module.__name__)
def test_a_table_of_no_runs_is_refused_and_replaces_no_results(tmp_path, experiment, monkeypatch, capsys):
    results = tmp_path / "results.json"
    results.write_text("{}")
    for root, got in ((tmp_path / "none", "no such folder"), (tmp_path, "none")):
        monkeypatch.setattr(sys, "argv", ["experiment", "table", str(root), "--json", str(results)])
        with pytest.raises(SystemExit) as ended:
            experiment.main()
        told = capsys.readouterr()
        assert (ended.value.code, told.out) == (2, "")
        assert told.err == (
            f"error: {root}: expected finished runs of this experiment, got {got}; "
            "name the --output-root of its run command\n"
        )
    assert results.read_text() == "{}"


def test_audio_is_told_by_type_of_question_where_every_seed_has_it(tmp_path):
    evaluations = [metrics(seed) for seed in (1, 2)]
    for values, word in zip(evaluations, (0.5, 0.7), strict=True):
        values["evaluation"]["audio"]["matched"]["by_kind"] = {"word": word, "language": 0.9}
    found = row(summaries(tmp_path, *evaluations))
    assert found["audio_by_kind"] == {"word": pytest.approx(60.0), "language": pytest.approx(90.0)}
    assert "| soft_retention | 60.0 % | 90.0 % |" in markdown({"soft_retention": found})
    earlier = row(summaries(tmp_path / "earlier", metrics(1)))
    assert earlier["audio_by_kind"] == {}
    assert "by type of question" not in markdown({"soft_retention": earlier})
