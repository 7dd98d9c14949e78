"""A trial at loading: runs one question with an image and one without through processor, base and generation.

A folder consists of many files, and a mismatch would show only in the first batch: a template that fails, an image
with a different number of tokens than the base expects, a token id beyond the embedding.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from PIL import Image

from safe_train.errors import InputError
from safe_train.model import render_once
from safe_train.model.base import Base
from safe_train.model.folders import as_input_error
from safe_train.model.generation import generate_greedily
from safe_train.model.prompting import Turn, messages_of, prompts_of

_LARGEST_EDGE = 8192  # pixels; larger ones than any processor resizes to take the memory of a machine

_TURNS = (Turn("what is it?", 1, "a dog"), Turn("what?", answer="no"))
_LIMITS = {"seconds": 5, "bytes": 2**30, "characters": 1_000_000}  # a template takes milliseconds

_ASKED_TO_STOP = frozenset({-signal.SIGINT, -signal.SIGTERM, -signal.SIGHUP})
"""Return codes of a process that was asked to stop, as Ctrl-C and a scheduler ask all processes of a job."""

_HINT = "copy the model's folder again, with the processor and chat template of that model"


def complete_processor(processor: Any, config: Any) -> None:
    """Fills in what processors of older folders lack and newer code requires, from the model's configuration.

    Those of LLaVA did not name the size of a patch, the features that are selected, or the class token of CLIP.
    A tokenizer without a padding token pads with its end token; padding is masked in any case.
    """
    vision = getattr(config, "vision_config", None)
    for name, value in (
        ("patch_size", getattr(vision, "patch_size", None)),
        ("vision_feature_select_strategy", getattr(config, "vision_feature_select_strategy", None)),
    ):
        if hasattr(processor, name) and getattr(processor, name) is None:
            setattr(processor, name, value)
    if hasattr(processor, "num_additional_image_tokens") and getattr(vision, "model_type", "") == "clip_vision_model":
        processor.num_additional_image_tokens = 1
    if processor.tokenizer.pad_token is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token


def check_image_size(processor: Any, folder: str) -> None:
    """Refuses a processor that would make images of more pixels than a machine holds.

    Raises:
        InputError: an edge is longer than 8192 pixels.
    """
    images = processor.image_processor
    areas = hasattr(images, "merge_size")  # Qwen's edges are numbers of pixels
    for where in ("size", "crop_size"):
        size = dict(getattr(images, where, None) or {})
        edges = {name: value for name, value in size.items() if name in ("height", "width") or not areas}
        for name, value in edges.items():
            if isinstance(value, int) and value > _LARGEST_EDGE:
                expected = f"an image processor with {where}.{name} of at most {_LARGEST_EDGE} pixels"
                raise InputError(folder, expected, str(value), _HINT)


def check_template(processor: Any, folder: str) -> None:
    """Refuses a chat template that would render a question for hours, or into the memory of a machine.

    A template is a program of whoever wrote the folder, and its sandbox does not keep it from going on. So it is
    rendered in a process of its own first, whose time and memory the kernel limits. One that goes on for other
    questions alone is not found out.

    Raises:
        InputError: it comes to no end within 5 s and 1 GiB, or writes more than a million characters.
    """
    template = getattr(processor, "chat_template", None)
    if isinstance(template, Mapping):
        template = template.get("default")
    if not isinstance(template, str):
        return  # whatever else is the matter with it, the trial tells it
    calls = [
        {"conversations": [messages], "add_generation_prompt": len(messages) == 1}
        | {name: token for name, token in processor.tokenizer.special_tokens_map.items() if isinstance(token, str)}
        for turn in _TURNS
        for messages in (messages_of(turn)[:1], messages_of(turn))
    ]
    if not _renders(json.dumps({"template": template, "calls": calls} | _LIMITS)):
        expected = f"a chat template that comes to an end within {_LIMITS['seconds']} s"
        got = "one that goes on, or writes without end"
        raise InputError(folder, expected, got, "choose another model; this template may be meant to do harm")


@cache
def _renders(request: str) -> bool:
    """Whether a template keeps to its limits, or fails in another way.

    A signal that asks the whole job to stop ends that process too and says nothing of the template, so it is rendered
    again; our own process has its own way to stop.
    """
    code = _render(request)
    while code in _ASKED_TO_STOP:
        code = _render(request)
    return code >= 0 and code != render_once.OVER_LIMIT


def _render(request: str) -> int:
    command = [sys.executable, "-P", render_once.__file__]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True
    ) as process:
        process.communicate(request)
    return process.returncode


@torch.no_grad()
def try_rows(base: Base, folder: str) -> None:
    """Runs a question with an image and one without through every step that an example takes.

    Raises:
        InputError: something in the folder does not fit.
    """
    with as_input_error(folder, "a model, a processor and a chat template that fit together", _HINT):
        prompts = prompts_of(base.processor)
        images = [[Image.new("RGB", (64, 48), (200, 80, 40))], []]
        answered = prompts.encode(_TURNS, images, "right")
        _require_known_tokens(base, answered["input_ids"], folder)
        hidden = base.last_hidden_state(**base.ready(answered))
        length = answered["input_ids"].shape[1]
        if hidden.shape[1] != length:  # the positions of answers are those of their tokens
            raise InputError(folder, f"a hidden state for each of {length} tokens", str(hidden.shape[1]), _HINT)
        waiting = prompts.encode([replace(turn, answer=None) for turn in _TURNS], images, "left")
        generate_greedily(base, base.ready(waiting), 2)


def _require_known_tokens(base: Base, ids: torch.Tensor, folder: str) -> None:
    known = base.model.get_input_embeddings().weight.shape[0]
    if int(ids.max()) >= known:
        raise InputError(folder, f"tokens below {known}, as the embedding has", str(int(ids.max())), _HINT)
