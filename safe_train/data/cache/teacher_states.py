"""A cache of the teacher's hidden states of retention examples: the base is frozen, so they never change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache, cached_property

import torch
from torch import Tensor

from safe_train.data.cache.tensor_store import TensorStore, computing_device
from safe_train.data.collator import Collator
from safe_train.data.example import Example
from safe_train.io.fingerprints import json_sha256, tensors_sha256, versions
from safe_train.model.batch import Batch
from safe_train.model.safe_model import SafeModel

_LAYOUT = 1  # to be raised when an example is prepared in another way, or its states are stored in another


class TeacherCache:
    """Hidden states [N, H] of the bypass at the answer positions of examples, computed once per example.

    An example is computed in a batch of one, without padding: in a larger batch its last bits depend on the other
    examples, and a resumed run would differ from an uninterrupted one. The states take ``N H`` numbers
    of the base's dtype per example: 40 kB for four answer tokens of 5,120 in bfloat16.
    """

    def __init__(self, model: SafeModel, encoder: Collator, store: TensorStore) -> None:
        self.model, self.encoder, self.store = model, encoder, store

    @torch.no_grad()
    def states(self, rows: Sequence[Example]) -> Tensor:
        """States [N, H] of the answer tokens that retention examples bring, in order, on the model's device."""
        whole = [(example, self._load_or_compute(example)) for example in rows]
        chosen = [states[list(self.encoder.retained_tokens(example, len(states)))] for example, states in whole]
        return torch.cat(chosen).to(self.model.base.model.device)

    def _load_or_compute(self, example: Example) -> Tensor:
        @cache
        def alone() -> Batch:
            return self.encoder.training_batch([replace(example, audio=None)])

        item = (example.is_document, example.image, example.question, example.answers[0])
        tensors = self.store.find(item, lambda: self._key(alone()))
        if tensors is None:
            tensors = self.store.add(item, lambda: self._key(alone()), {"hidden": self._compute(alone())})
        return tensors["hidden"]

    def _compute(self, batch: Batch) -> Tensor:
        hidden = self.model.last_hidden_state(batch.inputs, None)
        return hidden[batch.token_rows, batch.token_positions]

    def _key(self, batch: Batch) -> str:
        """Digest of the base and of what it is given: tokens and pixels from the processor, and answer positions."""
        inputs = batch.inputs | {"positions": batch.token_positions}
        return json_sha256([self._base_sha256, tensors_sha256(inputs.items())])

    @cached_property
    def _base_sha256(self) -> str:
        model = self.model.base.model
        return json_sha256(
            {
                "weights": tensors_sha256(model.state_dict().items()),
                "config": model.config.to_dict(),
                "attention": model.config._attn_implementation,
                "versions": versions() | {"layout": str(_LAYOUT)},
                "device": computing_device(model.device),
            }
        )
