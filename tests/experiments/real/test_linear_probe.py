"""The probe finds what is in the features, and nothing where there is nothing."""

import torch

from experiments.real.linear_probe import Described, accuracies
from safe_train.data.example import Example

ANSWERS = ("French", "Greek", "Danish")


def clips(split, count, kind="Audio Language", seed=0):
    """Clips whose features tell the answer, and whose spectrum is noise."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for number in range(count):
        answer = number % len(ANSWERS)
        features = torch.nn.functional.one_hot(torch.tensor(answer), 3) + 0.1 * torch.randn(3, generator=generator)
        example = Example(f"{split}{number}", "Which language is spoken?", (ANSWERS[answer],), kind=kind)
        found.append(Described(example, split, features, torch.randn(2, generator=generator)))
    return found


def test_what_the_features_tell_is_found_and_noise_is_chance():
    everything = [*clips("train", 60), *clips("val", 60, seed=1), *clips("val", 30, "Audio Language, new speaker", 2)]
    heard = accuracies(everything, lambda clip: clip.features)
    assert heard["Audio Language", "val"] == 1.0
    assert heard["Audio Language, new speaker", "val"] == 1.0  # by the classifier of the known ones
    noise = accuracies(everything, lambda clip: clip.spectrum)
    assert noise["Audio Language", "val"] < 0.6


def test_only_answers_of_the_question_compete():
    """With the same features, two questions have different answers: without the limit one of them is always wrong."""
    found = []
    for split in ("train", "val"):
        for question, answer in (("Which month is said?", "May"), ("Which letter is said?", "K")):
            example = Example(f"{split}{answer}", question, (answer,), kind="Audio Word")
            found.append(Described(example, split, torch.ones(2), torch.ones(2)))
    assert accuracies(found, lambda clip: clip.features)["Audio Word", "val"] == 1.0
