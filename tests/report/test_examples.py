"""Which examples the page shows."""

from safe_train.report import read_runs
from safe_train.report.examples import CHANGED, HEARD, UNCHANGED, choose_examples
from safe_train.report.grouping import group_runs


def test_examples_are_changed_answers_first_and_the_same_again(make_run, tmp_path):
    make_run(tmp_path, losses={"distractor": 9})
    make_run(tmp_path, "no_retention", losses={"silence": 9})
    make_run(tmp_path, damage=2.0, losses=dict.fromkeys(("silence", "distractor"), 60))
    groups, _ = group_runs(read_runs([tmp_path]).runs)
    found = choose_examples(groups)
    expected = ["right to wrong"] * CHANGED + ["unchanged"] * UNCHANGED + ["heard"] * HEARD
    assert [example.change for example in found] == expected
    assert [example.arm for example in found[:4]] == ["no_retention", "full_retention"] * 2  # and no control
    assert len({example.row_id for example in found}) == len(found)
    assert found == choose_examples(groups)
    assert (found[0].base, found[0].safe, found[0].references) == ("0", "one low bell", ["0"])
