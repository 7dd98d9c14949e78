"""What the embedded models promise: they answer, and they tell sounds apart. This is measured anew at each test run."""

import json
import math
import re
from collections import defaultdict

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from safe_train.configs.model_configs import EMBEDDED
from safe_train.data.datasets.vqa import VQA
from safe_train.data.example import Example
from safe_train.embedded import weights
from safe_train.embedded.dataset import DatasetSizes, write_dataset
from safe_train.embedded.models import build_audio_encoder, build_base, build_feature_extractor
from safe_train.embedded.questions import QUESTION_TYPES
from safe_train.embedded.sounds import ALL_SOUNDS, synthesize
from safe_train.embedded.text_skills import SKILLS, TEXT_TYPES, sample_text_question
from safe_train.evaluation.base_answers import base_answers
from safe_train.evaluation.settings import EvaluationSettings
from safe_train.model.audio.encoder import AudioEncoder, load_audio_encoder
from safe_train.model.base import Base

LEAST_VL, LEAST_VL_TYPE, LEAST_AUDIO = 0.93, 0.85, 0.97
LEAST_TEXT, LEAST_TEXT_TYPE, MOST_BITS = 0.97, 0.90, 0.30
TRAIN_SEED, TEST_SEED = 90_001, 90_002  # the recipe's seeds are 0
MAX_BYTES = 8_000_000


@pytest.fixture(scope="module")
def validation_root(tmp_path_factory):
    """All of the validation split; the other sets are kept small, since they do not change this one."""
    root = tmp_path_factory.mktemp("validation")
    write_dataset(root, DatasetSizes(train_questions=2, train_clips=2, val_clips=2))
    return root


@pytest.fixture(scope="module")
def validation_rows(validation_root):
    rows = VQA().examples(validation_root, "val")
    assert len(rows) == 2_000
    return rows


@pytest.fixture(scope="module")
def validation_text(validation_root):
    """The 600 questions without an image, and the 100 documents."""
    lines = (validation_root / "text" / "val.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    questions = [Example(r["id"], r["prompt"], (r["answer"],), kind=r["type"]) for r in records if "prompt" in r]
    documents = [record["text"] for record in records if "text" in record]
    assert (len(questions), len(documents)) == (600, 100)
    return questions, documents


def accuracies(base, rows):
    """Accuracy by ``generate``, over all rows and by question type."""
    scores = base_answers(base, rows, EvaluationSettings()).scores
    by_kind = defaultdict(list)
    for row, score in zip(rows, scores, strict=True):
        by_kind[row.kind].append(score)
    return np.mean(scores), {kind: np.mean(values) for kind, values in by_kind.items()}


def test_the_base_answers_the_validation_questions(embedded_base, validation_rows):
    overall, by_kind = accuracies(embedded_base, validation_rows)
    assert set(by_kind) == set(QUESTION_TYPES)
    assert overall >= LEAST_VL
    assert min(by_kind.values()) >= LEAST_VL_TYPE, by_kind


def test_an_untrained_base_does_not(embedded_base, validation_rows):
    """Negative control, and proof that answers cannot be guessed from the questions."""
    processor = embedded_base.processor
    untrained = Base(build_base(processor).requires_grad_(False).eval(), processor, "untrained")
    overall, _ = accuracies(untrained, validation_rows[:200])
    assert overall < LEAST_VL_TYPE


def test_a_base_that_sees_the_wrong_image_does_not(embedded_base, validation_rows):
    """Negative control: the same questions about other images."""
    rows = validation_rows[:200]
    swapped = [
        type(row)(row.row_id, row.question, row.answers, other.image, row.audio, row.kind, row.cluster)
        for row, other in zip(rows, rows[100:] + rows[:100], strict=True)
    ]
    overall, _ = accuracies(embedded_base, swapped)
    assert overall < LEAST_VL_TYPE


def bits_per_byte(base, documents):
    """One document at a time, each token's probability by its definition in float64."""
    tokenizer = base.processor.tokenizer
    bits = 0.0
    for text in documents:
        ids = tokenizer(f"<s>{text}", add_special_tokens=False, return_tensors="pt").input_ids
        with torch.no_grad():
            probabilities = base.model(input_ids=ids).logits[0].double().softmax(-1)
        bits -= sum(math.log2(probabilities[place - 1, ids[0, place]]) for place in range(1, ids.shape[1]))
    return bits / sum(len(text.encode("utf-8")) for text in documents)


def test_the_base_answers_questions_without_an_image(embedded_base, validation_text):
    overall, by_kind = accuracies(embedded_base, validation_text[0])
    assert set(by_kind) == set(SKILLS)
    assert overall >= LEAST_TEXT
    assert min(by_kind.values()) >= LEAST_TEXT_TYPE, by_kind


def test_the_base_predicts_documents(embedded_base, validation_text):
    assert bits_per_byte(embedded_base, validation_text[1][:40]) <= MOST_BITS


def test_an_untrained_base_does_neither(embedded_base, validation_text):
    """Negative control; one that gave every token the same probability would need about two bits a byte."""
    processor = embedded_base.processor
    untrained = Base(build_base(processor).requires_grad_(False).eval(), processor, "untrained")
    questions, documents = validation_text
    assert accuracies(untrained, questions[:100])[0] < 0.1
    assert bits_per_byte(untrained, documents[:5]) > 5 * MOST_BITS


def test_the_card_says_what_is_measured(embedded_base, validation_rows, validation_text):
    """The figures of the card, of the base's own recipe, taken again by other means."""
    card = (weights.base_folder() / "README.md").read_text(encoding="utf-8")
    said = re.findall(r"^\| (.+?) \| ([\d.]+) \|$", card, flags=re.MULTILINE)
    images, text = (accuracies(embedded_base, rows) for rows in (validation_rows, validation_text[0]))
    expected = [
        *sorted({"all": images[0], **images[1]}.items()),
        *sorted({"all": text[0], **text[1]}.items()),
    ]
    assert [(name, value) for name, value in said[: len(expected)]] == [
        (name, f"{100 * value:.1f}") for name, value in expected
    ]
    bits = [value for name, value in said if name == "the base"]
    assert bits == [f"{bits_per_byte(embedded_base, validation_text[1]):.3f}"]
    rng = np.random.default_rng([0, TEXT_TYPES.index("recall")])
    drawn = [sample_text_question("recall", rng) for _ in range(200)]
    recall = [Example(str(n), q.prompt, (q.answer,), kind=q.kind) for n, q in enumerate(drawn)]
    assert dict(said)["recall"] == f"{100 * accuracies(embedded_base, recall)[0]:.1f}"


def features_and_labels(encoder, num_clips, seed):
    rng = np.random.default_rng(seed)
    sounds = [ALL_SOUNDS[index] for index in rng.integers(len(ALL_SOUNDS), size=num_clips)]
    clips = [torch.from_numpy(synthesize(sound, rng)) for sound in sounds]
    return encoder(clips).values[:, 0].numpy(), sounds


def probe_accuracies(encoder):
    """Accuracy on held-out clips of a linear classifier on the encoder's features, for each class."""
    train, train_sounds = features_and_labels(encoder, 400, TRAIN_SEED)
    test, test_sounds = features_and_labels(encoder, 400, TEST_SEED)
    accuracies = {}
    for name in ("kind", "pitch", "count"):
        probe = LogisticRegression(max_iter=1_000).fit(train, [getattr(sound, name) for sound in train_sounds])
        accuracies[name] = probe.score(test, [getattr(sound, name) for sound in test_sounds])
    return accuracies


def test_the_audio_encoder_tells_kind_pitch_and_count_apart():
    accuracies = probe_accuracies(load_audio_encoder(EMBEDDED))
    assert min(accuracies.values()) >= LEAST_AUDIO, accuracies


def test_an_untrained_audio_encoder_does_not():
    """Negative control: the probe alone, on features of random weights, is not enough."""
    untrained = AudioEncoder(build_audio_encoder(), build_feature_extractor(), "untrained")
    assert min(probe_accuracies(untrained).values()) < LEAST_AUDIO


@pytest.mark.parametrize("folder", [weights.base_folder(), weights.audio_encoder_folder()], ids=lambda path: path.name)
def test_weights_are_small_safetensors(folder):
    assert [path.name for path in folder.glob("*.safetensors")] == ["model.safetensors"]
    assert (folder / "model.safetensors").stat().st_size < MAX_BYTES
    assert not [path for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".pkl")]
