"""A small model with audio and retention examples, on which every mechanism can be checked against a closed form."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from safe_train.model.base import OutputHead
from safe_train.retention import AnswerStates

ROWS, TOKENS, WIDTH, HIDDEN, VOCABULARY = 6, 3, 5, 7, 11


@dataclass(frozen=True)
class ToyBatch:
    """``num_rows`` retention examples of ``TOKENS`` answer tokens: inputs [N, T, WIDTH] and labels [N * T]."""

    inputs: Tensor
    labels: Tensor

    @property
    def num_rows(self) -> int:
        return self.inputs.shape[0]


class ToyModel:
    """Two trained linear layers ahead of a frozen head; the teacher is a fixed function of the inputs."""

    def __init__(self, seed: int = 0, dtype: torch.dtype = torch.float32) -> None:
        torch.manual_seed(seed)
        self.first = nn.Linear(WIDTH, HIDDEN, bias=False, dtype=dtype)
        self.second = nn.Linear(HIDDEN, HIDDEN, bias=False, dtype=dtype)
        self.anchor = torch.randn(WIDTH, HIDDEN, dtype=dtype)
        self.head = OutputHead(torch.randn(VOCABULARY, HIDDEN, dtype=dtype), None, None)
        self.linears = {"first": self.first, "second": self.second}
        self.dtype = dtype

    def hidden(self, inputs: Tensor) -> Tensor:
        return inputs @ self.anchor + self.second(F.gelu(self.first(inputs)))

    def student(self, batch: ToyBatch) -> AnswerStates:
        rows = torch.arange(batch.num_rows).repeat_interleave(TOKENS)
        return AnswerStates(self.hidden(batch.inputs).flatten(0, 1), batch.labels, rows)

    @torch.no_grad()
    def teacher(self, batch: ToyBatch) -> Tensor:
        return (batch.inputs @ self.anchor).flatten(0, 1)

    def batch(self, seed: int, rows: int = ROWS) -> ToyBatch:
        generator = torch.Generator().manual_seed(seed)
        inputs = torch.randn(rows, TOKENS, WIDTH, generator=generator, dtype=self.dtype)
        return ToyBatch(inputs, torch.randint(VOCABULARY, (rows * TOKENS,), generator=generator))

    def batches(self, num_samples: int) -> Iterator[ToyBatch]:
        """The retention examples of a calibration."""
        for number in range(-(-num_samples // ROWS)):
            yield self.batch(1000 + number)

    def audio_loss(self, seed: int) -> Tensor:
        """A loss on other rows, whose gradient the retention examples are to be kept from."""
        batch = self.batch(2000 + seed)
        return F.cross_entropy(self.head(self.hidden(batch.inputs).flatten(0, 1)), batch.labels)

    def parameters(self) -> list[nn.Parameter]:
        return [self.first.weight, self.second.weight]


def per_row_gradients(model: ToyModel, batch: ToyBatch, labels: Tensor | None = None) -> dict[str, Tensor]:
    """Gradient of each row's summed negative log-likelihood by a plain loop over rows: [N, d_out, d_in] a layer."""
    targets = (batch.labels if labels is None else labels).view(batch.num_rows, TOKENS)
    gradients: dict[str, list[Tensor]] = {name: [] for name in model.linears}
    for inputs, target in zip(batch.inputs, targets, strict=True):
        loss = F.cross_entropy(model.head(model.hidden(inputs)), target, reduction="sum")
        found = torch.autograd.grad(loss, [module.weight for module in model.linears.values()])
        for name, gradient in zip(gradients, found, strict=True):
            gradients[name].append(gradient)
    return {name: torch.stack(rows) for name, rows in gradients.items()}
