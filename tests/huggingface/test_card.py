"""The card says what the figures mean before it tells them, and claims nothing where they mean nothing."""

import copy
from types import SimpleNamespace

import pytest
import yaml

from safe_train.config import build_config
from safe_train.data.example import DOCUMENT, Example
from safe_train.evaluation.predictions import Prediction
from safe_train.evaluation.storage import base_store, safe_store
from safe_train.evaluation.summarize import summarize
from safe_train.huggingface import SafeConfig
from safe_train.huggingface.model_card import model_card
from safe_train.huggingface.results import retention_figures
from safe_train.metrics.metric import Metric
from safe_train.metrics.registry import METRICS
from tests.huggingface.made import RETENTION

ROWS = 40
VL = [
    Example(f"v{n}", "what?", ("circle", "square")[n % 2 : n % 2 + 1], None, None, "shape", str(n)) for n in range(ROWS)
]
TEXT = [Example(f"t{n}", "what?", ("one", "two")[n % 2 : n % 2 + 1], None, None, "sum", str(n)) for n in range(ROWS)]
DOCUMENTS = [Example(f"d{n}", "", ("some words",), None, None, DOCUMENT, str(n)) for n in range(4)]
AUDIO = [Example(f"a{n}", "what do you hear?", (f"bell {n}",), None, None, "", str(n)) for n in range(ROWS)]


def card(figures, **config):
    """Metadata and text."""
    text = model_card(SafeConfig(retention=figures, **config), 5)
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


def metrics(front):
    return {
        metric["name"]: (metric["type"], metric["value"])
        for index in front.get("model-index", [])
        for result in index["results"]
        for metric in result["metrics"]
    }


def figures(**changes):
    return copy.deepcopy(RETENTION) | {"weights_sha256": "0" * 64} | changes


def meaning(**changes):
    return {"meaning": RETENTION["meaning"] | changes}


def evaluated(tmp_path, *, base_right, heard, text=True, lost=3, metric="exact_match", text_bypass="x"):
    """Figures of an evaluation whose base has the first rows right, and of which SAFE answers `lost` otherwise."""

    def answers(rows, right, changed, attached=True, digest="x"):
        heard = {"kl": 2.5, "tokens": 2, "updates": (0.5,), "fusion_calls": 1}
        measured = heard if attached else {"logits_sha256": digest}
        return [
            Prediction(row.row_id, "lion", 0.0, **measured)
            if n < changed
            else Prediction(row.row_id, row.answers[0] if n < right else "zebra", float(n < right), **measured)
            for n, row in enumerate(rows)
        ]

    def documents(bits, attached):
        measured = {"kl": 0.25, "tokens": 2, "updates": (0.5,)} if attached else {"logits_sha256": "x"}
        return [Prediction(row.row_id, "", 0.0, bits=bits, num_bytes=10, **measured) for row in DOCUMENTS]

    def matched(right):
        return [
            Prediction(row.row_id, row.answers[0] if n < right else "none", float(n < right), float(n < right))
            for n, row in enumerate(AUDIO)
        ]

    both = {} if not text else {
        "base_text": [*answers(TEXT, ROWS, 0, False), *documents(15.0, False)],
        "text": {
            "bypass": [*answers(TEXT, ROWS, 0, False, text_bypass), *documents(15.0, False)],
            "silence": [*answers(TEXT, ROWS, 8), *documents(20.0, True)],
        },
        "text_examples": [*TEXT, *DOCUMENTS],
    }  # fmt: skip
    result = summarize(
        answers(VL, base_right, 0, False),
        {"bypass": answers(VL, base_right, 0, False), "silence": answers(VL, base_right, lost)},
        {"matched": matched(heard), "silence": matched(0)},
        VL,
        AUDIO,
        margin=0.005,
        seconds=1.0,
        audio_metric=metric,
        **both,
    )
    key = {"trained_parts_sha256": "0" * 64, "step": 5, "precision": "fp32"}
    base, safe = base_store(tmp_path, key, VL), safe_store(tmp_path, key | {"of": "SAFE"}, VL, AUDIO)
    stored = SimpleNamespace(result=result, key=key, base_folder=base.folder, folder=safe.folder)
    return retention_figures(SimpleNamespace(config=build_config({}, {}), evaluation=stored))


def test_a_base_with_nothing_right_passes_nothing(tmp_path):
    """Every answer of the base is wrong: no loss of accuracy, and yet 3 of 40 answers changed by a KL of 2.5."""
    found = evaluated(tmp_path, base_right=0, heard=ROWS)
    front, body = card(found)
    assert "## Visual questions: not a retention measurement" in body
    assert "Not a retention measurement: the base's accuracy is 0.0 %" in body
    assert "| silence | 40 | 7.5 % | 2.5 |" in body
    assert "Retention on visual questions" not in body
    assert metrics(front) == {}


def test_a_base_that_sees_is_measured(tmp_path):
    found = evaluated(tmp_path, base_right=ROWS, heard=ROWS)
    front, body = card(found)
    assert "not a retention measurement" not in body.lower()
    assert "## Retention on visual questions" in body
    assert "(accuracy 100.0 %)" in body
    assert "| silence | 40 | 92.5 % | -7.5 [" in body
    assert metrics(front)["accuracy (VL, silence)"] == ("accuracy", 0.925)


def test_text_stands_beside_images(tmp_path):
    found = evaluated(tmp_path, base_right=ROWS, heard=ROWS)
    assert found["base_text_accuracy"][0] == 1.0
    assert found["text"].keys() == found["documents"].keys() == {"silence"}
    assert found["text"]["silence"]["answer_change_rate"] == 8 / ROWS
    assert found["base_bits_per_byte"][0] == 1.5
    front, body = card(found)
    assert "## Retention on text-only questions" in body
    assert "| silence | 40 | 80.0 % | -20.0 [" in body
    assert "The base needs 1.500 bits per byte of documents" in body
    assert "| silence | 4 | 2.000 | +0.500 [" in body
    assert metrics(front)["accuracy (text, silence)"] == ("accuracy", 0.8)


def test_text_that_was_not_measured_is_said_not_to_be(tmp_path):
    found = evaluated(tmp_path, base_right=ROWS, heard=ROWS, text=False)
    assert (found["text"], found["documents"], found["base_text_accuracy"]) == ({}, {}, None)
    _, body = card(found)
    assert "## Text-only questions: not measured" in body


@pytest.mark.parametrize(("heard", "learned"), [(0, False), (ROWS, True)])
def test_a_model_that_hears_nothing_is_not_said_to_hear(tmp_path, heard, learned):
    front, body = card(evaluated(tmp_path, base_right=ROWS, heard=heard))
    assert ("## Hearing\n" in body, "No evidence of hearing: with the matched clip" in body) == (
        learned,
        not learned,
    )
    assert ("exact match (audio, matched)" in metrics(front)) == learned


def test_the_bypass_counts_on_text_too(tmp_path):
    found = evaluated(tmp_path / "equal", base_right=ROWS, heard=ROWS)
    assert "Without audio the model is the base bit for bit" in card(found)[1]
    found = evaluated(tmp_path / "other", base_right=ROWS, heard=ROWS, text_bypass="y")
    assert "Without audio the model DIFFERS FROM THE BASE" in card(found)[1]


def test_text_at_the_floor_claims_no_accuracy():
    front, body = card(figures(**meaning(not_text_retention="the base has 0.0 % right; look elsewhere")))
    assert "## Text-only questions: not a retention measurement" in body
    assert "| silence | 16 | 18.8 % | 0.25 |" in body
    assert "62.5 %" not in body
    assert metrics(front).keys() == {"accuracy (VL, silence)", "exact match (audio, matched)"}
    assert "62.5 %" in card(figures())[1]


@pytest.mark.parametrize(
    ("metric", "name", "metric_type", "told"),
    [
        ("exact_match", "exact match", "exact_match", "by exact match: matched 99.9 %"),
        ("token_f1", "token F1", "token_f1", "by token F1: matched 99.9 %"),
        ("cider_d", "CIDEr-D/10", "cider_d/10", "by CIDEr-D/10: matched 0.999"),
    ],
)
def test_the_metric_of_hearing_is_named(metric, name, metric_type, told):
    front, body = card(figures(audio_metric=metric))
    assert told in body
    assert metrics(front)[f"{name} (audio, matched)"] == (metric_type, 0.999)
    assert ("in points: against silence +25.0 [" in body) == (metric != "cider_d")


def test_a_registered_metric_is_named_on_the_card(monkeypatch):
    """A value of at most 4 is given to the hub as a share, and says so."""
    monkeypatch.setitem(METRICS, "words", Metric("words", "first words", lambda corpus: [], highest=4.0))
    front, body = card(figures(audio_metric="words"))
    assert "by first words/4: matched 0.999" in body
    assert metrics(front)["first words/4 (audio, matched)"] == ("words/4", 0.999)


def test_what_was_measured_is_named_with_its_one_seed():
    _, body = card(figures())
    assert "Measured: silence; not measured: distractor, loud. One seed (3)" in body
    assert "every" not in body.lower()


def test_a_condition_without_an_effect_is_no_score():
    found = figures()
    found["vl"]["silence"]["is_measurement"] = False
    front, body = card(found)
    assert "not a retention measurement: the fusion had no effect" in body
    assert "accuracy (VL, silence)" not in metrics(front)


def test_nothing_in_a_name_ends_its_code_span():
    _, body = card(None, base_model="a`b\n# heading", audio_encoders=["<img>`"])
    assert "\n# heading" not in body
    assert "<code>a`b # heading</code>" in body
    assert "<code>&lt;img&gt;`</code>" in body


def test_the_splits_are_named():
    data = RETENTION["data"] | {"split": "test", "vl_split": "val"}
    front, body = card(figures(data=data))
    assert "(val and test), base and encoders" in body
    names = {result["dataset"]["name"] for result in front["model-index"][0]["results"]}
    assert {name.rpartition(", ")[2] for name in names if "AudioCaps" in name or "audiocaps" in name} == {"test"}
    assert {name.rpartition(", ")[2] for name in names if "VQA" in name or "vqa" in name} == {"val"}
    assert "(val), base and encoders" in card(figures())[1]
