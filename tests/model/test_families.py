"""Each model class that people use as a base: bypass, generation, training step, trained parts on disk.

``python -m tests.model.families_table`` runs these tests and prints what they found as a table.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
from PIL import Image

from safe_train.config import build_config
from safe_train.configs.model_configs import EMBEDDED
from safe_train.data.cache.features import FeatureCache
from safe_train.data.collator import Collator
from safe_train.data.example import Example
from safe_train.data.sampler import ExampleSampler
from safe_train.model.audio.encoder import AudioFeatures, load_audio_encoder
from safe_train.model.base import Base
from safe_train.model.batch import Batch
from safe_train.model.generation import greedy
from safe_train.model.loading import load_base
from safe_train.model.prompting import Turn, prompts_of
from safe_train.model.safe_model import AdapterConfig, SafeModel
from safe_train.training.batches import StepBatches
from safe_train.training.trainer import StageATrainer
from tests.model.families import FAMILIES, TEXT_LAYERS
from tests.tolerances import LOGITS, relative_error

# NumPy's, about the sums that InternVL's own processor takes of tensors (transformers 5.17).
pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")

GREEDY = {"max_new_tokens": 5, "do_sample": False}
ADAPTER = AdapterConfig(
    num_audio_tokens=4, projector_hidden=16, fusion_layers=(0, TEXT_LAYERS - 2), fusion_dim=32, fusion_heads=4
)


DOCUMENT = Example("d", "", ("the red star is top left and nobody asked",), kind="document")


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request, tmp_path_factory) -> str:
    """A tiny random model of the class with its processor, as a user has it."""
    return str(FAMILIES[request.param].save(tmp_path_factory.mktemp(request.param)))


@pytest.fixture(scope="module")
def untouched(folder) -> Base:
    """The base as it is loaded; nothing is ever attached to it."""
    return load_base(folder)


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    """Square, wide and tall: cut into different numbers of tiles by the classes that do so."""
    rng = np.random.default_rng(0)
    shapes = [(60, 60, 3), (40, 90, 3), (90, 50, 3)]
    return [Image.fromarray(rng.integers(0, 255, shape, dtype=np.uint8)) for shape in shapes]


@pytest.fixture(scope="module")
def rows(tmp_path_factory, images) -> list[Example]:
    """Questions and answers of different lengths, the first and the last without an image, all with a clip."""
    root: Path = tmp_path_factory.mktemp("rows")
    rng = np.random.default_rng(0)
    questions = ["what do you hear?", "what color is the circle?", "where is it?", "how many?", "is there a red star?"]
    answers = ["one low bell sound", "red", "top left", "3", "yes"]
    found = []
    for index, (question, answer) in enumerate(zip(questions, answers, strict=True)):
        audio = root / f"{index}.wav"
        soundfile.write(audio, 0.1 * rng.standard_normal(32_000), 16_000)
        image = root / f"{index}.png" if 0 < index < 4 else None
        if image is not None:
            images[index - 1].save(image)
        found.append(Example(str(index), question, (answer,), image, audio))
    return found


@dataclass
class Hearing:
    """SAFE on a family's base, and its row encoder."""

    model: SafeModel
    encoder: Collator


@pytest.fixture(scope="module")
def audio_encoder():
    return load_audio_encoder(EMBEDDED)


@pytest.fixture
def attach(folder, audio_encoder):
    """Attaches SAFE, its trained parts random (so that it changes every answer) or fresh."""

    def build(*, trained: bool = True, lora_rank: int = 0, **options) -> Hearing:
        base = load_base(folder, **options)
        model = SafeModel(base, [audio_encoder], replace(ADAPTER, lora_rank=lora_rank))
        if trained:
            generator = torch.Generator().manual_seed(0)
            with torch.no_grad():
                for parameter in model.trainable_parameters().values():
                    parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        return Hearing(model, Collator(base.processor, FeatureCache([audio_encoder]), dtype=base.model.dtype))

    return build


def inputs_of(encoder: Collator, rows: list[Example], images) -> dict[str, dict]:
    """Every make-up of a batch: padding on either side, one image, none, and several in a row."""
    two = prompts_of(encoder.processor).encode(
        [Turn("where is it?", 2), Turn("what?"), Turn("how many circles?", 1)],
        [images[:2], [], images[2:]],
        "left",
    )
    return {
        "right-padded, with answers": encoder.training_batch(rows).inputs,
        "left-padded prompts": encoder.prompt_batch(rows).inputs,
        "one row with an image": encoder.prompt_batch(rows[1:2]).inputs,
        "rows without images": encoder.prompt_batch([rows[0], rows[4]]).inputs,
        "several images in a row": two,
        "documents among questions": encoder.training_batch([DOCUMENT, *rows]).inputs,
        "a document alone": encoder.training_batch([DOCUMENT]).inputs,
    }


@torch.no_grad()
def logits(base: Base, inputs) -> torch.Tensor:
    return base.model(**inputs, use_cache=False).logits


def features_for(hearing: Hearing, rows: list[Example], inputs) -> list[AudioFeatures]:
    """Clips for a batch of any size."""
    count = inputs["input_ids"].shape[0]
    return list(hearing.encoder.features_of((rows * count)[:count]))


def test_bypass_logits(attach, untouched, rows, images):
    """Bit for bit the untouched base's, in every make-up of a batch; with audio attached they are others."""
    hearing = attach()
    for name, inputs in inputs_of(hearing.encoder, rows, images).items():
        expected = logits(untouched, inputs)
        assert torch.isfinite(expected).all(), name
        with hearing.model.attached(features_for(hearing, rows, inputs)):
            assert not torch.equal(logits(hearing.model.base, inputs), expected), name
            with hearing.model.bypass():
                assert torch.equal(logits(hearing.model.base, inputs), expected), name
        assert torch.equal(logits(hearing.model.base, inputs), expected), name


def test_no_token_of_a_document_sees_a_later_one(untouched):
    """Also where a base's questions attend to each other: what is scored is the probability of a text."""
    inputs = Collator(untouched.processor, FeatureCache([])).training_batch([DOCUMENT]).inputs
    changed = inputs | {"input_ids": inputs["input_ids"].clone()}
    changed["input_ids"][0, -2] = inputs["input_ids"][0, 1]
    first, second = logits(untouched, inputs)[0], logits(untouched, changed)[0]
    assert relative_error(second[:-2], first[:-2]) < LOGITS[torch.float32]
    assert relative_error(second[-2:], first[-2:]) > 0.01


def test_images_reach_the_answer(untouched, rows, images):
    """Otherwise equal logits would say nothing about images."""
    inputs = Collator(untouched.processor, FeatureCache([])).training_batch(rows).inputs
    changed = inputs | {"pixel_values": inputs["pixel_values"] * 0.5}
    first, second = logits(untouched, inputs), logits(untouched, changed)
    differs = [not torch.equal(a, b) for a, b in zip(first, second, strict=True)]
    assert differs == [row.image is not None for row in rows]


@pytest.mark.parametrize("padding", ["left", "right"])
def test_bypass_generation(attach, untouched, rows, images, padding):
    """The same tokens with the key-value cache; with audio, others, and the same as without the cache."""
    hearing = attach()
    turns = [Turn(row.question, row.image is not None) for row in rows]
    shown = [[images[int(row.row_id) - 1]] if row.image else [] for row in rows]
    batches = {"five rows": (turns, shown), "several images": ([Turn("where is it?", 2)], [images[:2]])}
    base_agrees_with_itself, compared = True, {}
    for name, (asked, with_images) in batches.items():
        prompts = prompts_of(untouched.processor).encode(asked, with_images, padding)
        with greedy(untouched):  # tiny models have no end of their prompts in their configuration
            expected = untouched.model.generate(**prompts, **GREEDY)[:, prompts["input_ids"].shape[1] :]
        assert torch.equal(hearing.model.generate(prompts, None, **GREEDY), expected), name
        heard = hearing.model.generate(prompts, features_for(hearing, rows, prompts), **GREEDY)
        assert heard.shape != expected.shape or not torch.equal(heard, expected), name
        base_agrees_with_itself &= torch.equal(
            hearing.model.generate(prompts, None, **GREEDY, use_cache=False), expected
        )
        features = features_for(hearing, rows, prompts)
        compared[name] = hearing.model.generate(prompts, features, **GREEDY, use_cache=False), heard
    # Not where the base disagrees with itself: up to transformers 5.17, PaliGemma without the cache takes what it has
    # generated for a part of the question.
    if padding == "left" and base_agrees_with_itself:
        for name, (without_cache, with_cache) in compared.items():
            assert torch.equal(without_cache, with_cache), name


def test_new_fusion_is_zero(attach, untouched, rows):
    """The update is exactly zero before training, so the logits with audio attached are the base's bits."""
    hearing = attach(trained=False)
    updates = []
    for fusion in hearing.model.fusions:
        fusion.register_forward_hook(lambda _module, _inputs, update: updates.append(update))
    batch = hearing.encoder.training_batch(rows)
    assert batch.features is not None
    with hearing.model.attached(batch.features):
        assert torch.equal(logits(hearing.model.base, batch.inputs), logits(untouched, batch.inputs))
    assert len(updates) == len(ADAPTER.fusion_layers)
    assert not any(update.any() for update in updates)
    for fusion in hearing.model.fusions:
        torch.nn.init.normal_(fusion.output.weight)
    with hearing.model.attached(batch.features):
        assert not torch.equal(logits(hearing.model.base, batch.inputs), logits(untouched, batch.inputs))


def test_rows_without_audio_keep_their_bits(attach, untouched, rows):
    """Beside rows with audio, in one batch."""
    hearing = attach()
    batch = hearing.encoder.training_batch(rows)
    assert batch.features is not None
    mask = batch.features[0].mask.clone()
    mask[1] = False
    with hearing.model.attached([AudioFeatures(batch.features[0].values, mask)]):
        mixed = logits(hearing.model.base, batch.inputs)
    expected = logits(untouched, batch.inputs)
    assert [torch.equal(a, b) for a, b in zip(mixed, expected, strict=True)] == [False, True, False, False, False]


def test_head_gives_the_logits(untouched, rows):
    inputs = Collator(untouched.processor, FeatureCache([])).training_batch(rows).inputs
    with torch.no_grad():
        from_states = untouched.head(untouched.last_hidden_state(**inputs))
    assert relative_error(from_states, logits(untouched, inputs)) <= LOGITS[torch.float32]


def answer_loss(model: SafeModel, batch: Batch) -> float:
    """Mean cross-entropy of the answers with audio attached."""
    with torch.no_grad():
        hidden = model.last_hidden_state(batch.inputs, batch.features)
        scores = model.base.head(hidden[batch.token_rows, batch.token_positions])
        return F.cross_entropy(scores, batch.labels).item()


@pytest.mark.parametrize("learning_rate", [4e-3, 1e-12])
def test_training_step(attach, untouched, rows, learning_rate):
    """One step of Stage A, with retention, on five rows lowers the loss on the same rows; the base stays as it is."""
    hearing = attach(trained=False)
    config = build_config(
        {},
        {
            "variant": "soft_retention", "optimization.max_steps": "4", "optimization.gate_warmup_ratio": "0",
            "optimization.audio_batch_size": "5", "optimization.vl_batch_size": "3",
            "optimization.lr_projector": str(learning_rate), "optimization.lr_adapter": str(learning_rate),
            "data.image_prob": "0",
        },
    )  # fmt: skip
    protected = [row for row in rows if row.image is not None]
    stream = ExampleSampler(rows, protected, seed=0, image_prob=0.0)
    stage = StageATrainer(config, hearing.model, StepBatches(config, hearing.encoder, stream))
    batch = hearing.encoder.training_batch(rows)
    before = answer_loss(hearing.model, batch)
    metrics = stage.train_step()
    assert metrics["audio_loss"] == pytest.approx(before, rel=LOGITS[torch.float32])
    after = answer_loss(hearing.model, batch)
    if learning_rate > 1e-6:
        assert after < before * (1 - 1e-3)
    else:
        assert after == pytest.approx(before, rel=LOGITS[torch.float32])  # the control: hardly a step lowers nothing
    state = untouched.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in hearing.model.base.model.state_dict().items())


def test_save_and_load(attach, rows, tmp_path):
    """Logits with audio are the same bits after the trained parts have been on disk; before, they are others."""
    hearing, other = attach(), attach(trained=False)
    hearing.model.save_adapter(tmp_path)
    batch = hearing.encoder.training_batch(rows)
    assert batch.features is not None
    found = []
    for model, load in ((hearing.model, False), (other.model, False), (other.model, True)):
        if load:
            model.load_adapter(tmp_path)
        with model.attached(batch.features):
            found.append(logits(model.base, batch.inputs))
    assert not torch.equal(found[1], found[0])
    assert torch.equal(found[2], found[0])


def gradients(model: SafeModel, batch: Batch) -> dict[str, torch.Tensor]:
    """Of a loss on the answers' states; every trained parameter has one."""
    model.zero_grad(set_to_none=True)
    hidden = model.last_hidden_state(batch.inputs, batch.features)
    hidden[batch.token_rows, batch.token_positions].square().sum().backward()
    found = {name: parameter.grad.clone() for name, parameter in model.trainable_parameters().items()}
    assert all(gradient.any() for gradient in found.values())
    return found


def test_lora_and_checkpointing(attach, untouched, rows):
    """With LoRA the bypass is still the base's bits; gradients with checkpointing are those without."""
    hearing = attach(lora_rank=2)
    batch = hearing.encoder.training_batch(rows)
    assert torch.equal(logits(hearing.model.base, batch.inputs), logits(untouched, batch.inputs))
    plain = gradients(hearing.model, batch)
    hearing.model.checkpoint_gradients()
    again = gradients(hearing.model, batch)
    assert all(torch.equal(again[name], gradient) for name, gradient in plain.items())


def test_shared_prefix(attach, rows):
    """What student and teacher have in common, computed once, gives both the bits of passes of their own."""
    hearing = attach()
    batch = hearing.encoder.training_batch(rows)
    teacher, prefix = hearing.model.bypass_and_prefix(batch.inputs)
    assert prefix is not None
    with torch.no_grad():
        assert torch.equal(teacher, hearing.model.last_hidden_state(batch.inputs, None))
        student = hearing.model.last_hidden_state(batch.inputs, batch.features)
        assert torch.equal(hearing.model.last_hidden_state(batch.inputs, batch.features, prefix), student)
    assert not torch.equal(student, teacher)


def test_half_precision(attach, folder, rows):
    """In bfloat16 the bypass is the base's bits as well, and gradients are finite."""
    hearing = attach(dtype=torch.bfloat16)
    untouched = load_base(folder, dtype=torch.bfloat16)
    batch = hearing.encoder.training_batch(rows)
    expected = logits(untouched, batch.inputs)
    assert expected.dtype == torch.bfloat16
    assert torch.equal(logits(hearing.model.base, batch.inputs), expected)
    hidden = hearing.model.last_hidden_state(batch.inputs, batch.features)
    scores = hearing.model.base.head(hidden[batch.token_rows, batch.token_positions])
    F.cross_entropy(scores, batch.labels).backward()
    for parameter in hearing.model.trainable_parameters().values():
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all()
        assert parameter.grad.any()
