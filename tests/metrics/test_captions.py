"""CIDEr-D in closed form and against its definition; what the other metrics need, and that they are put together."""

import math
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safe_train.errors import InputError
from safe_train.metrics.captions import cider_d

ROOT = Path(__file__).parents[2]
REFERENCES = [["a dog barks at night", "loud barking nearby"], ["rain falls on a roof"], ["people talk over music"]]


@pytest.fixture(scope="module", autouse=True)
def aac_metrics():
    return pytest.importorskip("aac_metrics", reason="needs the extra metrics")


def by_definition(predictions, references, *, clip=True, penalize=True):
    """CIDEr-D from section 6 of Vedantam et al. 2015; without ``clip`` and ``penalize`` it is the plain CIDEr."""

    def vectors(caption):
        words = caption.split()
        return [Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1)) for n in (1, 2, 3, 4)]

    def weight(gram):
        samples = sum(any(gram in vectors(text)[len(gram) - 1] for text in texts) for texts in references)
        return math.log(len(references) / max(1, samples))

    def cosine(counts, other):
        weighted, others = ({gram: count * weight(gram) for gram, count in c.items()} for c in (counts, other))
        dot = sum(
            (min(value, others.get(gram, 0.0)) if clip else value) * others.get(gram, 0.0)
            for gram, value in weighted.items()
        )
        norms = math.hypot(*weighted.values()) * math.hypot(*others.values())
        return dot / norms if norms else 0.0

    def similarity(prediction, reference):
        difference = len(prediction.split()) - len(reference.split())
        penalty = math.exp(-(difference**2) / (2 * 6.0**2)) if penalize else 1.0
        pairs = zip(vectors(prediction), vectors(reference), strict=True)
        return penalty * sum(cosine(counts, other) for counts, other in pairs) / 4

    return [
        10 * sum(similarity(prediction, text) for text in texts) / len(texts)
        for prediction, texts in zip(predictions, references, strict=True)
    ]


def test_closed_forms():
    """Equal captions of four or more words are at 10, of three at 7.5 for want of 4-grams, disjoint ones at 0."""
    score = cider_d(
        ["rain falls on a roof", "wind in trees", "a bell", "one two three four five"],
        [["rain falls on a roof"], ["wind in trees"], ["people talk"], ["one two three four five", "six seven eight"]],
    )
    assert score == pytest.approx([10.0, 7.5, 0.0, 5.0], abs=1e-12)


def test_words_that_every_sample_has_weigh_nothing():
    assert cider_d(["a", "a"], [["a b"], ["a c"]]) == [0.0, 0.0]


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_by_definition(data):
    caption = st.lists(st.sampled_from("abcde"), min_size=1, max_size=9).map(" ".join)
    references = data.draw(st.lists(st.lists(caption, min_size=1, max_size=3), min_size=2, max_size=5))
    predictions = data.draw(st.lists(caption, min_size=len(references), max_size=len(references)))
    expected = by_definition(predictions, references)
    assert cider_d(predictions, references) == pytest.approx(expected, abs=1e-9)


def test_the_definition_tells_cider_d_from_cider():
    """Negative control: repeating a reference's words pays in CIDEr; clipping and the length penalty take that away."""
    predictions = ["dog barks dog barks dog barks dog barks", *(texts[0] for texts in REFERENCES[1:])]
    score = cider_d(predictions, REFERENCES)[0]
    assert score == pytest.approx(by_definition(predictions, REFERENCES)[0], abs=1e-9)
    assert by_definition(predictions, REFERENCES, clip=False)[0] > 1.2 * score
    assert by_definition(predictions, REFERENCES, penalize=False)[0] > 1.1 * score


def test_case_and_punctuation_do_not_count():
    plain = cider_d(["rain falls on a roof", "x"], REFERENCES[1:])
    written = cider_d(["Rain falls, on a roof!", "x."], REFERENCES[1:])
    assert written == plain
    # Negative control: split at spaces alone, the same captions differ.
    assert by_definition(["Rain falls, on a roof!", "x."], REFERENCES[1:])[0] < 0.9 * plain[0]


def test_captions_in_any_script_and_empty_ones():
    score = cider_d(
        ["дождь идёт по крыше", "", "犬 が 吠え る"], [["дождь идёт по крыше"], ["a b c d"], ["犬 が 吠え る"]]
    )
    assert score == pytest.approx([10.0, 0.0, 10.0], abs=1e-12)


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        (["a"], [["a"]], "at least two captions"),
        ([], [], "at least two captions"),
        (["a", "b"], [["a"]], "as many lists of references, got 2 and 1"),
        (["a", "b"], [["a"], []], "got none for sample 1"),
    ],
)
def test_what_has_no_score(predictions, references, message):
    with pytest.raises(ValueError, match=message):
        cider_d(predictions, references)


def test_without_aac_metrics_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "aac_metrics.functional.cider_d", None)
    with pytest.raises(
        InputError, match=r"expected aac-metrics, got no module .*; pip install aac-metrics==0\.5\.4 requests"
    ):
        cider_d(["a", "b"], [["a"], ["b"]])


def test_importing_the_module_imports_no_aac_metrics():
    code = "import sys, safe_train.metrics.captions; print('aac_metrics' in sys.modules)"
    finished = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "False"
