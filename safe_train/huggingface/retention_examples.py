"""A causal language model as the retention mechanisms see it, and the retention examples of a data set of token ids."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor, nn

from safe_train.errors import InputError
from safe_train.model.base import Base
from safe_train.model.folders import as_input_error
from safe_train.retention import AnswerStates
from safe_train.retention.mechanism import LogitHead

_IGNORED = -100  # label of a token on which no loss is taken, in transformers as in torch's cross-entropy
_HEAD_TOLERANCE = 0.02  # a forgotten scale, cap or bias moves logits by several percent; bfloat16 rounds by 0.4 %
_TOKENIZE = "tokenize them as the trained rows are: input_ids, and labels that are -100 where nothing is to be kept"
_ROWS = int.from_bytes(b"protected", "big")  # tells these random numbers from the others of a seed


class RowData(Protocol):
    """A data set of rows as a ``transformers.Trainer`` takes them."""

    def __len__(self) -> int:
        """Rows."""
        ...

    def __getitem__(self, index: int, /) -> Any:
        """One row."""
        ...


@dataclass(frozen=True)
class TextBatch:
    """Retention examples.

    Attributes:
        inputs: what the model takes, ``input_ids`` [B, T] among them.
        rows: int64 [N], the row of each labeled token.
        positions: int64 [N], the position whose hidden state predicts it.
        labels: int64 [N], the labeled tokens.
    """

    inputs: dict[str, Tensor]
    rows: Tensor
    positions: Tensor
    labels: Tensor

    @property
    def num_rows(self) -> int:
        """Rows in the batch."""
        return self.inputs["input_ids"].shape[0]

    @staticmethod
    def of(collated: Mapping[str, Any], device: torch.device) -> TextBatch:
        """A collated batch; position t predicts label t + 1, and labels of -100 do not count.

        Raises:
            ValueError: it has no labels, or none that counts.
        """
        if "labels" not in collated:
            got = ", ".join(collated)
            raise ValueError(f"retention examples: expected labels, got {got}; add them to the data set")
        inputs = {name: value.to(device) for name, value in collated.items() if isinstance(value, Tensor)}
        targets = inputs.pop("labels")[:, 1:]
        rows, positions = (targets != _IGNORED).nonzero(as_tuple=True)
        if not len(rows):
            raise ValueError("retention examples: expected labels other than -100 behind the first token, got none")
        return TextBatch(inputs, rows, positions, targets[rows, positions])


class RetentionExamples:
    """Batches of retention examples as a function of seed and number, so that a resumed run sees the same ones.

    Every row comes once before any comes again, in an order of its own each time.
    """

    def __init__(
        self,
        data: RowData,
        collate: Callable[[list[Any]], Mapping[str, Any]],
        *,
        batch_size: int,
        seed: int,
        device: torch.device,
    ) -> None:
        """Takes the rows, and puts the first together as a batch, which would fail the training later.

        Raises:
            InputError: they have no number, such as a stream's, or the collator takes no such rows.
            ValueError: there are none, or they have no labels.
        """
        if not hasattr(data, "__len__"):
            hint = "take a part of it as a list: list(itertools.islice(rows, 1000))"
            raise InputError("retention examples", "a data set with a length", type(data).__name__, hint)
        if not len(data):
            raise ValueError("retention examples: expected at least one, got none; without them nothing is retained")
        self.data, self.collate, self.batch_size = data, collate, batch_size
        self.seed, self.device = seed, device
        self._order: tuple[int, list[int]] = (-1, [])
        first = data[0]
        with as_input_error(
            "retention examples", "what the trainer's collator takes, as rows of the training data", _TOKENIZE
        ):
            collated = collate([first])
        TextBatch.of(collated, device)

    def batch(self, number: int) -> TextBatch:
        """Batch number so and so."""
        places = range(number * self.batch_size, (number + 1) * self.batch_size)
        return TextBatch.of(self.collate([self.data[self._index(place)] for place in places]), self.device)

    def coming(self, number: int, num_rows: int) -> Iterator[TextBatch]:
        """Batches from a number on, with at least ``num_rows`` rows in all."""
        for following in range(-(-num_rows // self.batch_size)):
            yield self.batch(number + following)

    def _index(self, place: int) -> int:
        epoch, within = divmod(place, len(self.data))
        if self._order[0] != epoch:
            order = np.random.default_rng([_ROWS, self.seed, epoch]).permutation(len(self.data))
            self._order = (epoch, order.tolist())
        return self._order[1][within]


class RetentionCausalLM:
    """A :class:`~safe_train.retention.RetentionModel` over a causal language model that is being trained.

    Student and teacher run in evaluation mode, so that no dropout lies between them. The teacher of a PEFT model is the
    same model with its adapter switched off; that of any other model is a frozen copy, which takes its memory again.
    """

    def __init__(self, model: nn.Module, teacher: nn.Module | None, sample: TextBatch) -> None:
        """Takes the trained model, the frozen one if it is another, and rows on which its head is tried.

        Raises:
            InputError: its logits are not a linear map of its last hidden states, or the output head is trained.
        """
        require_frozen_head(model)
        self.model = model
        with _evaluating(model):
            self._student = _with_head_found(_as_base(model), sample)
        self._teacher = self._student if teacher is None else _as_base(teacher)
        self.head: LogitHead = self._student.head

    def student(self, batch: TextBatch) -> AnswerStates:
        """Hidden states that predict the labeled tokens."""
        with _evaluating(self.model):
            hidden = self._hidden_states(batch)
        return AnswerStates(hidden[batch.rows, batch.positions], batch.labels, batch.rows)

    @torch.no_grad()
    def teacher(self, batch: TextBatch) -> Tensor:
        """Those of the model before the training."""
        adapter_off = self.model.disable_adapter() if isinstance(self.model, PeftModel) else nullcontext()
        with _evaluating(self.model), adapter_off:
            hidden = self._teacher.last_hidden_state(**batch.inputs)
        return hidden[batch.rows, batch.positions]

    def _hidden_states(self, batch: TextBatch) -> Tensor:
        """Of the trained model [B, T, H]; trained prompts stand before the rows, and are put there by PEFT alone."""
        if not learns_prompts(self.model):
            return self._student.last_hidden_state(**batch.inputs)
        found: list[Tensor] = []
        decoder = self._student.model.base_model
        handle = decoder.register_forward_hook(lambda _module, _inputs, output: found.append(output.last_hidden_state))
        try:
            self.model(**batch.inputs)
        finally:
            handle.remove()
        return found[-1][:, -batch.inputs["input_ids"].shape[1] :]


def learns_prompts(model: nn.Module) -> bool:
    """Whether what is trained are prompts (prompt tuning, P-tuning, prefix tuning) and no layers."""
    return isinstance(model, PeftModel) and model.peft_config[str(model.active_adapter)].is_prompt_learning


def require_frozen_head(model: nn.Module) -> None:
    """The retention mechanisms compare hidden states and put one head on the student's and the teacher's.

    Raises:
        InputError: the head is trained, itself or by an adapter on it; or there is none.
    """
    base = _as_base(model).model
    head, inside = base.get_output_embeddings(), {id(p) for p in base.base_model.parameters()}
    if head is None:
        expected = "a causal language model with an output head"
        raise InputError("model", expected, type(base).__name__, "load it by AutoModelForCausalLM")
    of_head = {id(p) for p in head.parameters()}
    for name, parameter in base.named_parameters(remove_duplicate=False):
        if parameter.requires_grad and (id(parameter) in of_head or id(parameter) not in inside):
            hint = "leave the output head out of target_modules and modules_to_save"
            if not isinstance(model, PeftModel):
                hint = "freeze it with model.get_output_embeddings().requires_grad_(False), or train an adapter"
            expected = "a frozen one, since student and teacher share it"
            raise InputError("output head", expected, f"a trained {name}", hint)


def trained_linears(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers whose weights are trained, by name; of many adapters of PEFT there are none."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.weight.requires_grad
    }


def _as_base(model: nn.Module) -> Base:
    """The causal language model itself, without the PEFT model around it."""
    found: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    return Base(found, None, found.config.name_or_path or type(found).__name__)


@torch.no_grad()
def _with_head_found(base: Base, sample: TextBatch) -> Base:
    """The base with the head that gives its model's logits, with a configured cap on them or without."""
    hidden = base.last_hidden_state(**sample.inputs)
    logits = base.model(**sample.inputs, use_cache=False).logits.float()
    for caps_logits in (True, False):
        found = replace(base, caps_logits=caps_logits)
        if (found.head(hidden) - logits).norm() <= _HEAD_TOLERANCE * logits.norm():
            return found
    got = f"other logits in {type(base.model).__name__}"
    raise InputError(base.source, "logits that are softcap(h W + b) of the last hidden states h", got, "choose another")


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
