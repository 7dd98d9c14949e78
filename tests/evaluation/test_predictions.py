"""Samples on disk: an evaluation that was cut off goes on where it stopped, and never mixes answers."""

import json
from pathlib import Path

import pytest

import safe_train.evaluation.predictions as samples_module
from safe_train.data.example import Example
from safe_train.errors import InputError
from safe_train.evaluation.predictions import Prediction, PredictionStore

ROWS = [Example(f"r{k}", "what?", (str(k),), cluster=str(k)) for k in range(10)]
SIZE = 3


class Answers:
    """Answers each row with its own id and counts; stops before a batch if told so."""

    def __init__(self, stop_before=None):
        self.asked, self.stop_before = [], stop_before

    def __call__(self, rows):
        if self.stop_before in [row.row_id for row in rows]:
            raise KeyboardInterrupt
        self.asked += [row.row_id for row in rows]
        return [Prediction(row.row_id, f"answer to {row.row_id}", 0.5, updates=(0.1, 0.2), kl=1 / 3) for row in rows]


@pytest.fixture
def store(tmp_path):
    return PredictionStore.create(tmp_path / "evaluation", {"seed": 1}, ROWS, [])


def complete(store, answers, rows=ROWS):
    return store.complete("vl", "silence", rows, answers, SIZE)


def test_all_rows_are_answered_once_and_read_back_as_they_were(store):
    answers = Answers()
    samples = complete(store, answers)
    assert answers.asked == [row.row_id for row in ROWS]
    assert store.read("vl", "silence") == samples
    assert samples[4] == Prediction("r4", "answer to r4", 0.5, updates=(0.1, 0.2), kl=1 / 3)


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


def test_a_flipped_bit_never_changes_an_answer_that_is_read(store):
    """At any byte: what comes back is what was written, up to the damaged line, and the line is told."""
    whole = complete(store, Answers(), ROWS[:4])
    path = store.path("vl", "silence")
    content, found = path.read_bytes(), []
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        samples = store.read("vl", "silence")
        assert samples == whole[: len(samples)]
        found.append(len(samples))
    assert set(found) == {0, 1, 2, 3}


def change(line, **values):
    return json.dumps(json.loads(line) | values)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda line: change(line, score=5.0), id="a score that was changed"),
        pytest.param(lambda line: change(line, score=5.0, sha256=None), id="no digest and a score above 1"),
        pytest.param(lambda line: change(line, score=float("nan"), sha256=None), id="NaN"),
        pytest.param(lambda line: change(line, score="1.0", sha256=None), id="text"),
        pytest.param(lambda line: change(line, updates=3, sha256=None), id="a number for a list"),
        pytest.param(lambda _line: "[" * 100_000, id="deep"),
        pytest.param(lambda _line: '{"score": ' + "1" * 5_000 + "}", id="a long number"),
        pytest.param(lambda _line: "[]", id="another kind"),
        pytest.param(lambda _line: "", id="empty"),
    ],
)
def test_a_damaged_line_is_told_and_answered_again_with_what_follows(store, caplog, spoil):
    whole, path = complete(store, Answers()), store.path("vl", "silence")
    content = path.read_text()
    lines = content.split("\n")
    lines[4] = spoil(lines[4])
    path.write_text("\n".join(lines))
    rest = Answers()
    assert complete(store, rest) == whole
    assert rest.asked == [row.row_id for row in ROWS[3:]]  # from the batch of the damaged line on
    assert path.read_text() == content
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: line 5 is damaged; it and what follows it count as not answered"
    ]


def test_a_byte_that_is_no_text_is_damage_too(store):
    whole, path = complete(store, Answers()), store.path("vl", "silence")
    path.write_bytes(path.read_bytes().replace(b"answer to r8", b"answer to \xff8"))
    assert store.read("vl", "silence") == whole[:8]


def test_answers_of_an_earlier_version_have_no_digest_and_are_taken(store):
    whole, path = complete(store, Answers()), store.path("vl", "silence")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert all(len(line.pop("sha256")) == 16 for line in lines)
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    again = Answers()
    assert complete(store, again) == whole
    assert again.asked == []


@pytest.mark.parametrize("spoil", [b"[]", b'{"row_id": "r1"}', b"\xff", b"{", b""])
def test_damaged_rows_are_one_line(store, spoil):
    path = store.folder / "rows.vl.jsonl"
    lines = path.read_bytes().split(b"\n")
    lines[1] = spoil
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(
        InputError, match="expected the examples of an evaluation, got line 2 that is damaged; evaluate"
    ):
        store.rows("vl")
    path.unlink()
    with pytest.raises(InputError, match="no such file"):
        store.rows("vl")


def test_answers_to_other_rows_are_not_taken(store):
    complete(store, Answers())
    others = [Example(f"x{k}", "what?", ("a",)) for k in range(10)]
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
        PredictionStore.create(tmp_path / "file" / "evaluation", {}, ROWS, [])


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
