"""How answers to audio rows are scored: captions in free words by likeness, closed sets by exact match."""

from dataclasses import replace

import pytest

import safe_train.metrics.captions as captions_module
from safe_train.data.datasets.audiocaps import AudioCaps
from safe_train.data.example import CAPTION, QUESTION, Example
from safe_train.embedded.dataset import DatasetSizes, write_dataset
from safe_train.errors import InputError
from safe_train.evaluation.aggregate import audio_result
from safe_train.evaluation.audio_metric import audio_scores, resolve_audio_metric
from safe_train.evaluation.predictions import Prediction
from safe_train.evaluation.summarize import summarize
from safe_train.metrics.captions import cider_d
from safe_train.metrics.exact_match import exact_match
from safe_train.metrics.intervals import SHARE, cluster_bootstrap
from safe_train.metrics.token_f1 import token_f1

# Captions as people write them: five of a clip, no two alike.
SAID = {
    "dog": (
        "A dog barks several times while birds chirp in the distance",
        "A dog is barking repeatedly with birds singing in the background",
        "Birds are chirping as a dog barks",
        "A dog barking and birds tweeting",
        "A large dog barks loudly over chirping birds",
    ),
    "water": (
        "Water is running from a faucet into a metal sink",
        "A faucet pours water into a sink",
        "Water flowing and splashing in a sink",
        "Tap water runs steadily",
        "Running water splashes onto metal",
    ),
    "train": (
        "A train horn blows as a train passes on the tracks",
        "A train sounds its horn while rolling by",
        "Train wheels clack and a horn honks",
        "A locomotive passes, blowing its horn",
        "A train approaches and blows a loud horn",
    ),
    "man": (
        "A man speaks followed by people laughing",
        "A man talking and then a crowd laughs",
        "An adult male is speaking and an audience laughs",
        "A man gives a speech while people laugh",
        "Male speech with laughter",
    ),
}
ROWS = [Example(name, "what do you hear?", texts, kind=CAPTION, cluster=name) for name, texts in SAID.items()]
PARAPHRASES = {
    "dog": "a dog barks while birds are chirping",
    "water": "water runs from a faucet into a sink",
    "train": "a train passes and blows its horn",
    "man": "a man is speaking and people laugh",
}
UNRELATED = "loud music thumping"


def answered(texts, rows=ROWS):
    return [
        Prediction(row.row_id, text, exact_match(text, row.answers), token_f1(text, row.answers))
        for row, text in zip(rows, texts, strict=True)
    ]


GOOD, BAD = answered(PARAPHRASES.values()), answered([UNRELATED] * 4)


@pytest.mark.parametrize("metric", ["token_f1", "cider_d"])
def test_a_good_paraphrase_scores_above_nothing_and_above_an_unrelated_caption(metric):
    good, bad = (audio_scores(samples, ROWS, metric) for samples in (GOOD, BAD))
    assert all(0.1 < one < 1 and one > other for one, other in zip(good, bad, strict=True))
    vl = [Example("v", "?", ("a",))]
    gain = summarize([Prediction("v", "", 1.0)], {}, {"matched": GOOD, "silence": BAD}, vl, ROWS,
                     margin=0.005, seconds=1.0, audio_metric=metric)  # fmt: skip
    assert gain.audio_gain["silence"].low > 0.1
    assert gain.audio_metric == metric


def test_exact_match_sees_neither():
    """Negative control: what captions used to be judged by."""
    assert audio_scores(GOOD, ROWS, "exact_match") == audio_scores(BAD, ROWS, "exact_match") == [0.0] * 4


def test_accuracy_is_that_of_the_metric():
    values = [token_f1(text, row.answers) for text, row in zip(PARAPHRASES.values(), ROWS, strict=True)]
    found = audio_result("matched", GOOD, ROWS, metric="token_f1")
    assert found.accuracy == found.token_f1 == cluster_bootstrap(values, list(SAID), bounds=SHARE)
    assert audio_result("matched", GOOD, ROWS).accuracy.mean == 0.0


def test_cider_d_is_a_tenth_of_its_own_figure():
    own = cider_d(list(PARAPHRASES.values()), list(SAID.values()))
    assert audio_scores(GOOD, ROWS, "cider_d") == pytest.approx([value / 10 for value in own])
    assert audio_result("matched", GOOD, ROWS, metric="cider_d").accuracy.mean == pytest.approx(sum(own) / 4 / 10)


def test_a_caption_s_own_words_have_the_full_score_by_likeness():
    first = answered([row.answers[0] for row in ROWS])
    for metric in ("token_f1", "exact_match"):
        assert audio_scores(first, ROWS, metric) == [1.0] * 4


def test_questions_beside_captions_are_matched_exactly():
    rows = [*ROWS, Example("q", "is there a dog?", ("yes it is",), kind=QUESTION, cluster="q")]
    samples = answered([*PARAPHRASES.values(), "yes it was"], rows)
    assert audio_scores(samples, rows, "token_f1") == [*audio_scores(GOOD, ROWS, "token_f1"), 0.0]
    assert audio_scores(samples, rows, "cider_d")[:4] == audio_scores(GOOD, ROWS, "cider_d")
    alone = rows[4:]
    assert audio_scores(samples[4:], alone, "token_f1") == pytest.approx([2 / 3])  # asked for, and no captions


def test_free_words_are_told_from_a_closed_set():
    assert resolve_audio_metric("auto", ROWS) == "token_f1"
    names = [Example(f"c{k}", "?", (f"class {k % 4}", f"other {k}"), kind=CAPTION) for k in range(20)]
    assert resolve_audio_metric("auto", names) == "exact_match"  # four different ones of twenty: a fifth
    five = [replace(row, answers=("A fifth.",)) if k == 7 else row for k, row in enumerate(names)]
    assert resolve_audio_metric("auto", five) == "token_f1"
    same = [replace(row, answers=("The class 0!",)) if k == 4 else row for k, row in enumerate(names)]
    assert resolve_audio_metric("auto", same) == "exact_match"  # the same after normalization
    assert resolve_audio_metric("auto", names[:4]) == "token_f1"
    assert resolve_audio_metric("auto", names[:4], names[4:]) == "exact_match"  # other rows of the data help to tell


def test_questions_alone_are_matched_exactly():
    rows = [replace(row, kind=QUESTION) for row in ROWS]
    assert resolve_audio_metric("auto", rows) == resolve_audio_metric("auto", rows, ROWS) == "exact_match"


@pytest.mark.parametrize("asked", ["exact_match", "token_f1", "cider_d"])
def test_a_setting_decides(asked):
    assert resolve_audio_metric(asked, ROWS) == asked


def test_the_procedural_clips_are_a_closed_set(tmp_path):
    write_dataset(tmp_path, DatasetSizes(train_questions=4, val_questions=4, train_clips=200, val_clips=60))
    train, val = (
        AudioCaps().examples(tmp_path, split, default_question="what do you hear?") for split in ("train", "val")
    )
    assert resolve_audio_metric("auto", val, train) == "exact_match"


def test_cider_d_needs_two_captions_and_its_extra(monkeypatch):
    with pytest.raises(InputError, match="at least two audio examples that ask for a caption, got 1"):
        resolve_audio_metric("cider_d", [ROWS[0], replace(ROWS[1], kind=QUESTION)])

    def missing(name):
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(captions_module.importlib, "import_module", missing)
    with pytest.raises(InputError, match=r"pip install aac-metrics==0\.5\.4"):
        resolve_audio_metric("cider_d", ROWS)
    assert resolve_audio_metric("token_f1", ROWS) == "token_f1"
