"""Caption metrics by aac-metrics (extra ``metrics``): CIDEr-D; SPICE, SPIDEr and FENSE where what they run is there.

aac-metrics is imported when a metric is computed: it takes seconds, and most runs score no captions.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from safe_train.errors import InputError
from safe_train.metrics.metric import Corpus, Metric

WORDS = "lower-case words without punctuation"
"""The tokenizer of CIDEr-D here: runs of letters and digits, an apostrophe kept inside a word."""

_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")
_SENTENCE_MODEL = "sentence-transformers/paraphrase-TinyBERT-L6-v2"
_FLUENCY_MODEL = "echecker_clotho_audiocaps_base.ckpt"


def cider_d(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """CIDEr-D of each caption, in 0..10, of captions split into :data:`WORDS`.

    For n-grams of n words, ``CIDEr-D_n = 10/m sum_j exp(-(l - l_j)^2 / 72) min(g, g_j) . g_j / (|g| |g_j|)`` over the m
    references j of a sample, with l and l_j the numbers of words of prediction and reference, and g and g_j their
    n-gram counts times ``log(N / max(1, d))``, where d of the N samples have the n-gram in a reference; the minimum is
    taken by n-gram. CIDEr-D is the mean over n = 1..4. Captions of fewer than four words lack the longer n-grams and
    stay below 10 even where they equal their reference.

    Published figures split captions with the PTB tokenizer, a Java program, and differ a little. Source: Vedantam et
    al. 2015, arXiv:1411.5726, section 6.

    Args:
        predictions: the captions to score, at least two: with one sample every weight is log(1) = 0.
        references: the captions of people, at least one a sample.

    Raises:
        ValueError: fewer than two samples, lists of different lengths, or a sample without reference.
        InputError: aac-metrics is not installed.
    """
    _check(predictions, references)
    compute = _import("aac_metrics.functional.cider_d").cider_d
    _, by_sample = compute(
        [" ".join(_words(text)) for text in predictions],
        [[" ".join(_words(text)) for text in texts] for texts in references],
    )
    return by_sample["cider_d"].tolist()


def require_aac_metrics() -> None:
    """Finds out before the work whether caption metrics can be computed.

    Raises:
        InputError: aac-metrics is not installed.
    """
    _import("aac_metrics.functional.cider_d")


def _check(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    if len(predictions) < 2 or len(predictions) != len(references):
        counts = f"{len(predictions)} and {len(references)}"
        raise ValueError(f"expected at least two captions and as many lists of references, got {counts}")
    if not all(references):
        raise ValueError(f"references: expected at least one a sample, got none for sample {_first_empty(references)}")


def _first_empty(references: Sequence[Sequence[str]]) -> int:
    return next(index for index, texts in enumerate(references) if not texts)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _import(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        got = f"no module {error.name}"
        raise InputError("caption metrics", "aac-metrics", got, "pip install aac-metrics==0.5.4 requests") from error


def _spice_obstacle() -> str | None:
    settings, checks = _import("aac_metrics.utils.globals"), _import("aac_metrics.utils.checks")
    try:
        _import("aac_metrics.functional.spice").check_spice_install(settings.get_default_cache_path())
    except (FileNotFoundError, NotADirectoryError):
        return "needs the SPICE program: run aac-metrics-download"
    versions = f"Java {checks.MIN_JAVA_MAJOR_VERSION} to {checks.MAX_JAVA_MAJOR_VERSION}"
    try:
        suitable = checks.check_java_path(settings.get_default_java_path())
    except ValueError:  # no Java, or one that tells no version
        return f"needs {versions}: install it, or set AAC_METRICS_JAVA_PATH"
    return None if suitable else f"needs {versions} and found another: set AAC_METRICS_JAVA_PATH"


def _spice(corpus: Corpus) -> list[float]:
    _, by_sample = _import("aac_metrics.functional.spice").spice(*_write_on_lines(corpus))
    return by_sample["spice"].tolist()


def _spider(corpus: Corpus) -> list[float]:
    return [(a + b) / 2 for a, b in zip(corpus.scores(CIDER_D), corpus.scores(SPICE), strict=True)]


def _spider_obstacle() -> str | None:
    return "is the mean of CIDEr-D and SPICE, and SPICE is left out" if _spice_obstacle() else None


def _fense_obstacle() -> str | None:
    import torch
    from huggingface_hub import try_to_load_from_cache

    folder = Path(os.environ.get("FENSE_DATA", Path(torch.hub.get_dir()) / "fense_data")).expanduser()
    if not (folder / _FLUENCY_MODEL).is_file():
        return f"needs the model {_FLUENCY_MODEL} in {folder}: run aac-metrics-download"
    if not isinstance(try_to_load_from_cache(_SENTENCE_MODEL, "config.json"), str):
        return f"needs the model {_SENTENCE_MODEL} in the Hugging Face cache: run aac-metrics-download"
    return None


def _fense(corpus: Corpus) -> list[float]:
    _, by_sample = _import("aac_metrics.functional.fense").fense(*_write_on_lines(corpus))
    return by_sample["fense"].tolist()


def _write_on_lines(corpus: Corpus) -> tuple[list[str], list[list[str]]]:
    """Lists of single lines, as the programs take them."""
    return [_join(text) for text in corpus.predictions], [
        [_join(text) for text in texts] for texts in corpus.references
    ]


def _join(text: str) -> str:
    return " ".join(text.split())


def _aac_obstacle() -> str | None:
    require_aac_metrics()
    return None


CIDER_D = Metric(
    "cider_d",
    "CIDEr-D",
    lambda corpus: cider_d(corpus.predictions, corpus.references),
    highest=10.0,
    for_captions=True,
    least_captions=2,
    obstacle=_aac_obstacle,
    tokenizer=WORDS,
)
SPICE = Metric(
    "spice",
    "SPICE",
    _spice,
    for_answers=False,
    for_captions=True,
    least_captions=2,
    obstacle=_spice_obstacle,
    tokenizer="SPICE's own",
)
"""SPICE (arXiv:1607.08822) needs Java and its own program."""

FENSE = Metric(
    "fense",
    "FENSE",
    _fense,
    for_answers=False,
    for_captions=True,
    least_captions=2,
    obstacle=_fense_obstacle,
    tokenizer="its models' own",
)
"""FENSE (arXiv:2110.04684) needs two models."""

SPIDER = Metric(
    "spider",
    "SPIDEr",
    _spider,
    highest=5.5,
    for_answers=False,
    for_captions=True,
    least_captions=2,
    obstacle=_spider_obstacle,
    tokenizer=f"{WORDS} (CIDEr-D), SPICE's own (SPICE)",
)
"""SPIDEr (arXiv:1612.00370) is the mean of CIDEr-D and SPICE of each caption."""
