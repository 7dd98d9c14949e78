"""Questions with one right answer about a procedural scene, and the sentences that describe procedural sounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from safe_train.embedded.scenes import COLORS, POSITIONS, SHAPES, Scene

QUESTION_TYPES = ("color", "shape", "count", "position", "size", "digit", "yes/no")
_PLURALS = {"circle": "circles", "square": "squares", "triangle": "triangles", "star": "stars"}


@dataclass(frozen=True)
class Question:
    """A question about an image, its answer, and the type it is counted under."""

    text: str
    answer: str
    question_type: str

    @property
    def answer_type(self) -> str:
        """The VQA v2 answer type: ``yes/no``, ``number`` or ``other``."""
        return {"yes/no": "yes/no", "count": "number", "digit": "number"}.get(self.question_type, "other")


def questions_about(scene: Scene) -> list[Question]:
    """All questions that have exactly one right answer for this scene."""
    return [*_attribute_questions(scene), *_count_questions(scene), *_existence_questions(scene)]


def sample_question(scene: Scene, rng: np.random.Generator) -> Question:
    """Draws a question type that the scene allows, uniformly, then one question of that type, answers balanced."""
    by_type: dict[str, list[Question]] = {}
    for question in questions_about(scene):
        by_type.setdefault(question.question_type, []).append(question)
    kinds = [kind for kind in QUESTION_TYPES if kind in by_type]
    candidates = by_type[kinds[rng.integers(len(kinds))]]
    answers = sorted({question.answer for question in candidates})
    answer = answers[rng.integers(len(answers))]
    fitting = [question for question in candidates if question.answer == answer]
    return fitting[rng.integers(len(fitting))]


def _attribute_questions(scene: Scene) -> Iterator[Question]:
    shapes_seen = Counter(item.shape for item in scene.shapes)
    colors_seen = Counter(item.color for item in scene.shapes)
    for item in scene.shapes:
        if shapes_seen[item.shape] == 1:
            yield Question(f"what color is the {item.shape}?", item.color, "color")
            yield Question(f"where is the {item.shape}?", POSITIONS[item.position], "position")
            yield Question(f"what size is the {item.shape}?", item.size, "size")
        if colors_seen[item.color] == 1:
            yield Question(f"what shape is {item.color}?", item.shape, "shape")
    if scene.digit is not None:
        yield Question("what digit is shown?", str(scene.digit.digit), "digit")
        yield Question("where is the digit?", POSITIONS[scene.digit.position], "position")


def _count_questions(scene: Scene) -> Iterator[Question]:
    yield Question("how many shapes are there?", str(len(scene.shapes)), "count")
    shapes_seen = Counter(item.shape for item in scene.shapes)
    for shape in SHAPES:
        yield Question(f"how many {_PLURALS[shape]} are there?", str(shapes_seen[shape]), "count")


def _existence_questions(scene: Scene) -> Iterator[Question]:
    seen = {(item.color, item.shape) for item in scene.shapes}
    for shape in SHAPES:
        for color in COLORS:
            yield Question(f"is there a {color} {shape}?", "yes" if (color, shape) in seen else "no", "yes/no")
        yield Question(f"is there a {shape}?", "yes" if any(s == shape for _, s in seen) else "no", "yes/no")
