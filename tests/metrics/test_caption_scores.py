"""Caption metrics together: what the ones that run programs and models need, and what is left out."""

import json
import re
import sys
from dataclasses import asdict

import pytest

from safe_train.metrics.caption_scores import CaptionScore, score_captions
from safe_train.metrics.captions import WORDS, cider_d

REFERENCES = [["a dog barks at night", "loud barking nearby"], ["rain falls on a roof"], ["people talk over music"]]


@pytest.fixture(scope="module", autouse=True)
def aac_metrics():
    return pytest.importorskip("aac_metrics", reason="needs the extra metrics")


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
    evaluation = score_captions(predictions(), REFERENCES)
    assert set(evaluation.scores) == {"CIDEr-D"}
    assert evaluation.left_out == {
        "SPICE": "needs the SPICE program: run aac-metrics-download",
        "SPIDEr": "is the mean of CIDEr-D and SPICE, and SPICE is left out",
        "FENSE": f"needs the model echecker_clotho_audiocaps_base.ckpt in {bare}: run aac-metrics-download",
    }
    values = cider_d(predictions(), REFERENCES)
    assert evaluation.scores["CIDEr-D"] == CaptionScore("CIDEr-D", WORDS, sum(values) / 3, values)


def test_spice_needs_java(spice_program):
    reason = score_captions(predictions(), REFERENCES).left_out["SPICE"]
    assert reason == "needs Java 8 to 13: install it, or set AAC_METRICS_JAVA_PATH"


def test_spice_needs_an_old_java(spice_program):
    write_java(spice_program, "17.0.15")
    reason = score_captions(predictions(), REFERENCES).left_out["SPICE"]
    assert reason == "needs Java 8 to 13 and found another: set AAC_METRICS_JAVA_PATH"


def test_spice_and_spider_where_all_is_there(spice_program):
    write_java(spice_program, "11.0.2")
    evaluation = score_captions(predictions(), REFERENCES)
    spice, spider, cider = (evaluation.scores[name] for name in ("SPICE", "SPIDEr", "CIDEr-D"))
    assert spice.per_example == [0.1, 0.2, 0.3]
    assert spider.per_example == pytest.approx(
        [(a + b) / 2 for a, b in zip(cider.per_example, [0.1, 0.2, 0.3], strict=True)]
    )
    assert spider.mean == pytest.approx((cider.mean + spice.mean) / 2)
    assert set(evaluation.left_out) == {"FENSE"}


def test_fense_needs_its_sentence_model_too(bare, monkeypatch):
    (bare / "echecker_clotho_audiocaps_base.ckpt").touch()
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    reason = score_captions(predictions(), REFERENCES).left_out["FENSE"]
    assert reason.startswith(
        "needs the model sentence-transformers/paraphrase-TinyBERT-L6-v2 in the Hugging Face cache"
    )


def test_the_result_is_plain_json(bare):
    evaluation = score_captions(predictions(), REFERENCES)
    assert json.loads(json.dumps(asdict(evaluation))) == asdict(evaluation)
