"""Answers made up by hand, whose figures are known."""

from safe_train.data.example import DOCUMENT, Example
from safe_train.evaluation.predictions import Prediction
from safe_train.evaluation.summarize import summarize

KINDS = ("color",) * 25 + ("count",) * 25 + ("rare",) * 2


ROWS = [Example(f"v{k}", "what?", ("right",), kind=kind, cluster=f"image {k // 2}") for k, kind in enumerate(KINDS)]


AUDIO = [Example(f"a{k}", "what?", ("bell",), cluster=f"a{k}") for k in range(10)]


MARGIN = 0.005


def base(wrong=()):
    return [Prediction(row.row_id, "right" if k not in wrong else "no", float(k not in wrong), logits_sha256=f"{k}")
            for k, row in enumerate(ROWS)]  # fmt: skip


def heard(scores, kl=0.5, tokens=2, draw=0):
    return [
        Prediction(row.row_id, "right" if score else "wrong", score, kl=kl, tokens=tokens, updates=(0.2, 0.4),
               fusion_calls=4, draw=draw)
        for row, score in zip(ROWS, scores, strict=True)
    ]  # fmt: skip


def audio(right):
    return [Prediction(row.row_id, "bell" if k < right else "no", float(k < right), token_f1=float(k < right))
            for k, row in enumerate(AUDIO)]  # fmt: skip


def evaluation(vl, matched=10, silence=1):
    samples = {"bypass": base(), "distractor": vl}
    return summarize(base(), samples, {"matched": audio(matched), "silence": audio(silence)}, ROWS, AUDIO,
                     margin=MARGIN, seconds=1.0)  # fmt: skip


TEXT = [
    *[Example(f"q{k}", "?", ("right",), kind="q", cluster=f"q{k}") for k in range(30)],
    *[Example(f"d{k}", "", ("x" * (k + 1),), kind=DOCUMENT, cluster=f"d{k // 2}") for k in range(8)],
]


DOCUMENTS = TEXT[30:]


def bits(factor, *, draw=0, kl=None, digest=None, updates=()):
    """Documents of 1, 2, ... 8 bytes; a text of n bytes takes n^2 bits times the factor."""
    return [
        Prediction(row.row_id, "", 0.0, bits=factor * (k + 1) ** 2, num_bytes=k + 1, tokens=k + 1, kl=kl, draw=draw,
               logits_sha256=digest and f"{digest}{k}", updates=updates, fusion_calls=2 * len(updates))
        for k, row in enumerate(DOCUMENTS)
    ]  # fmt: skip


def said_of_text(right, factor, **options):
    questions = [
        Prediction(row.row_id, "right" if k < right else "no", float(k < right), logits_sha256=f"{k}", kl=0.1, tokens=1,
               updates=(0.2,))
        for k, row in enumerate(TEXT[:30])
    ]  # fmt: skip
    return [*questions, *bits(factor, digest="a", **options)]


def with_text(right=30, factor=1.0, vl=1.0, matched=10, silence=1, text_bypass=None):
    text = {"bypass": text_bypass or said_of_text(30, 1.0), "silence": said_of_text(right, factor, updates=(0.3,))}
    return summarize(base(), {"bypass": base(), "distractor": heard([vl] * 52)},
                     {"matched": audio(matched), "silence": audio(silence)}, ROWS, AUDIO, margin=MARGIN, seconds=1.0,
                     base_text=said_of_text(30, 1.0), text=text, text_examples=TEXT)  # fmt: skip
