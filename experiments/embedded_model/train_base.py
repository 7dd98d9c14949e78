"""Trains the embedded vision-language model: the vision tower on dense labels, then questions and documents."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration, LlavaProcessor, PreTrainedTokenizerBase

from safe_train.embedded.questions import QUESTION_TYPES, Question, questions_about
from safe_train.embedded.scenes import COLORS, SHAPES, SIZES, Scene, render, sample_scene, scan_indices
from safe_train.embedded.sounds import ALL_SOUNDS, AUDIO_QUESTION
from safe_train.embedded.text_skills import TEXT_TYPES, sample_document, sample_text_question

logger = logging.getLogger(__name__)

_IGNORE = -100


@dataclass(frozen=True)
class BaseRecipe:
    """Sizes and rates of the recipe; the defaults are those of the weights in the package."""

    seed: int = 0
    num_scenes: int = 20_000
    batch_size: int = 48
    questions_per_image: int = 6
    vision_steps: int = 1_000
    vision_lr: float = 1.5e-3
    answer_steps: int = 4_500
    answer_lr: float = 1.5e-3
    cycle: str = "nitiitidiitiit"
    """What a step learns, in turn: questions about ``i``mages, questions without one (``t``ext), ``d``ocuments, or the
    words for sounds (``n``ote: the prompt says what can be heard)."""
    document_batch_size: int = 24


class ScenePool:
    """Rendered training scenes with their dense labels and questions, made once."""

    def __init__(self, processor: LlavaProcessor, num_scenes: int, seed: int) -> None:
        rng = np.random.default_rng([seed, 0])
        scans = scan_indices("train")
        self.scenes = [sample_scene(rng, scans) for _ in range(num_scenes)]
        images = [render(scene) for scene in self.scenes]
        self.pixels = processor.image_processor(images, return_tensors="pt")["pixel_values"]
        self.labels = torch.stack([_dense_labels(scene) for scene in self.scenes])

    def batches(self, batch_size: int, num_batches: int, seed: int) -> Iterator[Tensor]:
        """Yields index batches, each drawn without replacement."""
        rng = np.random.default_rng([seed, 1])
        for _ in range(num_batches):
            yield torch.from_numpy(rng.choice(len(self.scenes), size=batch_size, replace=False))


def _dense_labels(scene: Scene) -> Tensor:
    """Per quadrant: thing (0 empty, shapes, digits), color and size; int64 [4, 3]; 0 where there is none."""
    labels = torch.zeros(4, 3, dtype=torch.int64)
    for item in scene.items:
        if item.digit is None:
            row = (1 + SHAPES.index(item.shape), 1 + list(COLORS).index(item.color), 1 + SIZES.index(item.size))
        else:
            row = (1 + len(SHAPES) + item.digit, 0, 0)
        labels[item.position] = torch.tensor(row)
    return labels


def train_vision(model: LlavaForConditionalGeneration, pool: ScenePool, recipe: BaseRecipe) -> None:
    """Trains the vision tower to name what each patch shows; the heads are thrown away."""
    tower = model.model.vision_tower
    num_classes = (1 + len(SHAPES) + 10, 1 + len(COLORS), 1 + len(SIZES))
    heads = nn.ModuleList(nn.Linear(tower.config.hidden_size, classes) for classes in num_classes)
    parameters = [*tower.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.vision_lr, weight_decay=0.01)
    for step, batch in enumerate(pool.batches(recipe.batch_size * 2, recipe.vision_steps, recipe.seed)):
        _set_lr(optimizer, recipe.vision_lr, step, recipe.vision_steps)
        features = tower(pool.pixels[batch]).last_hidden_state[:, 1:]
        losses = [
            F.cross_entropy(head(features).flatten(0, 1), pool.labels[batch, :, k].flatten())
            for k, head in enumerate(heads)
        ]
        _step(optimizer, torch.stack(losses).sum(), parameters)
        if step % 100 == 99:
            logger.info("vision step %d: thing %.3f color %.3f size %.3f", step + 1, *(loss.item() for loss in losses))


def train_answers(
    model: LlavaForConditionalGeneration, processor: LlavaProcessor, pool: ScenePool, recipe: BaseRecipe
) -> None:
    """Trains the whole model to answer; several questions share one image, each sees the image and itself only."""
    rng = np.random.default_rng([recipe.seed, 2])
    packer = QuestionPacker(processor, recipe.questions_per_image)
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=recipe.answer_lr, weight_decay=0.01, betas=(0.9, 0.98))
    running = 0.0
    for step, batch in enumerate(pool.batches(recipe.batch_size, recipe.answer_steps, recipe.seed + 1)):
        _set_lr(optimizer, recipe.answer_lr, step, recipe.answer_steps)
        cycle, place = divmod(step, len(recipe.cycle))
        what = recipe.cycle[place]
        if what == "d":
            documents = [sample_document(rng) for _ in range(recipe.document_batch_size)]
            loss = document_losses(model, processor.tokenizer, documents).mean()
        else:
            loss = packer.loss(model, *_question_batch(what, cycle, pool, batch, rng, recipe))
        _step(optimizer, loss, parameters)
        running = 0.98 * running + 0.02 * loss.item() if step else loss.item()
        if step % 100 == 99:
            logger.info("answer step %d: loss %.4f", step + 1, running)


def _question_batch(
    what: str, cycle: int, pool: ScenePool, batch: Tensor, rng: np.random.Generator, recipe: BaseRecipe
) -> tuple[list[list[tuple[str, str]]], Tensor | None]:
    """Questions with answers, a list per row, and the rows' images; notes come with images in every other cycle."""
    if what == "t":
        return [_text_questions(rng, recipe.questions_per_image) for _ in batch], None
    if what == "n":
        texts = [_note_questions(rng, recipe.questions_per_image // 2) for _ in batch]
        return texts, pool.pixels[batch] if cycle % 2 else None
    texts = [_draw_questions(pool.scenes[i], rng, recipe.questions_per_image) for i in batch.tolist()]
    return texts, pool.pixels[batch]


def document_losses(
    model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, documents: list[str]
) -> Tensor:
    """Cross-entropies in nats of every token of the documents, one after the other; each follows ``<s>``."""
    rows = [tokenizer("<s>" + text, add_special_tokens=False).input_ids for text in documents]
    width = max(map(len, rows))
    ids = torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row in rows])
    is_token = torch.tensor([[place < len(row) for place in range(width)] for row in rows])
    hidden = model.model(input_ids=ids, attention_mask=is_token.long(), use_cache=False).last_hidden_state
    kept = is_token[:, 1:]
    return F.cross_entropy(model.lm_head(hidden[:, :-1][kept]), ids[:, 1:][kept], reduction="none")


class QuestionPacker:
    """Packs several questions about one image into one row, with a mask that keeps them apart."""

    def __init__(self, processor: LlavaProcessor, questions_per_image: int) -> None:
        self.tokenizer = processor.tokenizer
        self.image_prefix = self._ids("<s>user: " + "<image>" * 4)
        self.text_prefix = self._ids("<s>user:")
        self.questions_per_image = questions_per_image

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def loss(
        self, model: LlavaForConditionalGeneration, texts: list[list[tuple[str, str]]], pixels: Tensor | None
    ) -> Tensor:
        """Mean cross-entropy of the answer tokens of ``texts``, a list of (question, answer) per row."""
        prefix = self.text_prefix if pixels is None else self.image_prefix
        pairs = [[(self._ids(f"{q} assistant:"), self._ids(f"{a}</s>")) for q, a in row] for row in texts]
        width = max(len(question) + len(answer) for row in pairs for question, answer in row)
        pad = self.tokenizer.pad_token_id
        ids, labels = [], []
        for row in pairs:
            row_ids, row_labels = list(prefix), [_IGNORE] * len(prefix)
            for question, answer in row:
                fill = width - len(question) - len(answer)
                row_ids += question + answer + [pad] * fill
                row_labels += [_IGNORE] * len(question) + answer + [_IGNORE] * fill
            ids.append(row_ids)
            labels.append(row_labels)
        mask, positions = _packed_mask(len(prefix), width, len(pairs[0]))
        hidden = model.model(
            input_ids=torch.tensor(ids),
            pixel_values=pixels,
            attention_mask=mask.expand(len(ids), -1, -1, -1),
            position_ids=positions.expand(len(ids), -1),
            use_cache=False,
        ).last_hidden_state
        targets = torch.tensor(labels)[:, 1:]
        kept = targets != _IGNORE
        return F.cross_entropy(model.lm_head(hidden[:, :-1][kept]), targets[kept])


def _packed_mask(prefix: int, width: int, segments: int) -> tuple[Tensor, Tensor]:
    """Additive mask [1,1,L,L] and positions [1,L]: a segment sees the prefix and its own past."""
    length = prefix + width * segments
    segment = torch.cat([torch.full((prefix,), -1), torch.arange(segments).repeat_interleave(width)])
    visible = (segment[None, :] == segment[:, None]) | (segment[None, :] == -1)
    visible &= torch.ones(length, length, dtype=torch.bool).tril()
    mask = torch.zeros(length, length).masked_fill(~visible, torch.finfo(torch.float32).min)
    positions = torch.cat([torch.arange(prefix), (prefix + torch.arange(width)).repeat(segments)])
    return mask[None, None], positions[None]


def _draw_questions(scene: Scene, rng: np.random.Generator, count: int) -> list[tuple[str, str]]:
    """Questions of mixed types; the types that need binding (position, shape, count) come up more often."""
    by_type: dict[str, list[Question]] = {}
    for question in questions_about(scene):
        by_type.setdefault(question.question_type, []).append(question)
    kinds = [kind for kind in QUESTION_TYPES if kind in by_type]
    weight = np.array([{"position": 1.6, "shape": 1.3, "count": 1.3, "size": 0.7}.get(kind, 1.0) for kind in kinds])
    drawn = []
    for kind in rng.choice(kinds, size=count, p=weight / weight.sum()):
        candidates = by_type[kind]
        answers = sorted({question.answer for question in candidates})
        answer = answers[rng.integers(len(answers))]
        fitting = [question for question in candidates if question.answer == answer]
        question = fitting[rng.integers(len(fitting))]
        drawn.append((question.text, question.answer))
    return drawn


def _text_questions(rng: np.random.Generator, count: int) -> list[tuple[str, str]]:
    """Questions without an image; the types that are harder to learn come up more often."""
    weight = np.array([{"recall": 2.5, "reverse": 1.6, "sum": 1.6, "fact": 1.3}.get(kind, 1.0) for kind in TEXT_TYPES])
    kinds = rng.choice(TEXT_TYPES, size=count, p=weight / weight.sum())
    drawn = [sample_text_question(str(kind), rng) for kind in kinds]
    return [(question.prompt, question.answer) for question in drawn]


def _note_questions(rng: np.random.Generator, count: int) -> list[tuple[str, str]]:
    """Prompts that say in words what can be heard, so that the decoder knows how sounds are spoken of."""
    captions = [ALL_SOUNDS[k].caption for k in rng.integers(len(ALL_SOUNDS), size=count)]
    return [(f"note: {caption}. {AUDIO_QUESTION}", caption) for caption in captions]


def _set_lr(optimizer: torch.optim.Optimizer, peak: float, step: int, total: int) -> None:
    """Linear warm-up over 5 % of the steps, then a cosine to 2 % of the peak."""
    warmup = max(1, total // 20)
    progress = max(0.0, (step - warmup) / max(1, total - warmup))
    scale = min(1.0, (step + 1) / warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
    for group in optimizer.param_groups:
        group["lr"] = peak * scale


def _step(optimizer: torch.optim.Optimizer, loss: Tensor, parameters: list[nn.Parameter]) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
