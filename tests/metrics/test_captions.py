"""CIDEr-D in closed form and against its definition; what the other metrics need, and that they are put together."""

import json
import math
import re
import subprocess
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safe_train.errors import InputError
from safe_train.metrics.captions import WORDS, caption_scores, cider_d

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
    assert score.per_sample == pytest.approx([10.0, 7.5, 0.0, 5.0], abs=1e-12)
    assert score.mean == pytest.approx(22.5 / 4, abs=1e-12)
    assert (score.metric, score.tokenizer) == ("CIDEr-D", WORDS)


def test_words_that_every_sample_has_weigh_nothing():
    assert cider_d(["a", "a"], [["a b"], ["a c"]]).per_sample == [0.0, 0.0]


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_by_definition(data):
    caption = st.lists(st.sampled_from("abcde"), min_size=1, max_size=9).map(" ".join)
    references = data.draw(st.lists(st.lists(caption, min_size=1, max_size=3), min_size=2, max_size=5))
    predictions = data.draw(st.lists(caption, min_size=len(references), max_size=len(references)))
    expected = by_definition(predictions, references)
    assert cider_d(predictions, references).per_sample == pytest.approx(expected, abs=1e-9)


def test_the_definition_tells_cider_d_from_cider():
    """Negative control: repeating a reference's words pays in CIDEr; clipping and the length penalty take that away."""
    predictions = ["dog barks dog barks dog barks dog barks", *(texts[0] for texts in REFERENCES[1:])]
    score = cider_d(predictions, REFERENCES).per_sample[0]
    assert score == pytest.approx(by_definition(predictions, REFERENCES)[0], abs=1e-9)
    assert by_definition(predictions, REFERENCES, clip=False)[0] > 1.2 * score
    assert by_definition(predictions, REFERENCES, penalize=False)[0] > 1.1 * score


def test_case_and_punctuation_do_not_count():
    plain = cider_d(["rain falls on a roof", "x"], REFERENCES[1:])
    written = cider_d(["Rain falls, on a roof!", "x."], REFERENCES[1:])
    assert written == plain
    # Negative control: split at spaces alone, the same captions differ.
    assert by_definition(["Rain falls, on a roof!", "x."], REFERENCES[1:])[0] < 0.9 * plain.per_sample[0]


def test_captions_in_any_script_and_empty_ones():
    score = cider_d(
        ["дождь идёт по крыше", "", "犬 が 吠え る"], [["дождь идёт по крыше"], ["a b c d"], ["犬 が 吠え る"]]
    )
    assert score.per_sample == pytest.approx([10.0, 0.0, 10.0], abs=1e-12)


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


# --- the metrics that need programs and models


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """Nothing of what SPICE and FENSE need is installed."""
    monkeypatch.setenv("AAC_METRICS_CACHE_PATH", str(tmp_path))
    monkeypatch.setenv("AAC_METRICS_JAVA_PATH", str(tmp_path / "java"))
    monkeypatch.setenv("FENSE_DATA", str(tmp_path))
    return tmp_path


@pytest.fixture
def spice_program(bare):
    """The files of SPICE, all empty."""
    from aac_metrics.functional.spice import check_spice_install

    folder = bare / "aac-metrics" / "spice"
    for name in ("cache", "lib"):
        (folder / name).mkdir(parents=True)
    (folder / "spice-1.0.jar").touch()
    with pytest.raises(FileNotFoundError) as caught:
        check_spice_install(str(bare))
    for name in re.findall(r"[\w.-]+\.jar", str(caught.value)):
        (folder / "lib" / name).touch()
    return bare


def write_java(folder, version):
    """A Java that tells this version and, for SPICE, gives the samples 0.1, 0.2, 0.3 and so on."""
    program = f"""#!{sys.executable}
import json, sys
if sys.argv[1] == "-version":
    print('openjdk version "{version}" 2024-01-01')
    sys.exit()
with open(sys.argv[4]) as file:
    samples = json.load(file)
with open(sys.argv[sys.argv.index("-out") + 1], "w") as file:
    json.dump([{{"scores": {{"All": {{"f": (sample["image_id"] + 1) / 10}}}}}} for sample in samples], file)
"""
    (folder / "java").write_text(program)
    (folder / "java").chmod(0o755)


def predictions():
    return [texts[0] for texts in REFERENCES]


def test_what_is_not_installed_is_left_out_and_told_in_a_line(bare):
    evaluation = caption_scores(predictions(), REFERENCES)
    assert set(evaluation.scores) == {"CIDEr-D"}
    assert evaluation.left_out == {
        "SPICE": "needs the SPICE program: run aac-metrics-download",
        "SPIDEr": "is the mean of CIDEr-D and SPICE, and SPICE is left out",
        "FENSE": f"needs the model echecker_clotho_audiocaps_base.ckpt in {bare}: run aac-metrics-download",
    }
    assert evaluation.scores["CIDEr-D"] == cider_d(predictions(), REFERENCES)


def test_spice_needs_java(spice_program):
    reason = caption_scores(predictions(), REFERENCES).left_out["SPICE"]
    assert reason == "needs Java 8 to 13: install it, or set AAC_METRICS_JAVA_PATH"


def test_spice_needs_an_old_java(spice_program):
    write_java(spice_program, "17.0.15")
    reason = caption_scores(predictions(), REFERENCES).left_out["SPICE"]
    assert reason == "needs Java 8 to 13 and found another: set AAC_METRICS_JAVA_PATH"


def test_spice_and_spider_where_all_is_there(spice_program):
    write_java(spice_program, "11.0.2")
    evaluation = caption_scores(predictions(), REFERENCES)
    spice, spider, cider = (evaluation.scores[name] for name in ("SPICE", "SPIDEr", "CIDEr-D"))
    assert spice.per_sample == [0.1, 0.2, 0.3]
    assert spider.per_sample == pytest.approx(
        [(a + b) / 2 for a, b in zip(cider.per_sample, [0.1, 0.2, 0.3], strict=True)]
    )
    assert spider.mean == pytest.approx((cider.mean + spice.mean) / 2)
    assert set(evaluation.left_out) == {"FENSE"}


def test_fense_needs_its_sentence_model_too(bare, monkeypatch):
    (bare / "echecker_clotho_audiocaps_base.ckpt").touch()
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    reason = caption_scores(predictions(), REFERENCES).left_out["FENSE"]
    assert reason.startswith(
        "needs the model sentence-transformers/paraphrase-TinyBERT-L6-v2 in the Hugging Face cache"
    )


def test_the_result_is_plain_json(bare):
    evaluation = caption_scores(predictions(), REFERENCES)
    assert json.loads(json.dumps(asdict(evaluation))) == asdict(evaluation)
