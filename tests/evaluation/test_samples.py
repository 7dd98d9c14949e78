"""Samples on disk: an evaluation that was cut off goes on where it stopped, and never mixes answers."""

import json
from pathlib import Path

import pytest

import safe_train.evaluation.samples as samples_module
from safe_train.data.rows import Row
from safe_train.errors import InputError
from safe_train.evaluation.samples import Sample, SampleStore

ROWS = [Row(f"r{k}", "what?", (str(k),), cluster=str(k)) for k in range(10)]
SIZE = 3


class Answers:
    """Answers each row with its own id and counts; stops before a batch if told so."""

    def __init__(self, stop_before=None):
        self.asked, self.stop_before = [], stop_before

    def __call__(self, rows):
        if self.stop_before in [row.row_id for row in rows]:
            raise KeyboardInterrupt
        self.asked += [row.row_id for row in rows]
        return [Sample(row.row_id, f"answer to {row.row_id}", 0.5, updates=(0.1, 0.2), kl=1 / 3) for row in rows]


@pytest.fixture
def store(tmp_path):
    return SampleStore.create(tmp_path / "evaluation", {"seed": 1}, ROWS, [])


def complete(store, answers, rows=ROWS):
    return store.complete("vl", "silence", rows, answers, SIZE)


def test_all_rows_are_answered_once_and_read_back_as_they_were(store):
    answers = Answers()
    samples = complete(store, answers)
    assert answers.asked == [row.row_id for row in ROWS]
    assert store.read("vl", "silence") == samples
    assert samples[4] == Sample("r4", "answer to r4", 0.5, updates=(0.1, 0.2), kl=1 / 3)


def test_a_second_call_asks_nothing(store):
    first, again = complete(store, Answers()), Answers()
    assert complete(store, again) == first
    assert again.asked == []


def test_what_was_cut_off_goes_on_with_the_batch_that_was_missing(store):
    with pytest.raises(KeyboardInterrupt):
        complete(store, Answers(stop_before="r7"))
    rest = Answers()
    samples = complete(store, rest)
    assert rest.asked == ["r6", "r7", "r8", "r9"]
    assert samples == Answers()(ROWS)


@pytest.mark.parametrize("cut", [2, 40, 333])
def test_a_line_that_was_cut_off_is_answered_again_with_its_batch(store, cut):
    whole = complete(store, Answers())
    path = store.path("vl", "silence")
    path.write_bytes(path.read_bytes()[:-cut])
    rest = Answers()
    assert complete(store, rest) == whole
    assert rest.asked
    assert (len(ROWS) - len(rest.asked)) % SIZE == 0  # batches keep their make-up
    assert len(path.read_text().splitlines()) == len(ROWS)


def test_answers_to_other_rows_are_not_taken(store):
    complete(store, Answers())
    others = [Row(f"x{k}", "what?", ("a",)) for k in range(10)]
    answers = Answers()
    samples = complete(store, answers, others)
    assert [sample.row_id for sample in samples] == answers.asked == [row.row_id for row in others]


def test_rows_and_key_lie_beside_the_answers(store):
    lines = [json.loads(line) for line in (store.folder / "rows.vl.jsonl").read_text().splitlines()]
    assert [line["row_id"] for line in lines] == [row.row_id for row in ROWS]
    assert json.loads((store.folder / "key.json").read_text()) == {"seed": 1}


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="a file that can be written"):
        SampleStore.create(tmp_path / "file" / "evaluation", {}, ROWS, [])


def test_a_full_disk_keeps_what_was_written(store, monkeypatch):
    """The disk is full when the batch of r6 is to be written."""
    write = samples_module._write_lines

    def full(path, samples, *, mode):
        if samples and samples[0].row_id == "r6":
            path = Path("/dev/full")
        write(path, samples, mode=mode)

    monkeypatch.setattr(samples_module, "_write_lines", full)
    with pytest.raises(InputError, match="No space left on device; make room"):
        complete(store, Answers())
    assert [sample.row_id for sample in store.read("vl", "silence")] == [f"r{k}" for k in range(6)]
