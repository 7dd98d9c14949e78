"""One question, answered by the base and by SAFE."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safe_train.data.example import Example
from safe_train.evaluation.answer_lengths import LONGEST
from safe_train.runs.layout import read_config
from safe_train.training.build import attach, build_collator, load_base_model
from safe_train.training.run import load_trained


@dataclass(frozen=True)
class Answers:
    """Both answers.

    Attributes:
        base: of the bypass.
        safe: with the audio attached.
    """

    base: str
    safe: str


def ask(run: Path, question: str, image: Path | None, audio: Path | None) -> Answers:
    """Asks a run's base and SAFE; without an audio file SAFE hears silence.

    Raises:
        InputError: the folder is no run, or the image or audio cannot be read.
    """
    config = read_config(run)
    model = attach(load_base_model(config), config)
    load_trained(run, model)
    encoder = build_collator(model)
    row = Example("question", question, (), image, audio)
    features = encoder.features_of([row])
    inputs = encoder.prompt_batch([row]).inputs
    length = config.evaluation.max_new_tokens or LONGEST
    base, heard = (
        encoder.decode(model.generate(inputs, given, max_new_tokens=length))[0] for given in (None, features)
    )
    return Answers(base, heard)
