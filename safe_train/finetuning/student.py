"""The model that is trained, as the retention mechanisms see it, and its teacher."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora.layer import ParamWrapper
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers.modeling_layers import GradientCheckpointingLayer

from safe_train.errors import InputError
from safe_train.finetuning.rows import RetentionBatch
from safe_train.model.activation_checkpointing import checkpointed
from safe_train.model.base import Base, OutputHead
from safe_train.retention import AnswerStates

_SAME = (
    1e-3  # of hidden states; an adapter that has been trained moves them by percents, bfloat16 rounds by 0.4 % at most
)
_HEAD_TOLERANCE = 0.02  # a forgotten scale, cap or bias moves logits by several percent; bfloat16 rounds by 0.4 %


class RetentionLanguageModel:
    """A :class:`~safe_train.retention.RetentionModel` over a text or image-text model that is being trained.

    Student and teacher run in evaluation mode, so that no dropout lies between them. The teacher is the model as it was
    given, by a frozen copy of what is trained; of trained prompts, and of a sharded base, it is the model with its
    adapter switched off.
    """

    def __init__(self, model: nn.Module, teacher: nn.Module | None, sample: RetentionBatch) -> None:
        """Takes the trained model, the frozen one if it is another, and rows on which its head is tried.

        Raises:
            InputError: its logits are not a linear map of its last hidden states, or the output head is trained.
        """
        require_frozen_head(model)
        self.model = model
        base = _as_base(model)
        self._is_sharded = is_sharded(model)
        takes_fewer = "logits_to_keep" in inspect.signature(base.model.forward).parameters
        self._options = (
            {"use_cache": False} | ({"logits_to_keep": 1} if takes_fewer else {}) if self._is_sharded else {}
        )
        with evaluating(model):
            self._student, self.head = _with_head_found(base, model if self._is_sharded else base.model, sample)
        self._teacher = self._student if teacher is None else _as_base(teacher)

    def student(self, batch: RetentionBatch) -> AnswerStates:
        """Hidden states that predict the labeled tokens."""
        with evaluating(self.model), _recomputing(self.model):
            hidden = self._hidden_states(batch)
        return AnswerStates(hidden[batch.rows, batch.positions], batch.labels, batch.rows)

    @torch.no_grad()
    def teacher(self, batch: RetentionBatch) -> Tensor:
        """Those of the model before the training."""
        is_same = self._teacher is self._student
        with (
            evaluating(self.model),
            self.model.disable_adapter() if is_same and isinstance(self.model, PeftModel) else nullcontext(),
        ):
            inputs = self._teacher.ready(batch.inputs)
            hidden = self._through_all(inputs) if self._is_sharded else self._teacher.last_hidden_state(**inputs)
        return hidden[batch.rows, batch.positions]

    @torch.no_grad()
    def keeps_rows(self, linears: dict[str, nn.Linear], batch: RetentionBatch) -> bool:
        """Whether the inputs of these layers have a batch's rows along their leading axis.

        Those of a vision tower have images, tiles or patches there, those of an expert the tokens that come to it.
        """
        inside = {id(module) for module in self._student.model.get_decoder().modules()}
        if not all(id(module) in inside for module in linears.values()):
            return False
        leading: set[int] = set()
        handles = [
            module.register_forward_pre_hook(lambda _module, inputs: leading.add(inputs[0].shape[0]))
            for module in linears.values()
        ]
        try:
            with evaluating(self.model):
                self._hidden_states(batch)
        finally:
            for handle in handles:
                handle.remove()
        return leading <= {batch.num_rows}

    def _hidden_states(self, batch: RetentionBatch) -> Tensor:
        """Of the trained model [B, T, H]; trained prompts stand before the rows, and are put there by PEFT alone."""
        inputs = self._student.ready(batch.inputs)
        if not (self._is_sharded or learns_prompts(self.model)):
            return self._student.last_hidden_state(**inputs)
        return self._through_all(inputs)[:, -inputs["input_ids"].shape[1] :]

    def _through_all(self, inputs: dict[str, Tensor]) -> Tensor:
        """Last hidden states by the forward pass of the whole model, which alone gathers what is sharded."""
        with _last_hidden_states(self._student.model.get_decoder()) as found:
            self.model(**inputs, **self._options)
        return found[-1]


def is_sharded(model: nn.Module) -> bool:
    """Whether every process holds a part of the model's weights alone."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def learns_prompts(model: nn.Module) -> bool:
    """Whether what is trained are prompts (prompt tuning, P-tuning, prefix tuning) and no layers."""
    return isinstance(model, PeftModel) and model.peft_config[str(model.active_adapter)].is_prompt_learning


def frozen_copy(model: nn.Module) -> nn.Module:
    """The model as it is, in evaluation mode; what is not trained takes no memory again."""
    shared = {id(p): p for p in model.parameters() if not p.requires_grad}
    return copy.deepcopy(model, shared).requires_grad_(False).eval()


@torch.no_grad()
def is_itself_without_adapter(model: nn.Module, sample: RetentionBatch) -> bool:
    """Whether the model as it is can be had by switching its adapter off, now and later.

    It cannot where the adapter has been trained before, or begins by changing the weights below it (PiSSA, OLoRA,
    CorDA, LoftQ), or where weights are trained beside it.
    """
    if not isinstance(model, PeftModel) or learns_prompts(model):
        return False
    switched = (str(model.base_model.prefix), "modules_to_save")
    trained = (name for name, parameter in model.named_parameters() if parameter.requires_grad)
    if not all(any(word in name for word in switched) for name in trained):
        return False
    base = _as_base(model)
    inputs = base.ready(sample.inputs)
    with evaluating(model):
        as_it_is = base.last_hidden_state(**inputs)
        with model.disable_adapter():
            without = base.last_hidden_state(**inputs)
    return bool((as_it_is - without).norm() <= _SAME * without.norm())


def require_decoder(model: nn.Module) -> None:
    """The retention mechanisms read one decoder's hidden states on one device, and the head behind it.

    Raises:
        InputError: there is no head, an encoder before the decoder, or the layers are on several devices.
    """
    base = _as_base(model).model
    hint = "load it by AutoModelForCausalLM or AutoModelForImageTextToText"
    if base.get_output_embeddings() is None:
        raise InputError("model", "a language model with an output head", type(base).__name__, hint)
    if base.config.is_encoder_decoder:
        raise InputError("model", "a language model without an encoder of text", type(base).__name__, hint)
    devices = sorted({str(device) for device in getattr(base, "hf_device_map", {}).values()})
    if len(devices) > 1:
        where = "load it without device_map, and start one process a GPU, by torchrun"
        raise InputError("model", "all layers on one device", ", ".join(devices), where)


def require_frozen_head(model: nn.Module) -> None:
    """The retention mechanisms compare hidden states and put one head on the student's and the teacher's.

    Raises:
        InputError: the head is trained, itself or by an adapter on it; or as :func:`require_decoder`.
    """
    require_decoder(model)
    base = _as_base(model).model
    head, inside = base.get_output_embeddings(), {id(p) for p in base.base_model.parameters()}
    of_head = {id(p) for p in head.parameters()}
    for name, parameter in base.named_parameters(remove_duplicate=False):
        if parameter.requires_grad and (id(parameter) in of_head or id(parameter) not in inside):
            hint = "leave the output head out of target_modules and modules_to_save"
            if not isinstance(model, PeftModel):
                hint = "freeze it with model.get_output_embeddings().requires_grad_(False), or train an adapter"
            expected = "a frozen one, since student and teacher share it"
            raise InputError("output head", expected, f"a trained {name}", hint)


def trained_linears(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers whose weights are trained, by name; of many adapters of PEFT there are none.

    LoRA on parameters that are no layer's, such as those of fused experts, has linear layers that are never called.
    """
    uncalled = [f"{name}.lora_" for name, module in model.named_modules() if isinstance(module, ParamWrapper)]
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.weight.requires_grad and not name.startswith(tuple(uncalled))
    }


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for the block; behind it, every module is in the mode in which it was."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, was_training in modes:
            module.training = was_training


@contextmanager
def _recomputing(model: nn.Module) -> Iterator[None]:
    """Gradient checkpointing in evaluation mode, where the model's own, which is switched on, does nothing."""
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer) and m.gradient_checkpointing]
    with ExitStack() as stack:
        if layers:
            stack.enter_context(checkpointed(layers, lambda: evaluating(model)))
        yield


def _as_base(model: nn.Module) -> Base:
    """The language model itself, without the PEFT model around it."""
    found: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    return Base(found, None, found.config.name_or_path or type(found).__name__)


@contextmanager
def _last_hidden_states(decoder: nn.Module) -> Iterator[list[Tensor]]:
    """Those that the decoder returns inside the block, a pass after the other."""
    found: list[Tensor] = []
    handle = decoder.register_forward_hook(lambda _module, _inputs, output: found.append(output.last_hidden_state))
    try:
        yield found
    finally:
        handle.remove()


@torch.no_grad()
def _with_head_found(base: Base, whole: Any, sample: RetentionBatch) -> tuple[Base, OutputHead]:
    """The base with the head that gives its model's logits, with a configured cap on them or without; and that head.

    Of a sharded model, the head is gathered, in the precision of the hidden states.
    """
    with _last_hidden_states(base.model.get_decoder()) as found:
        logits = whole(**base.ready(sample.inputs), use_cache=False).logits.float()
    hidden = found[-1]
    for caps_logits in (True, False):
        capped = replace(base, caps_logits=caps_logits)
        head = capped.head
        if isinstance(head.weight, DTensor):
            weight, bias = (None if p is None else _gathered(p).to(hidden.dtype) for p in (head.weight, head.bias))
            assert weight is not None
            head = replace(head, weight=weight, bias=bias)
        if (head(hidden) - logits).norm() <= _HEAD_TOLERANCE * logits.norm():
            return capped, head
    got = f"other logits in {type(base.model).__name__}"
    raise InputError(base.source, "logits that are softcap(h W + b) of the last hidden states h", got, "choose another")


def _gathered(parameter: Tensor) -> Tensor:
    return parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
