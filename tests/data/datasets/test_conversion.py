"""Records become examples."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safe_train.data.datasets.conversion import convert_audio, convert_vqa
from safe_train.data.datasets.records import AudioRecord, VQARecord
from safe_train.metrics.vqa_accuracy import vqa_accuracy


def vqa(answers):
    return VQARecord(1, 2, "how many?", tuple(answers), Path("2.png"), "count", "number")


@given(answers=st.lists(st.sampled_from(["1", "2", "3"]), min_size=1, max_size=10))
def test_the_majority_answer_comes_first_and_none_is_lost(answers):
    (row,) = convert_vqa([vqa(answers)])
    assert sorted(row.answers) == sorted(answers)
    assert answers.count(row.answers[0]) == max(map(answers.count, answers))
    assert vqa_accuracy("1", row.answers) == pytest.approx(vqa_accuracy("1", answers))


def test_a_question_without_answers_stays_without():
    assert convert_vqa([vqa([])])[0].answers == ()


def test_vl_rows_are_clustered_by_image_and_audio_rows_by_clip():
    assert convert_vqa([vqa(["1"])])[0].cluster == "2"
    example = AudioRecord("clip", Path("a.wav"), ("a dog", "a bark"), None, None)
    (row,) = convert_audio([example], "what do you hear?")
    assert (row.cluster, row.question, row.answers) == ("clip", "what do you hear?", ("a dog", "a bark"))


def test_a_clip_with_a_question_of_its_own_keeps_it():
    example = AudioRecord("clip", Path("a.wav"), ("yes",), "is it a dog?", None)
    assert convert_audio([example], "what do you hear?")[0].question == "is it a dog?"
