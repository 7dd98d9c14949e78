"""What flatters is not said: each case that once did, and beside it a control in which the strong sentence stands."""

import json

import pytest

from safe_train.report import read_runs, write_report
from safe_train.report.charts.figures import pareto
from safe_train.report.charts.panel import Look
from safe_train.report.examples import CHANGED_TEXT, choose_examples
from safe_train.report.summary import DOCUMENTS_HEADER, HEADER, TEXT_HEADER
from safe_train.report.verdict import keeps, notes, warnings
from tests.files import results_of
from tests.report.built import WIDE, block, built, finished, told
from tests.report.conftest import EVERY

STRONG = "rules out a loss of 9.5 points under every condition on VL questions"


UNMEASURED = "Text-only answers were not measured."


def test_a_base_that_knows_nothing_keeps_nothing(make_run, tmp_path):
    make_run(tmp_path, base_says="zebra", losses={"distractor": 5}, conditions=EVERY, settings=WIDE)
    said, table = told(tmp_path)
    expected = "full_retention: not a retention measurement: the base's accuracy is 0.0 %"
    assert said.startswith(expected)
    assert "8.3 % of the answers changed" in said  # 5 of 60
    assert "rule" not in said
    assert f"WARNING {expected.replace('retention:', 'retention 42:', 1)}" in table
    assert "+0.0" not in table
    assert block(table, HEADER)[0][3:5] == ["not retention"] * 2
    (arm,), _, _ = built(tmp_path)
    assert not keeps(arm)
    assert {arm.vl[name].status for name in EVERY if name != "bypass"} == {"not retention"}
    assert pareto([arm], {arm.name: Look(0)}, 0.095) == []
    files = write_report(read_runs([tmp_path]))
    assert json.loads(files.figures.read_text())["verdict"] == said
    page = files.page.read_text()
    assert "8.3\u00a0% changed" in page
    assert "0.0 to 0.0" not in page


def test_of_several_such_arms_each_has_its_figures(make_run, tmp_path):
    for variant, lost in (("no_retention", 30), ("full_retention", 3)):
        make_run(tmp_path, variant, base_says="zebra", losses={"silence": lost}, settings=WIDE)
    said, _ = told(tmp_path)
    assert said.startswith("no_retention: not a retention measurement: ")
    assert "50.0 %" in said
    assert "full_retention likewise: up to 5.0 % of the answers changed" in said


def test_the_strong_sentence_stands_where_it_is_earned(make_run, tmp_path):
    for seed in (1, 2, 3):
        make_run(tmp_path, seed=seed, conditions=EVERY, text_losses={}, settings=WIDE)
    said, table = told(tmp_path)
    assert said == (
        "full_retention rules out a loss of 9.5 points under every condition on VL questions and text-only questions, "
        "with 3 seeds, while hearing adds 100.0 points."
    )
    assert "WARNING" not in table


def test_thirty_clips_without_hearing(make_run, tmp_path):
    make_run(tmp_path, base_says="zebra", heard=0, rows=30)
    said, table = told(tmp_path)
    assert "not a retention measurement" in said
    assert "No evidence that full_retention hears" in said
    assert "train longer" in said  # what to do next
    assert "WARNING full_retention 42: no evidence that it hears" in table
    assert "+0.0 [+0.0, +0.0]" not in table


def test_what_does_not_hear_gets_no_strong_sentence(make_run, tmp_path):
    make_run(tmp_path, conditions=EVERY, heard=0, settings=WIDE)
    said, _ = told(tmp_path)
    assert "but no variant hears. No evidence that full_retention hears" in said
    assert "hearing adds" not in said


def test_of_two_runs_alike_the_larger_evaluation_counts(make_run, tmp_path):
    full = make_run(tmp_path / "full", losses={"distractor": 9})
    quick = make_run(tmp_path / "quick", rows=20)
    finished(full, 60, "2026-01-01")
    finished(quick, 20, "2026-01-02")
    arms, _, (left,) = built(tmp_path)
    assert arms[0].vl["distractor"].rows == [60]
    assert left.folder == str(quick)


def test_an_evaluation_of_an_earlier_checkpoint_is_told(make_run, tmp_path):
    run = make_run(tmp_path)
    assert not any("is of step" in warning for warning in warnings(*built(run)[:2]))
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["training"]["steps"] = 80
    (run / "metrics.json").write_text(json.dumps(metrics))
    assert any("is of step 50 of 80" in warning for warning in warnings(*built(run)[:2]))


@pytest.mark.parametrize(
    ("conditions", "where"),
    [
        (
            ("bypass", "silence", "distractor"),
            "under silence and distractor, the two that were measured, on VL questions",
        ),
        (("bypass", "silence"), "under silence, the only one that was measured, on VL questions"),
        (EVERY[:-1], "the five that were measured, on VL questions"),
        (EVERY, "under every condition on VL questions, with one seed"),
    ],
)
def test_every_condition_means_all_six(make_run, tmp_path, conditions, where):
    make_run(tmp_path, conditions=conditions, settings=WIDE)
    said, _ = told(tmp_path)
    assert said.startswith("full_retention rules out a loss of 9.5 points ")
    assert where in said
    assert ("every condition" in said) == (conditions == EVERY)


def test_what_arms_were_not_all_measured_under_is_not_claimed_of_all(make_run, tmp_path):
    make_run(tmp_path, "soft_retention", settings=WIDE)
    make_run(tmp_path, "full_retention", conditions=EVERY, settings=WIDE)
    said, _ = told(tmp_path)
    assert "rule out a loss of 9.5 points under silence and distractor, the two that all were measured under," in said


@pytest.mark.parametrize(("seeds", "words"), [((1,), "with one seed"), ((1, 2), "with 2 seeds")])
def test_the_number_of_seeds_is_told(make_run, tmp_path, seeds, words):
    for seed in seeds:
        make_run(tmp_path, seed=seed, conditions=EVERY, settings=WIDE)
    assert f"{STRONG}, {words}, while" in told(tmp_path)[0]


def test_lost_text_only_answers_cost_the_strong_sentence(make_run, tmp_path):
    make_run(tmp_path, conditions=EVERY, text_losses={"loud": 45}, bits={"noise": 0.25}, settings=WIDE)
    said, table = told(tmp_path)
    assert said.startswith("No variant that hears rules out a loss")
    assert "with a loss of 75.0 points on text-only questions under loud" in said
    assert "Documents cost at most +0.250 bits per byte over the base's 1.500, under noise." in said
    assert UNMEASURED not in said
    assert block(table, HEADER)[0][5] == "-75.0"
    ((name, base, condition, change, changed, _kl),) = block(table, TEXT_HEADER)
    assert (name, base, condition, changed) == ("full_retention 42", "100.0 %", "loud", "75.0 %")
    assert change.startswith("-75.0 [")
    ((_, base, condition, change, _kl),) = block(table, DOCUMENTS_HEADER)
    assert (base, condition, change) == ("1.500", "noise", "+0.250 [+0.240, +0.260]")
    assert all(len(line) <= 80 for line in table.splitlines()[3:] if not line.startswith("WARNING"))
    (arm,), groups, _ = built(tmp_path)
    assert (arm.worst_part, arm.worst_name) == ("text", "loud")
    (chart,) = pareto([arm], {arm.name: Look(0)}, 0.095)
    assert "worst change -75.0 points (text, loud)" in chart
    lost = [example for example in choose_examples(groups) if example.part == "text"]
    assert len(lost) == CHANGED_TEXT
    assert {(example.change, example.condition, example.picture) for example in lost} == {
        ("right to wrong", "loud", None)
    }
    page = " ".join(write_report(read_runs([tmp_path])).page.read_text().split())
    assert "Figures on text-only questions under loud" in page
    assert "\u221275.0" in page
    assert "text, loud \u00b7 full_retention" in page


def test_text_only_answers_that_were_not_measured_are_told(make_run, tmp_path):
    make_run(tmp_path, conditions=EVERY, settings=WIDE)
    said, table = told(tmp_path)
    assert said.endswith(UNMEASURED)
    assert UNMEASURED in " ".join(table.split())
    page = write_report(read_runs([tmp_path])).page.read_text()
    assert f'<p class="lead">{UNMEASURED}</p>' in page


def test_of_arms_some_of_which_measured_text_each_is_told(make_run, tmp_path):
    make_run(tmp_path, "no_retention", conditions=EVERY, settings=WIDE)
    make_run(tmp_path, "full_retention", conditions=EVERY, text_losses={}, settings=WIDE)
    assert told(tmp_path)[0].endswith("Of no_retention, text-only answers were not measured.")


def test_results_from_before_there_were_text_only_rows_are_shown(make_run, tmp_path):
    run = make_run(tmp_path, conditions=EVERY, settings=WIDE)
    fields = {"guessing", "base_above_guessing", "text", "base_text", "base_text_format_errors", "text_guessing",
              "base_text_above_guessing", "documents", "base_bits_per_byte", "audio_metric"}  # fmt: skip
    for path in (*run.glob("evaluation/*/results.json"), run / "metrics.json"):
        content = results_of(path)
        for field in fields:
            del content["evaluation"][field]
        for condition in ("silence", "distractor"):  # as a bootstrap without exact limits has it
            content["evaluation"]["vl"][condition]["difference"] = {"mean": 0.0, "low": 0.0, "high": 0.0}
        path.write_text(json.dumps(content))
    said, table = told(tmp_path)
    assert STRONG in said
    assert said.endswith(UNMEASURED)
    limit = 100 * (1 - 0.025 ** (1 / 60))  # Clopper and Pearson's, of 60 rows without a change
    assert block(table, HEADER)[0][3:6] == [f"+0.0 [-{limit:.1f}, +{limit:.1f}]"] * 2 + ["-"]
    assert write_report(read_runs([tmp_path])).page.is_file()


def test_soft_retention_is_told_apart_from_the_overfitting_ablations(make_run, tmp_path):
    make_run(tmp_path, "soft_retention")
    assert any("soft_retention is KL alone here" in note for note in notes(built(tmp_path)[0]))
    assert "KL + Fisher" in told(tmp_path)[1]
    make_run(tmp_path / "other", "fisher_retention", settings={"label": "soft_retention"})
    assert "soft_retention here is the overfitting ablation's name" in notes(built(tmp_path / "other")[0])[0]
    make_run(tmp_path / "third", "full_retention")
    assert notes(built(tmp_path / "third")[0]) == []
