"""What an evaluation is taken for: a control that is fine, and for each clause a case that would flatter without it."""

from dataclasses import replace

import pytest

from safe_train.data.example import DOCUMENT, Example
from safe_train.evaluation.conditions import standard_names
from safe_train.evaluation.predictions import Prediction
from safe_train.evaluation.results import Evaluation
from safe_train.evaluation.summarize import summarize
from safe_train.evaluation.validity import FLOOR, assess_validity
from safe_train.metrics.intervals import Estimate
from tests.evaluation.made import with_text

MARGIN = 0.005
COLORS = ("red", "blue", "green", "black", "white")


def rows_of(count, prefix, image=True):
    """Questions of one kind with five answers, equally common: guessing is right one time in five."""
    return [
        Example(
            f"{prefix}{k}", "what color?", (COLORS[k % 5],) * (10 if image else 1), kind="color", cluster=f"{prefix}{k}"
        )
        for k in range(count)
    ]


def said(rows, right, *, changed=0, effect=0.0, kl=0.0, answer="zebra"):
    """The first ``right`` rows are answered well, the last ``changed`` with something new."""
    samples = []
    for k, row in enumerate(rows):
        text = row.answers[0] if k < right else answer
        text = "gnu" if k >= len(rows) - changed else text
        score = float(text == row.answers[0])
        samples.append(
            Prediction(row.row_id, text, score, token_f1=score, kl=kl, tokens=1, logits_sha256=f"{k}",
                   updates=(effect,) if effect else ())
        )  # fmt: skip
    return samples


def made(
    *, rows=400, base=390, changed=4, effect=0.3, kl=0.01, clips=200, matched=190, silence=40, distractor=40,
    conditions=("silence", "distractor"), text=0, base_text=0, effect_on_text=0.3, documents=0, metric="exact_match",
):  # fmt: skip
    """An evaluation that is fine, but for what is given."""
    vl_rows, audio_rows, asked = rows_of(rows, "v"), rows_of(clips, "a"), rows_of(text, "t", image=False)
    read = [Example(f"d{k}", "", ("a text",), kind=DOCUMENT, cluster=f"d{k}") for k in range(documents)]

    def of_documents(effect):
        updates = (effect,) if effect else ()
        return [
            Prediction(row.row_id, "", 0.0, bits=6.0 + k, num_bytes=6, updates=updates) for k, row in enumerate(read)
        ]

    before = said(vl_rows, base)
    vl = {"bypass": before} | {n: said(vl_rows, base, changed=changed, effect=effect, kl=kl) for n in conditions}
    heard = {"matched": matched, "silence": silence, "distractor": distractor}
    audio = {name: said(audio_rows, right) for name, right in heard.items() if right is not None}
    told = {"bypass": said(asked, base_text) + of_documents(0.0)} | {
        name: said(asked, base_text, effect=effect_on_text) + of_documents(effect_on_text) for name in conditions
    }
    return summarize(
        before, vl, audio, vl_rows, audio_rows, margin=MARGIN, seconds=1.0,
        base_text=told["bypass"], text=told if text or documents else {}, text_examples=[*asked, *read],
        audio_metric=metric,
    )  # fmt: skip


def judged(**changes):
    return assess_validity(made(**changes), margin=MARGIN)


def test_a_measurement_is_one():
    found = judged(text=400, base_text=380, documents=9)
    assert (found.not_retention, found.not_text_retention, found.not_hearing) == ("", "", "")
    assert found.protected_text
    assert found.conditions == ("silence", "distractor")
    assert found.unmeasured == ("contradictory", "loud", "noise", "worst_of_4")


def test_a_base_that_is_never_right_has_nothing_to_lose():
    """Every answer is "zebra", 8 % of them change, KL is 2.6: the change of accuracy is 0.0 points all the same."""
    evaluation = made(base=0, changed=32, kl=2.6)
    assert evaluation.vl["distractor"].difference.mean == 0.0
    assert evaluation.vl["distractor"].non_inferiority.lower_limit > -0.01  # what used to flatter
    found = assess_validity(evaluation, margin=MARGIN)
    assert "accuracy is 0.0 %, at most 0.9 %" in found.not_retention
    assert "8.0 % of the answers changed and KL 2.6 nats" in found.not_retention


def test_thirty_clips_and_photographs_of_which_nothing_is_right():
    """Base 0.0 %, audio 0.0 %: no difference is without width, nothing is lost, and nothing heard."""
    evaluation = made(rows=30, base=0, changed=0, clips=30, matched=0, silence=0, distractor=0)
    unseen = 1 - 0.025 ** (1 / 30)
    for estimate in (evaluation.vl["silence"].difference, evaluation.audio_gain["silence"]):
        assert (estimate.low, estimate.mean, estimate.high) == pytest.approx((-unseen, 0.0, unseen))
    assert evaluation.base.high == pytest.approx(unseen)
    assert evaluation.base.high > FLOOR * MARGIN  # too few rows to tell by the floor: guessing tells
    found = assess_validity(evaluation, margin=MARGIN)
    assert "not significantly above guessing" in found.not_retention
    assert "+0.0 [-11.6, +11.6] points over silence and +0.0 [-11.6, +11.6] points over another clip" in (
        found.not_hearing
    )
    for step in ("train longer", "larger learning rate", "safe data check", "evaluation.audio_metric"):
        assert step in found.not_hearing


@pytest.mark.parametrize(("base", "is_one"), [(60, False), (80, False), (120, True)])
def test_a_base_must_be_above_guessing(base, is_one):
    """Guessing is right for 80 of 400, far above the floor: 60 and 80 are no better, 120 are."""
    evaluation = made(base=base)
    assert evaluation.guessing.mean == pytest.approx(0.2)
    assert evaluation.base.high > FLOOR * MARGIN
    found = assess_validity(evaluation, margin=MARGIN)
    assert (found.not_retention == "") == is_one
    assert is_one or "guessing" in found.not_retention
    older = replace(evaluation, guessing=None, base_above_guessing=None)  # results that did not measure it
    assert assess_validity(older, margin=MARGIN).not_retention == ""


def test_the_floor_follows_the_margin_up_to_one_half():
    evaluation = made(base=200)
    assert evaluation.base.mean == 0.5
    assert assess_validity(evaluation, margin=0.04).not_retention == ""
    assert "40.0 %" not in assess_validity(evaluation, margin=0.04).not_retention
    low = made(base=120)
    assert assess_validity(low, margin=0.03).not_retention == ""
    assert "a margin of 4 points needs 40.0 %" in assess_validity(low, margin=0.04).not_retention
    assert assess_validity(made(base=390), margin=0.2).not_retention == ""


def test_a_fusion_that_did_nothing_under_any_condition_measured_nothing():
    assert judged(effect=0.0, changed=0).not_retention == "the fusion had no effect under any condition"
    one = made(effect=0.0)
    one.vl["loud"] = made().vl["silence"]
    assert assess_validity(one, margin=MARGIN).not_retention == ""  # control: under one condition it had


def test_without_a_condition_with_audio_attached_nothing_is_measured():
    found = judged(conditions=())
    assert "no condition with audio attached" in found.not_retention
    assert (found.conditions, found.unmeasured) == ((), tuple(standard_names()))
    gates = made(conditions=("gate_0.5",))
    assert assess_validity(gates, margin=MARGIN).conditions == ()
    assert "no condition" in assess_validity(gates, margin=MARGIN).not_retention


@pytest.mark.parametrize("worse", ["silence", "distractor"])
def test_hearing_shows_against_silence_and_against_another_clip(worse):
    """A model that answers to any clip alike gains over silence alone."""
    found = judged(**{worse: 190})
    over = {"silence": "silence", "distractor": "another clip"}
    assert f"points over {over[worse]}, not significantly above 0" in found.not_hearing
    (other,) = set(over) - {worse}
    assert over[other] not in found.not_hearing


def test_a_gain_that_may_be_chance_is_no_hearing():
    evaluation = made(clips=40, matched=9, silence=8, distractor=8)
    assert evaluation.audio_gain["silence"].mean > 0
    assert assess_validity(evaluation, margin=MARGIN).not_hearing
    assert judged(distractor=None).not_hearing == ""  # judged by what was measured


def test_captions_scored_by_likeness_are_not_told_to_be():
    assert "token_f1" in judged(matched=40).not_hearing
    assert "token_f1" not in judged(matched=40, metric="token_f1").not_hearing


def test_without_text_only_rows_nothing_is_protected():
    found = judged()
    assert found.not_text_retention == "no text-only examples were evaluated"
    assert not found.protected_text


def test_text_only_questions_are_judged_as_vl_rows_are():
    found = judged(text=400, base_text=0)
    assert "accuracy is 0.0 %" in found.not_text_retention
    assert found.not_retention == ""
    assert "documents" not in found.not_text_retention
    assert "guessing" in judged(text=400, base_text=80).not_text_retention
    assert "the bits per byte of the documents are" in judged(text=400, base_text=0, documents=5).not_text_retention


def test_documents_have_no_floor_but_need_an_effect():
    assert judged(documents=5).not_text_retention == ""
    assert judged(documents=5, effect_on_text=0.0).not_text_retention == "the fusion had no effect under any condition"
    assert "no condition with audio attached" in judged(documents=5, conditions=()).not_text_retention
    assert "no effect" in judged(text=400, base_text=380, effect_on_text=0.0).not_text_retention
    assert judged(text=400, base_text=380, effect_on_text=0.0).not_retention == ""


def test_results_without_anything_new_are_judged_by_what_they_have():
    """A figure of an older version, whose intervals may lack width."""
    evaluation = made(base=0, clips=30, matched=0, silence=0, distractor=0)
    none = Estimate(0.0, 0.0, 0.0)
    older = Evaluation(none, 0.0, evaluation.vl, evaluation.audio, {"silence": none}, 1.0)
    found = assess_validity(older, margin=MARGIN)
    assert "at most 0.0 %" in found.not_retention
    assert "+0.0 [+0.0, +0.0] points over silence" in found.not_hearing
    assert assess_validity(replace(older, audio_gain={}), margin=MARGIN).not_hearing.startswith(
        "audio examples were not answered"
    )


def test_all_answers_alike_are_not_above_guessing():
    """A base that says the one answer that all rows have is right by guessing alone."""
    assert "guessing" in assess_validity(with_text(), margin=MARGIN).not_retention
