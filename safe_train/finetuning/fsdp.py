"""Retention under FSDP2: the frozen weights are sharded, an adapter is whole in every process."""

from __future__ import annotations

import re
from typing import Any

from peft import PeftModel
from torch import nn

from safe_train.errors import InputError
from safe_train.finetuning.rows import RetentionBatch
from safe_train.finetuning.student import is_itself_without_adapter


def leave_trained_whole(plugin: Any, model: nn.Module, sample: RetentionBatch) -> None:
    """Tells Accelerate's FSDP to shard the frozen weights alone.

    The mechanisms compare, project and split weights, gradients and optimizer states of whole layers. An adapter is
    small beside the base, so that little memory is lost.

    Args:
        plugin: Accelerate's ``FullyShardedDataParallelPlugin``, before the model is prepared.
        model: before it is sharded.
        sample: retention examples, on which the model without its adapter is compared.

    Raises:
        InputError: version 1 of FSDP, a training of the whole model, or one whose teacher is not the model without its
            adapter and would be a copy that is not sharded.
    """
    hint = "train an adapter such as LoRA, or start one process a GPU with DDP"
    if plugin.fsdp_version != 2:
        raise InputError("FSDP", "version 2", f"version {plugin.fsdp_version}", "set fsdp_version to 2")
    if not isinstance(model, PeftModel):
        raise InputError("FSDP", "an adapter, which stays whole", "a training of the whole model", hint)
    if not is_itself_without_adapter(model, sample):
        expected, got = (
            "a fresh adapter, without which the model is as it was, and nothing trained beside it",
            "another",
        )
        raise InputError("FSDP", expected, got, "merge an adapter that was trained before, or start with DDP")
    ignored = plugin.ignored_modules or []
    if isinstance(ignored, str):
        ignored = [module for name, module in model.named_modules() if re.fullmatch(ignored, name)]
    trained = [module for module in model.modules() if any(p.requires_grad for p in module.parameters(recurse=False))]
    plugin.ignored_modules = [*ignored, *(module for module in trained if module not in ignored)]
