"""What can be told from a clip without the base: ``python -m experiments.real.linear_probe``.

Linear classifiers on the audio encoder's features, and as a control on the clip's average spectrum, which knows the
microphone and hardly what is said. Where the spectrum does as well, a question is about the recording.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from experiments.real.base import audio_encoder_folder
from experiments.real.data.build import data_folder
from safe_train.audio.input import render_waveform
from safe_train.cli.errors import one_line_errors
from safe_train.cli.options import quiet_libraries
from safe_train.configs.model_configs import REAL
from safe_train.data.datasets.avqa import AVQA
from safe_train.data.example import Example
from safe_train.model.audio.encoder import AudioEncoder, load_audio_encoder

TRAIN, TESTS = "train", ("val", "tune")
SEGMENTS = 8
"""Stretches of a clip whose features are averaged, as many as the projector makes audio tokens."""

PENALTY = 1e-2
"""On the sum of squared weights; the larger of the two that were tried."""

NEW_SPEAKER = ", new speaker"


@dataclass(frozen=True)
class Described:
    """An example with what the classifiers see of its clip.

    Attributes:
        example: the example.
        split: of the data.
        features: [8 D] means of the encoder's features over eighths of the clip.
        spectrum: [2 M] mean and deviation over time of the encoder's log mel bands.
    """

    example: Example
    split: str
    features: Tensor
    spectrum: Tensor


def describe(encoder: AudioEncoder, example: Example, split: str) -> Described:
    """Encodes an example's clip, alone."""
    waveform = render_waveform(example.audio, encoder.sampling_rate, encoder.window)
    found = encoder([waveform])
    grid = found.values[0, found.mask[0]]
    rows = torch.linspace(0, len(grid), SEGMENTS + 1).long()
    segments = [grid[start : max(start + 1, end)].mean(0) for start, end in pairwise(rows.tolist())]
    inputs = encoder.extractor(waveform.numpy(), sampling_rate=encoder.sampling_rate, return_tensors="pt")
    mel = inputs.input_features[0]
    heard = mel[:, : max(2, len(waveform) * mel.shape[1] // (encoder.sampling_rate * encoder.extractor.chunk_length))]
    return Described(example, split, torch.cat(segments), torch.cat([heard.mean(1), heard.std(1)]))


def accuracies(clips: Sequence[Described], inputs: Callable[[Described], Tensor]) -> dict[tuple[str, str], float]:
    """Accuracy by type of question and split, of a softmax regression fitted to each type's training clips.

    ``argmin over W, b of mean cross-entropy + PENALTY * sum W^2``, inputs normalized by the training clips; only a
    question's own answers compete.

    Args:
        clips: of all splits.
        inputs: what is classified.
    """
    found = {}
    for kind in sorted({clip.example.kind.removesuffix(NEW_SPEAKER) for clip in clips}):
        of_kind = [clip for clip in clips if clip.example.kind.removesuffix(NEW_SPEAKER) == kind]
        for group, right in _classify(of_kind, inputs).items():
            found[group] = sum(right) / len(right)
    return found


def _classify(clips: Sequence[Described], inputs: Callable[[Described], Tensor]) -> dict[tuple[str, str], list[bool]]:
    answers = sorted({(clip.example.question, clip.example.answers[0]) for clip in clips})
    places = {answer: number for number, answer in enumerate(answers)}
    target = torch.tensor([places[clip.example.question, clip.example.answers[0]] for clip in clips])
    allowed = torch.tensor([[question == clip.example.question for question, _ in answers] for clip in clips])
    train = torch.tensor([clip.split == TRAIN for clip in clips])
    x = torch.stack([inputs(clip) for clip in clips])
    x = (x - x[train].mean(0)) / (x[train].std(0) + 1e-5)
    logits = _fit(x, target, allowed, train)
    right = defaultdict(list)
    for clip, is_right in zip(clips, (logits.argmax(1) == target).tolist(), strict=True):
        right[clip.example.kind, clip.split].append(is_right)
    return right


def _fit(x: Tensor, target: Tensor, allowed: Tensor, train: Tensor) -> Tensor:
    weight = torch.zeros(x.shape[1], allowed.shape[1], requires_grad=True)
    bias = torch.zeros(allowed.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=150, line_search_fn="strong_wolfe")

    def logits() -> Tensor:
        return (x @ weight + bias).masked_fill(~allowed, -1e4)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(logits()[train], target[train]) + PENALTY * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return logits().detach()


@one_line_errors
def main() -> None:
    """Prints a table."""
    quiet_libraries()
    seconds = REAL.defaults["model.audio_seconds"]
    encoder, root = load_audio_encoder(str(audio_encoder_folder()), seconds=seconds), data_folder()
    clips = [describe(encoder, e, split) for split in (TRAIN, *TESTS) for e in AVQA().examples(root, split)]
    by_input = {
        "encoder": accuracies(clips, lambda clip: clip.features),
        "spectrum": accuracies(clips, lambda clip: clip.spectrum),
    }
    print(f"| type, split | clips | {' | '.join(by_input)} |\n|---|---|---|---|")
    for kind, split in by_input["encoder"]:
        if split != TRAIN:
            count = sum((clip.example.kind, clip.split) == (kind, split) for clip in clips)
            cells = " | ".join(f"{100 * found[kind, split]:.1f} %" for found in by_input.values())
            print(f"| {kind}, {split} | {count} | {cells} |")


if __name__ == "__main__":
    main()
