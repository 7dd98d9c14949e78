"""Parquet files and saved data sets give the examples that the same data give as files."""

import pytest

from safe_train.data.datasets.audiocaps import AudioCaps
from safe_train.data.datasets.text import Text
from safe_train.data.datasets.vqa import VQA
from safe_train.data.validation.check import check_root
from safe_train.io.tables import TableCell
from tests.data.shards import as_tables, assert_same_examples, samples_of, table_of

datasets = pytest.importorskip("datasets", reason="the package datasets is not installed")


@pytest.fixture(scope="module")
def tables(small_data, tmp_path_factory):
    return as_tables(small_data, tmp_path_factory.mktemp("tables"))


@pytest.mark.parametrize("reader", [AudioCaps(), VQA()], ids=lambda reader: reader.name)
@pytest.mark.parametrize("split", ["train", "val"])
def test_they_give_the_same_examples(small_data, tables, reader, split):
    plain = reader.examples(small_data, split, default_question="what?")
    packed = reader.examples(tables, split, default_question="what?")
    assert all(isinstance(example.audio or example.image, TableCell) for example in packed)
    assert_same_examples(packed, plain)


def test_the_check_reads_them(tables):
    reports = list(check_root(tables))
    assert {(report.name, report.split) for report in reports} >= {("audiocaps", "train"), ("vqa", "val")}
    assert all(not report.defects for report in reports)


def test_audiocaps_as_it_is_on_the_hub(small_data, tmp_path):
    """A row for each caption, each with its own copy of the clip: one example of a clip, with all captions."""
    (key, _, media), *_ = samples_of(small_data, "train")["audiocaps"]
    rows = [
        (key, {"audiocap_id": n, "youtube_id": "abc", "start_time": 30, "caption": caption}, media)
        for n, caption in enumerate(["a bell", "it rings"])
    ]
    (tmp_path / "audiocaps").mkdir()
    table_of(rows, "audio", with_paths=False).to_parquet(tmp_path / "audiocaps" / "test.parquet")
    ((record,), missing) = AudioCaps().read(tmp_path, "test")
    assert (record.clip_id, record.captions) == ("abc_30", ("a bell", "it rings"))
    assert not missing.clip_ids


def test_vqa_as_it_is_on_the_hub(small_data, tmp_path):
    """Answers are objects, as in the official annotations."""
    ((key, _, media), *_) = samples_of(small_data, "train")["vqa"]
    answers = [{"answer": word, "answer_confidence": "yes", "answer_id": n} for n, word in enumerate(["red", "rot"], 1)]
    fields = {
        "question_type": "what color", "multiple_choice_answer": "red", "answers": answers, "image_id": 9,
        "answer_type": "other", "question_id": 90, "question": "what color is it?",
    }  # fmt: skip
    table_of([(key, fields, media)], "image").save_to_disk(tmp_path / "vqa" / "validation")
    (record,) = VQA().records(tmp_path, "validation")
    assert (record.question_id, record.image_id, record.answers) == (90, 9, ("red", "rot"))
    assert (record.question_type, record.answer_type) == ("what color", "other")


def test_rows_of_text(tmp_path):
    rows = [{"prompt": "What is the capital of Peru?", "answer": "Lima"}, {"prompt": "2 + 2?", "answer": "4"}]
    (tmp_path / "text").mkdir()
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "text" / "train.parquet")
    assert [(r.text_id, r.question, r.answers) for r in Text().records(tmp_path, "train")] == [
        ("0", "What is the capital of Peru?", ("Lima",)), ("1", "2 + 2?", ("4",)),
    ]  # fmt: skip
