"""Trains the base's image projector and measures the base: ``python -m experiments.real.train_base``.

Language model and vision tower stay as their packages hold them. All questions about an image run as branches of one
sequence: they share the image's tokens, do not see each other, and each begins at the position behind the image.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from experiments.real.base import PROJECTOR, build_base, build_processor, language_folder
from experiments.real.data.build import data_folder
from experiments.real.data.vqa import CATEGORY, NAME
from safe_train.cli.errors import one_line_errors
from safe_train.cli.options import quiet_libraries
from safe_train.data.datasets.text import Text
from safe_train.data.datasets.vqa import VQA
from safe_train.data.example import Example
from safe_train.data.image import load_image
from safe_train.evaluation.base_answers import base_answers
from safe_train.evaluation.majority_baseline import majority_scores
from safe_train.evaluation.settings import EvaluationSettings
from safe_train.io.files import json_text, write_text
from safe_train.io.tensor_files import save_tensors
from safe_train.metrics.intervals import cluster_bootstrap
from safe_train.model.base import Base
from safe_train.model.prompting import ChatPrompts, Turn

logger = logging.getLogger(__name__)

PHOTOGRAPH_TYPES = (NAME, CATEGORY)
"""Types of the questions about photographs."""


@dataclass(frozen=True)
class Recipe:
    """How the projector is trained.

    Attributes:
        seed: of its initialization and of the order of images.
        epochs: times that every drawn picture is seen in a cycle.
        photographs: times that a photograph is seen for each of those; there are few.
        images: images a step.
        questions: questions of an image in a step, drawn anew each time; the rest of them wait.
        learning_rates: peak of each cycle; it rises over the first steps and falls as a cosine.
        warmup: share of the steps over which it rises.
        weight_decay: of AdamW.
        clip: largest norm of the gradient.
    """

    seed: int = 0
    epochs: int = 1
    photographs: int = 5
    images: int = 4
    questions: int = 10
    learning_rates: tuple[float, ...] = (2e-3, 1e-3)
    warmup: float = 0.05
    weight_decay: float = 0.01
    clip: float = 1.0


@dataclass(frozen=True)
class Packed:
    """Images with their questions as branches.

    Attributes:
        ids: [B, T] tokens.
        positions: [B, T]; branches begin again behind the image.
        attends: [B, 1, T, T], what is added to attention's scores: 0, or -inf where a token is not seen.
        features: [B, 49, 1280] of the vision tower.
        targets: [B, T] the token that follows where an answer's token is to be predicted, else -100.
    """

    ids: Tensor
    positions: Tensor
    attends: Tensor
    features: Tensor
    targets: Tensor


def pack(prefix: Sequence[int], branches: Sequence[tuple[Sequence[int], Sequence[int]]]) -> tuple[Tensor, ...]:
    """A sequence of a prefix and branches behind it: tokens, positions, who attends to whom, targets.

    Args:
        prefix: tokens that all branches see.
        branches: the rest of the prompt and the answer, of each.
    """
    ids, positions, branch, targets = list(prefix), list(range(len(prefix))), [0] * len(prefix), [-100] * len(prefix)
    for number, (prompt, answer) in enumerate(branches, start=1):
        tokens = [*prompt, *answer]
        ids += tokens
        positions += range(len(prefix), len(prefix) + len(tokens))
        branch += [number] * len(tokens)
        targets += [-100] * (len(prompt) - 1) + list(answer) + [-100]
    of = torch.tensor(branch)
    sees = (of[:, None] == of) | (of == 0)
    return torch.tensor(ids), torch.tensor(positions), sees.tril(), torch.tensor(targets)


class ImageQuestions:
    """The questions of each image, as tokens, with the features of the frozen vision tower."""

    def __init__(self, model: Any, processor: Any, examples: Sequence[Example]) -> None:
        """Encodes every image once.

        Args:
            model: FastVLM.
            processor: its own.
            examples: questions about one image each.
        """
        self._prompts, self._tokenizer = ChatPrompts(processor), processor.tokenizer
        self._image_token = model.config.image_token_id
        by_image: dict[Path, list[Example]] = defaultdict(list)
        for example in examples:
            by_image[Path(str(example.image))].append(example)
        self.images = sorted(by_image)
        self._questions = [by_image[image] for image in self.images]
        self._features = encode_images(model, processor, self.images)
        self._num_image_tokens = self._features.shape[1]

    def branches(self, examples: Sequence[Example]) -> tuple[list[int], list[tuple[list[int], list[int]]]]:
        """The tokens up to the image's end, and those of each question with its answer."""
        prefix: list[int] = []
        found = []
        for example in examples:
            turn = Turn(example.question, 1, example.answers[0])
            text = self._prompts.text(Turn(example.question, 1))
            tokens = self._tokenizer(text, add_special_tokens=False).input_ids
            at = tokens.index(self._image_token)
            prefix = tokens[:at] + [self._image_token] * self._num_image_tokens
            found.append((tokens[at + 1 :], self._prompts.answer_ids(turn)))
        return prefix, found

    def batch(self, indices: Sequence[int], rng: np.random.Generator, num_questions: int) -> Packed:
        """Some images with at most so many of their questions each."""
        sequences = []
        for index in indices:
            questions = self._questions[index]
            drawn = rng.permutation(len(questions))[:num_questions]
            sequences.append(pack(*self.branches([questions[number] for number in drawn])))
        length = max(len(ids) for ids, *_ in sequences)
        count = len(sequences)
        ids = torch.full((count, length), self._tokenizer.pad_token_id)
        positions = torch.zeros(count, length, dtype=torch.long)
        attends = torch.eye(length, dtype=torch.bool).repeat(count, 1, 1, 1)  # padding attends to itself, or is NaN
        targets = torch.full((count, length), -100)
        for row, (row_ids, row_positions, row_attends, row_targets) in enumerate(sequences):
            size = len(row_ids)
            ids[row, :size], positions[row, :size], targets[row, :size] = row_ids, row_positions, row_targets
            attends[row, 0, :size, :size] = row_attends
        scores = torch.zeros(attends.shape, dtype=self._features.dtype).masked_fill(~attends, float("-inf"))
        return Packed(ids, positions, scores, self._features[list(indices)].float(), targets)

    def schedule(self, photographs: int) -> list[int]:
        """The images of an epoch: each once, and those of photographs so many times."""
        times = [photographs if asked[0].kind in PHOTOGRAPH_TYPES else 1 for asked in self._questions]
        return [index for index, count in enumerate(times) for _ in range(count)]

    def sample_features(self, count: int = 500) -> Tensor:
        """Features of the first images: [count, places, width]."""
        return self._features[:count]


@torch.no_grad()
def encode_images(model: Any, processor: Any, images: Sequence[Path], batch_size: int = 50) -> Tensor:
    """The vision tower's features of images: [N, places, width], in the model's precision."""
    features = []
    for start in range(0, len(images), batch_size):
        loaded = [load_image(path) for path in images[start : start + batch_size]]
        pixels = processor.image_processor(loaded, return_tensors="pt")["pixel_values"]
        maps = model.model.vision_tower(pixels.to(model.dtype)).last_hidden_state
        features.append(maps.flatten(2).transpose(1, 2))
    return torch.cat(features)


def build_projector(model: Any, features: Tensor, seed: int) -> nn.Module:
    """A projector like the model's, float32, whose input is normalized and whose output is as large as the embeddings.

    With the features' mean m and deviation s in each channel, the first layer begins as ``W ((x - m) / s)``; the second
    is scaled so that its outputs have the standard deviation of the token embeddings.

    Args:
        model: FastVLM.
        features: [N, places, width] of images to be trained on.
        seed: of the initialization.
    """
    torch.manual_seed(seed)
    projector = type(model.model.multi_modal_projector)(model.config).float()
    flat = features.float().flatten(0, 1)
    mean, deviation = flat.mean(0), flat.std(0).clamp_min(1e-3)
    with torch.no_grad():
        projector.linear_1.weight.normal_(0.0, flat.shape[1] ** -0.5).div_(deviation)
        projector.linear_1.bias.copy_(-projector.linear_1.weight @ mean)
        projector.linear_2.bias.zero_()
        wanted = model.get_input_embeddings().weight.float().std()
        projector.linear_2.weight.mul_(wanted / projector(flat[:2000]).std())
    return projector


def answer_loss(model: Any, projector: nn.Module, batch: Packed) -> Tensor:
    """Mean cross-entropy over the tokens of the answers."""
    embeddings = model.get_input_embeddings()(batch.ids)
    image_tokens = projector(batch.features).to(embeddings.dtype)
    embeddings = embeddings.masked_scatter((batch.ids == model.config.image_token_id)[..., None], image_tokens)
    states = model.model.language_model(
        inputs_embeds=embeddings, attention_mask=batch.attends, position_ids=batch.positions, use_cache=False
    ).last_hidden_state
    answers = batch.targets >= 0
    return functional.cross_entropy(model.lm_head(states[answers]).float(), batch.targets[answers])


def _orders(images: Sequence[int], epochs: int, size: int, rng: np.random.Generator) -> Iterator[list[int]]:
    for _ in range(epochs):
        order = rng.permutation(images).tolist()
        yield from (order[start : start + size] for start in range(0, len(order) - size + 1, size))


def train_projector(model: Any, questions: ImageQuestions, recipe: Recipe) -> nn.Module:
    """The trained projector, float32.

    Args:
        model: FastVLM, frozen; bfloat16 is several times as fast as float32.
        questions: to be trained on.
        recipe: how.
    """
    model.requires_grad_(False)
    # On a CPU, the backward pass of fused attention takes longer than that of plain products.
    model.model.language_model.set_attn_implementation("eager")
    projector = build_projector(model, questions.sample_features(), recipe.seed)
    for cycle in range(len(recipe.learning_rates)):
        train_cycle(model, projector, questions, recipe, cycle)
        projector.half().float()  # the next cycle, and whoever reads the file, begin with the same weights
    return projector


def train_cycle(model: Any, projector: nn.Module, questions: ImageQuestions, recipe: Recipe, cycle: int) -> None:
    """Trains the projector for one cycle of the learning rate, with an optimizer of its own.

    Args:
        model: FastVLM, frozen.
        projector: float32.
        questions: to be trained on.
        recipe: how.
        cycle: which of its cycles, from 0.
    """
    peak = recipe.learning_rates[cycle]
    optimizer = torch.optim.AdamW(projector.parameters(), peak, weight_decay=recipe.weight_decay)
    rng = np.random.default_rng([recipe.seed, cycle] if cycle else recipe.seed)
    schedule = questions.schedule(recipe.photographs)
    steps = recipe.epochs * (len(schedule) // recipe.images)
    start = time.perf_counter()
    for step, indices in enumerate(_orders(schedule, recipe.epochs, recipe.images, rng)):
        for group in optimizer.param_groups:
            group["lr"] = peak * rate_factor(step / steps, recipe.warmup)
        loss = answer_loss(model, projector, questions.batch(indices, rng, recipe.questions))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(projector.parameters(), recipe.clip)
        optimizer.step()
        if step % 20 == 0 or step == steps - 1:
            seconds = time.perf_counter() - start
            logger.info("cycle %d, step %d of %d: loss %.3f, %.0f s", cycle, step, steps, loss.item(), seconds)


def rate_factor(progress: float, warmup: float) -> float:
    """Linear from 0 over the first share ``warmup``, then ``(1 + cos(pi p)) / 2`` down to 0."""
    if progress < warmup:
        return progress / warmup
    return (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup))) / 2


def make_projector(recipe: Recipe, root: Path) -> dict[str, Tensor]:
    """The trained projector's tensors, float16.

    Args:
        recipe: how it is trained.
        root: of the data; its split ``train`` is trained on.
    """
    language = language_folder()
    processor = build_processor(language)
    model = _in_bfloat16(build_base(language, processor, None))
    questions = ImageQuestions(model, processor, VQA().examples(root, "train"))
    projector = train_projector(model, questions, recipe)
    return {name: tensor.half().contiguous() for name, tensor in projector.state_dict().items()}


def _in_bfloat16(model: Any) -> Any:
    return model.to(torch.bfloat16).requires_grad_(False)


@dataclass(frozen=True)
class Accuracy:
    """Of the base on questions of a type, as fractions.

    Attributes:
        questions: how many.
        mean: VQA accuracy of the answers that ``generate`` gives.
        low: lower limit of the 95 % interval, images resampled.
        high: upper limit.
        majority: of the answer that is most frequent for that type among the other images, or words.
    """

    questions: int
    mean: float
    low: float
    high: float
    majority: float


def measure(projector: Mapping[str, Tensor], root: Path, max_questions: int, seed: int = 0) -> dict[str, Any]:
    """What the base can do on the validation split, by type of question; documents in bits per byte.

    Args:
        projector: its tensors.
        root: of the data.
        max_questions: questions about images, drawn by images.
        seed: of the draw.
    """
    language = language_folder()
    processor = build_processor(language)
    model = _in_bfloat16(build_base(language, processor, projector))
    images = draw_by_image(VQA().examples(root, "val"), max_questions, seed)
    text = Text().examples(root, "val")
    found = base_answers(Base(model, processor, "real"), images, EvaluationSettings(batch_size=50), text=text)
    questions = [(example, p) for example, p in zip(text, found.text, strict=True) if not example.is_document]
    documents = [p for example, p in zip(text, found.text, strict=True) if example.is_document]
    return {
        "images": accuracies(images, found.scores),
        "text": accuracies([example for example, _ in questions], [p.score for _, p in questions]),
        "documents_bits_per_byte": sum(p.bits or 0.0 for p in documents) / sum(p.num_bytes for p in documents),
    }


def draw_by_image(examples: Sequence[Example], count: int, seed: int) -> list[Example]:
    """At least so many examples, if there are, with all questions about each image that is drawn."""
    images = sorted({example.cluster for example in examples})
    order = np.random.default_rng(seed).permutation(len(images))
    by_image: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        by_image[example.cluster].append(example)
    drawn: list[Example] = []
    for index in order:
        if len(drawn) >= count:
            break
        drawn += by_image[images[index]]
    return drawn


def accuracies(examples: Sequence[Example], scores: Sequence[float]) -> dict[str, Accuracy]:
    """Accuracy by type of question, and of all, with cluster bootstrap intervals and the majority's accuracy."""
    found = {}
    for kind in ("all", *sorted({example.kind for example in examples})):
        rows = [pair for pair in zip(examples, scores, strict=True) if kind in ("all", pair[0].kind)]
        of_kind = [example for example, _ in rows]
        interval = cluster_bootstrap([score for _, score in rows], [e.cluster for e in of_kind], bounds=(0.0, 1.0))
        # The last reference is the shortest: sentences hold the question's words, and no two are the same.
        majority = sum(majority_scores([replace(e, answers=e.answers[-1:]) for e in of_kind])) / len(rows)
        found[kind] = Accuracy(len(rows), interval.mean, interval.low, interval.high, majority)
    return found


def write_model_card(folder: Path, recipe: Recipe, measures: Mapping[str, Any]) -> None:
    """Writes ``README.md`` and ``accuracies.json`` beside the weights.

    Args:
        folder: of the weights.
        recipe: that made them.
        measures: of :func:`measure`.
    """
    versions = ", ".join(f"{package} {version(package)}" for package in ("torch", "transformers"))
    figures = {
        "recipe": asdict(recipe),
        "versions": versions,
        "documents_bits_per_byte": measures["documents_bits_per_byte"],
        **{part: {kind: asdict(found) for kind, found in measures[part].items()} for part in ("images", "text")},
    }
    write_text(folder / "accuracies.json", json_text(figures))
    tables = "\n".join(
        _table(title, measures[part])
        for part, title in (("images", "questions about held-out images"), ("text", "questions without an image"))
    )
    card = _CARD.format(
        recipe=json.dumps(asdict(recipe)),
        versions=versions,
        tables=tables,
        bits=measures["documents_bits_per_byte"],
    )
    write_text(folder / "README.md", card)


_CARD = """---
license: apache-2.0
library_name: transformers
---
# Image projector between EfficientNet-lite0 and SmolLM2-135M-Instruct

`projector.safetensors` (1.07 M parameters, float16) maps the 49 features of EfficientNet-lite0 to token embeddings of
SmolLM2-135M-Instruct in a `FastVlmForConditionalGeneration`. Language model and vision tower are as [their
packages](../packages.py) hold them, so without an image the model is SmolLM2-135M-Instruct. It was trained on the
official training questions of easy-VQA and on photographs of Tux Paint's stamps, of which it holds none.

Made by `make real-base` ({versions}, one CPU thread, bfloat16) with
`{recipe}`.

Accuracy in percent by `generate`, bfloat16, with a 95 % interval over images; "majority" is the accuracy of the most
frequent answer of each type. Documents take {bits:.3f} bits per byte.

{tables}"""


def _table(title: str, measures: Mapping[str, Accuracy]) -> str:
    rows = "\n".join(
        f"| {kind} | {found.questions} | {100 * found.mean:.1f} ({100 * found.low:.1f} to {100 * found.high:.1f}) "
        f"| {100 * found.majority:.1f} |"
        for kind, found in measures.items()
    )
    return f"| {title} | questions | accuracy | majority |\n|---|---|---|---|\n{rows}\n"


@one_line_errors
def main() -> None:
    """Trains, measures, writes the weights and their card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=Recipe().seed)
    parser.add_argument("--output", type=Path, default=PROJECTOR.parent, help="folder for the weights")
    parser.add_argument("--questions", type=int, default=2_000, help="questions about images to measure it on")
    parser.add_argument("--measure-only", action="store_true", help="measure the weights that are there")
    arguments = parser.parse_args()
    quiet_libraries()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    root, recipe, weights = data_folder(), replace(Recipe(), seed=arguments.seed), arguments.output / PROJECTOR.name
    if not arguments.measure_only:
        arguments.output.mkdir(parents=True, exist_ok=True)
        save_tensors(make_projector(recipe, root), weights)
    measures = measure(load_file(weights), root, arguments.questions)
    write_model_card(arguments.output, recipe, measures)
    print((arguments.output / "README.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
