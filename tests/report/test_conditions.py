"""Whatever conditions were measured, each reader of results has words for those that were not."""

import pytest

from safe_train.evaluation.conditions import CONDITIONS, select, standard_names
from safe_train.evaluation.validity import assess_validity
from safe_train.huggingface import SafeConfig
from safe_train.huggingface.model_card import model_card
from safe_train.huggingface.results import retention_figures
from safe_train.report import read_runs, write_report
from safe_train.report.summary import draw_picture, format_table

ALONE = [[name] for name in CONDITIONS]
CHOICES = [([], False), (["silence"], False), *((names, True) for names in ([], *ALONE, ["loud", "noise"], ["all"]))]


@pytest.mark.parametrize(
    ("names", "text"), CHOICES, ids=lambda value: "+".join(value) if isinstance(value, list) else ""
)
def test_a_run_that_measured_some_conditions_is_shown_and_published(make_run, tmp_path, names, text):
    chosen = select(names)
    of_text = {"text_losses": {}, "bits": dict.fromkeys(chosen.vl, 0.0)} if text else {}
    make_run(tmp_path, conditions=chosen.vl, audio_conditions=chosen.audio, **of_text)
    found = read_runs([tmp_path])
    (run,) = found.runs
    evaluation = run.evaluation.result
    judged = assess_validity(evaluation, margin=0.005)
    heard = set(chosen.vl) & set(standard_names())
    assert set(judged.unmeasured) == set(standard_names()) - heard
    assert bool(judged.not_retention) == all(name == "bypass" or name.startswith("gate_") for name in chosen.vl)
    assert format_table(found.summaries)
    draw_picture(found.summaries, tmp_path / "picture.png")
    assert write_report(found).page.is_file()
    assert model_card(SafeConfig(retention=retention_figures(run)), 5)
    assert evaluation.passed_although_damaged()  # nothing is lost in this run, or nothing was measured
