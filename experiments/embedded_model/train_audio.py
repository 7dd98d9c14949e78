"""Trains the embedded CLAP audio tower to tell kind, pitch and count of procedural sounds apart."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import ClapAudioModelWithProjection, ClapFeatureExtractor

from safe_train.embedded.sounds import ALL_SOUNDS, KINDS, PITCHES, SAMPLE_RATE, synthesize

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AudioRecipe:
    """Sizes and rates of the recipe; the defaults are those of the weights in the package."""

    seed: int = 0
    num_clips: int = 3_000
    epochs: int = 14
    batch_size: int = 50
    lr: float = 2e-3


@dataclass(frozen=True)
class AudioClasses:
    """Share of clips named rightly, and of clips where all three are right; 0..1."""

    kind: float
    pitch: float
    count: float
    all_three: float


def make_clips(extractor: ClapFeatureExtractor, num_clips: int, seed: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Spectrograms [n, 1, frames, mels] and labels [n, 3] (kind, pitch, count - 1) of freshly synthesized clips."""
    rng = np.random.default_rng(seed)
    sounds = [ALL_SOUNDS[k] for k in rng.integers(len(ALL_SOUNDS), size=num_clips)]
    clips = [synthesize(sound, rng) for sound in sounds]
    features = extractor(clips, sampling_rate=SAMPLE_RATE, return_tensors="pt")["input_features"]
    labels = [(KINDS.index(sound.kind), PITCHES.index(sound.pitch), sound.count - 1) for sound in sounds]
    return features, torch.tensor(labels)


def train_audio(
    model: ClapAudioModelWithProjection, extractor: ClapFeatureExtractor, recipe: AudioRecipe
) -> AudioClasses:
    """Trains the tower in place with three throw-away heads; returns the accuracies on 600 held-out clips."""
    torch.manual_seed(recipe.seed)
    features, labels = make_clips(extractor, recipe.num_clips, (recipe.seed, 0))
    heads = nn.ModuleList(nn.Linear(model.config.projection_dim, classes) for classes in (len(KINDS), len(PITCHES), 3))
    parameters = [*model.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=0.01)
    steps = recipe.epochs * (recipe.num_clips // recipe.batch_size)
    step, loss = 0, torch.zeros(())
    for epoch in range(recipe.epochs):
        model.train()
        order = torch.randperm(recipe.num_clips, generator=torch.Generator().manual_seed(recipe.seed * 1000 + epoch))
        for batch in order.split(recipe.batch_size):
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr * min(1.0, (step + 1) / 30) * 0.5 * (1 + math.cos(math.pi * step / steps))
            embeds = model(input_features=features[batch]).audio_embeds
            losses = [F.cross_entropy(head(embeds), labels[batch, k]) for k, head in enumerate(heads)]
            loss = torch.stack(losses).sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            step += 1
        logger.info("audio epoch %d: loss %.4f", epoch + 1, loss.item())
    return _measure(model, heads, extractor, recipe.seed)


@torch.no_grad()
def _measure(
    model: ClapAudioModelWithProjection, heads: nn.ModuleList, extractor: ClapFeatureExtractor, seed: int
) -> AudioClasses:
    model.eval()
    features, labels = make_clips(extractor, 600, (seed, 1))
    embeds = model(input_features=features).audio_embeds
    right = torch.stack([head(embeds).argmax(-1) == labels[:, k] for k, head in enumerate(heads)], dim=1)
    kind, pitch, count = right.float().mean(0).tolist()
    return AudioClasses(kind, pitch, count, right.all(1).float().mean().item())
