"""Text-only rows: bits of documents by the definition, answers as the base gives them, and the controls."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch

import safe_train.evaluation.text_examples as text_rows_module
from safe_train.data.datasets.audiocaps import AudioCaps
from safe_train.data.datasets.vqa import VQA
from safe_train.data.example import DOCUMENT, Example
from safe_train.evaluation.base_answers import base_answers
from safe_train.evaluation.conditions import conditions_for, select
from safe_train.evaluation.distractors import Distractors
from safe_train.evaluation.evaluator import Evaluator
from safe_train.evaluation.predictions import Prediction, PredictionStore
from safe_train.evaluation.settings import EvaluationSettings
from safe_train.evaluation.text_examples import answer_by_form
from safe_train.training.build import build_collator
from tests.tolerances import BITS, DIVERGENCE_VALUE

SETTINGS = EvaluationSettings(batch_size=4)  # does not divide the number of rows
DAMAGED = 2.5

TEXT = [
    Example("q1", "how many shapes are there?", ("2",), kind="count", cluster="q1"),
    Example("d1", "", ("a red circle is left of a blue square.",), kind=DOCUMENT, cluster="d1"),
    Example("q2", "is there a red circle?", ("yes", "yes", "yes", "no"), kind="yes/no", cluster="q2"),
    Example("d2", "", ("two low bells",), kind=DOCUMENT, cluster="d2"),
    Example("q3", "what color is the circle?", ("red",), kind="color", cluster="q3"),
    Example("q4", "what color is the square?", ("blue",), kind="color", cluster="q4"),
    Example("d3", "", ("the digit is a 7 — naïve",), kind=DOCUMENT, cluster="d3"),
]
DOCUMENTS = [row for row in TEXT if row.kind == DOCUMENT]
QUESTIONS = [row for row in TEXT if row.kind != DOCUMENT]


@pytest.fixture(scope="module")
def vl(small_data):
    return VQA().examples(small_data, "val")[:6]


@pytest.fixture(scope="module")
def audio(small_data):
    return AudioCaps().examples(small_data, "val", default_question="what do you hear?")[:6]


@pytest.fixture(scope="module")
def reference(embedded_base, vl):
    return base_answers(embedded_base, vl, SETTINGS, text=TEXT)


@pytest.fixture
def evaluator(make_safe_model, vl, audio, reference):
    def make(output_scale, text=TEXT):
        model = make_safe_model(output_scale=output_scale)
        return Evaluator(model, build_collator(model), vl, audio, reference, SETTINGS, seed=0, text_rows=text)

    return make


def logits_of(model, encoder, row, *, heard):
    """Logits [N, V] at the tokens of a document, alone in its batch, in double precision, and the N tokens."""
    batch = encoder.training_batch([row])
    features = encoder.features_of([row]) if heard else None
    hidden = model.last_hidden_state(batch.inputs, features)
    return model.base.head(hidden)[0, batch.token_positions].double(), batch.labels


@torch.no_grad()
def bits_of(model, encoder, row, *, heard):
    logits, labels = logits_of(model, encoder, row, heard=heard)
    return -sum(logits.log_softmax(-1)[range(len(labels)), labels].tolist()) / math.log(2)


def test_the_base_s_bits_are_those_of_the_definition(embedded_base, evaluator, reference):
    untouched = evaluator(0.0)
    by_row = {sample.row_id: sample for sample in reference.text}
    for row in DOCUMENTS:
        tokens = embedded_base.processor.tokenizer(row.answers[0], add_special_tokens=False).input_ids
        sample = by_row[row.row_id]
        expected = bits_of(untouched.model, untouched.encoder, row, heard=False)
        assert sample.bits == pytest.approx(expected, rel=BITS)
        assert (sample.tokens, sample.num_bytes) == (len(tokens), len(row.answers[0].encode()))
        assert expected > len(tokens)  # more than a bit a token: an untrained reader of such text is no oracle
    assert by_row["d3"].num_bytes > len(DOCUMENTS[2].answers[0])  # letters beyond ASCII take two bytes and more


def test_bits_and_digests_do_not_depend_on_how_many_tokens_pass_the_head_at_a_time(
    embedded_base, vl, reference, monkeypatch
):
    monkeypatch.setattr(text_rows_module, "_CHUNK", 1)  # one token at a time
    again = base_answers(embedded_base, vl, SETTINGS, text=TEXT).text
    for one, other in zip(reference.text, again, strict=True):
        assert one.answer == other.answer
        assert one.bits == (None if other.bits is None else pytest.approx(other.bits, rel=BITS))


def test_questions_are_answered_and_scored_and_documents_are_not(reference):
    assert [sample.row_id for sample in reference.text] == [row.row_id for row in TEXT]
    for sample, row in zip(reference.text, TEXT, strict=True):
        assert (sample.bits is None, sample.num_bytes == 0) == (row.kind != DOCUMENT,) * 2
        assert sample.logits_sha256 is not None
        assert (sample.answer == "") == (row.kind == DOCUMENT)


@torch.no_grad()
def test_figures_with_audio_attached_are_those_of_a_recount(evaluator, reference):
    measured = evaluator(DAMAGED)
    evaluation = measured.run()
    model, encoder = measured.model, measured.encoder
    before, after = ([bits_of(model, encoder, row, heard=heard) for row in DOCUMENTS] for heard in (False, True))
    size = sum(len(row.answers[0].encode()) for row in DOCUMENTS)
    result = evaluation.documents["silence"]
    assert (result.rows, result.bytes) == (3, size)
    assert result.bits_per_byte.mean == pytest.approx(sum(after) / size, rel=BITS)
    assert result.difference.mean == pytest.approx((sum(after) - sum(before)) / size, rel=10 * BITS)
    assert evaluation.base_bits_per_byte.mean == pytest.approx(sum(before) / size, rel=BITS)
    divergences = []
    for row in DOCUMENTS:
        log_p, log_q = (logits_of(model, encoder, row, heard=h)[0].log_softmax(-1) for h in (False, True))
        divergences += (log_p.exp() * (log_p - log_q)).sum(-1).tolist()
    expected = sum(divergences) / len(divergences)
    assert result.kl == pytest.approx(expected, rel=DIVERGENCE_VALUE[torch.float32])
    assert result.fusion_calls > 0
    assert min(result.updates) > 0.1

    answers = []
    for row in QUESTIONS:
        inputs = encoder.prompt_batch([row]).inputs
        generated = model.generate(inputs, encoder.features_of([row]), max_new_tokens=12, do_sample=False)
        answers += encoder.decode(generated)
    old = [sample.answer for sample in reference.text if sample.bits is None]
    changed = evaluation.text["silence"].answer_change_rate
    assert changed == sum(new != before for new, before in zip(answers, old, strict=True)) / 4
    assert changed > 0


def test_the_bypass_is_the_base_bit_for_bit_whatever_the_fusions_hold(evaluator):
    evaluation = evaluator(DAMAGED).run()
    text, documents = evaluation.text["bypass"], evaluation.documents["bypass"]
    assert (text.bit_equal, text.answer_change_rate, text.fusion_calls) == (True, 0.0, 0)
    assert (documents.bit_equal, documents.difference.mean, documents.kl, documents.fusion_calls) == (True, 0.0, 0.0, 0)
    assert evaluation.documents["silence"].bit_equal is None


@pytest.mark.parametrize("parameter", ["lm_head.weight", "model.language_model.layers.0.mlp.up_proj.weight"])
def test_one_changed_weight_of_the_base_shows_in_the_bypass_of_both_forms(evaluator, parameter):
    tampered = evaluator(0.0)
    with torch.no_grad():
        dict(tampered.model.base.model.named_parameters())[parameter][5, 7] += 1e-3
    evaluation = tampered.run(conditions=select(["silence"]))
    assert evaluation.text["bypass"].bit_equal is False
    assert evaluation.documents["bypass"].bit_equal is False


def test_before_training_nothing_changes(evaluator):
    evaluation = evaluator(0.0).run()
    assert evaluation.documents["distractor"].difference.mean == 0.0
    assert evaluation.text["distractor"].answer_change_rate == 0.0
    assert not evaluation.documents["distractor"].is_measurement


def test_every_condition_on_vl_rows_is_one_on_text_only_rows(evaluator):
    told = []
    conditions = select(["all"])
    evaluation = evaluator(DAMAGED).run(told.append, conditions)
    assert [words for words in told if words.startswith("text, ")] == [f"text, {name}" for name in conditions_for("vl")]
    left_out = {"contradictory"}  # no clip names a number, a color or yes
    assert set(conditions_for("vl")) - set(evaluation.documents) == left_out
    assert set(conditions_for("vl")) - set(evaluation.text) <= left_out
    worst, first = evaluation.documents["worst_of_4"], evaluation.documents["distractor"]
    assert worst.rows == first.rows == 3
    assert worst.bits_per_byte.mean > first.bits_per_byte.mean


def test_half_open_gates_lie_between_the_base_and_the_open_gate(evaluator):
    documents = evaluator(1.0).run(conditions=select(["all"])).documents
    updates = [documents[name].updates[0] for name in ("gate_0.25", "gate_0.5", "gate_0.75", "distractor")]
    assert [update / updates[-1] for update in updates] == pytest.approx([0.25, 0.5, 0.75, 1.0], rel=1e-3)


def test_without_text_only_rows_nothing_is_told_of_them(evaluator):
    told = []
    evaluation = evaluator(DAMAGED, text=()).run(told.append)
    assert not any(words.startswith("text") for words in told)
    assert (evaluation.text, evaluation.documents) == ({}, {})
    assert evaluation.base_text is evaluation.base_bits_per_byte is evaluation.text_guessing is None


def test_answers_are_kept_beside_those_to_convert_vqa(evaluator, tmp_path, vl, audio):
    kept = evaluator(DAMAGED)
    kept.store = PredictionStore.create(tmp_path, {}, vl, audio, text=TEXT)
    first = kept.run()
    lines = (tmp_path / "text.silence.jsonl").read_text().splitlines()
    assert [json.loads(line)["row_id"] for line in lines] == [row.row_id for row in TEXT]
    assert len((tmp_path / "rows.text.jsonl").read_text().splitlines()) == len(TEXT)
    kept.model.generate = None  # nothing is asked for again
    assert dataclasses.replace(kept.run(), seconds=0.0) == dataclasses.replace(first, seconds=0.0)


def test_no_clip_contradicts_a_document():
    clips = [Example(f"a{k}", "?", (word,), audio=Path(f"{k}.wav")) for k, word in enumerate(("bell", "drum"))]
    words = [Example(f"d{k}", "", (word,), kind=DOCUMENT) for k, word in enumerate(("bell", "drum"))]
    asked = [dataclasses.replace(row, question="what?") for row in words]  # negative control: the same as questions
    assert Distractors(clips, 0).contradicting(words) == [None, None]
    assert None not in Distractors(clips, 0).contradicting(asked)


@pytest.mark.parametrize("collective_forward", [False, True])
def test_both_forms_are_answered_in_the_order_of_the_batch_and_in_step_by_every_process(collective_forward):
    asked = []

    def answer(form):
        def of(rows):
            asked.append((form, [row.row_id for row in rows]))
            return [Prediction(row.row_id, form, 0.0) for row in rows]

        return of

    both = answer_by_form(TEXT, answer("question"), answer("document"), collective_forward=collective_forward)
    assert [(s.row_id, s.answer) for s in both(TEXT[:4])] == [
        ("q1", "question"), ("d1", "document"), ("q2", "question"), ("d2", "document"),
    ]  # fmt: skip
    assert [s.row_id for s in both(TEXT[4:6])] == ["q3", "q4"]
    assert asked == [
        ("question", ["q1", "q2"]), ("document", ["d1", "d2"]), ("question", ["q3", "q4"]),
        *([("document", ["d1"])] if collective_forward else []),
    ]  # fmt: skip
    only = answer_by_form(QUESTIONS, answer("question"), answer("document"), collective_forward=collective_forward)
    asked.clear()
    only(QUESTIONS[:1])
    assert asked == [("question", ["q1"])]
