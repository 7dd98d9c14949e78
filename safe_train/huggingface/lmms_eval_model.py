"""SAFE as a model of lmms-eval 0.7: any of its benchmarks, with or without a clip that has nothing to do with it.

Only lmms-eval imports this module. Its requests are ``(context, gen_kwargs, doc_to_visual, doc_id, task, split)`` for
simple models and ``(context, doc_to_messages, gen_kwargs, doc_id, task, split)`` for chat models, which are never given
multiple choice.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lmms_eval.api.model import lmms  # type: ignore[import-not-found]

from safe_train.audio.formats import AUDIO_SUFFIXES
from safe_train.errors import InputError
from safe_train.huggingface.modeling import SafeForConditionalGeneration
from safe_train.model.generation import greedy

Messages = list[dict[str, Any]]

_DEFAULT_NEW_TOKENS = 256


class SafeSimple(lmms):
    """A model of lmms-eval that generates and scores answers, for tasks that give a text and visuals.

    ``python -m lmms_eval --model safe --model_args pretrained=FOLDER,distractor=clip.wav --force_simple --tasks ...``

    Attributes:
        model: SAFE.
        processor: its processor.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str,
        device: str = "cuda" if torch.cuda.is_available() else "cpu",
        dtype: str = "auto",
        batch_size: int | str = 1,
        distractor: str | None = None,
        gate: float | str = 1.0,
        max_batch_size: int | None = None,
    ) -> None:
        """Loads an adapter with its base.

        Args:
            pretrained: folder or hub id of the adapter.
            device: where it runs.
            dtype: precision of base and encoders, such as ``bfloat16``; ``auto`` is the adapter's own.
            batch_size: requests a batch of generation.
            distractor: a clip that plays during every request without audio of its own.
            gate: scalar in [0, 1] on the fusion; 0 measures the base.
            max_batch_size: for automatic batch sizes, of which there are none.

        Raises:
            InputError: something cannot be loaded, or the batch size is no number.
        """
        super().__init__()
        if not str(batch_size).isdigit():
            raise InputError("batch_size", "a number", str(batch_size), "choose one, such as 8")
        if distractor is not None and not Path(distractor).is_file():
            raise InputError("distractor", "an audio file", distractor, "correct the path")
        self.model = SafeForConditionalGeneration.from_pretrained(pretrained, dtype=dtype, device_map=device)
        self.model.safe_model.gate = float(gate)
        self.processor = self.model.processor
        self.batch_size, self.distractor = int(batch_size), distractor

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Answers, each cut before the first of its stop strings; those of one setting are generated in batches."""
        answers: dict[int, str] = {}
        for indices, settings in self._batches(requests):
            chats = [self._messages(requests[index]) for index in indices]
            options, stops = generation_options(settings)
            for index, answer in zip(indices, self._generate(chats, options), strict=True):
                answers[index] = cut(answer, stops)
                self.cache_hook.add_partial("generate_until", (requests[index].args[0], settings), answers[index])
        return [answers[index] for index in range(len(requests))]

    @torch.no_grad()
    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """For each request the mean of ``-log p`` over the answer's tokens, and whether greedy decoding gives it.

        lmms-eval chooses the option with the *lowest* first value, as its own models return their loss.
        """
        results = []
        for request in requests:
            context, target, doc_to_visual, doc_id, task, split = request.args
            doc = self.task_dict[task][split][doc_id]
            answer = target if isinstance(target, str) else target(doc)
            prompt = self._heard(user_turn(context, doc_to_visual(doc)))
            results.append(self._score(prompt, answer))
        return results

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Not supported: the rounds of a task may each bring a clip, and SAFE attends to one."""
        raise NotImplementedError("safe: expected tasks of one round, got one of several")

    def _settings(self, request: Any) -> dict[str, Any]:
        return request.args[1]

    def _messages(self, request: Any) -> Messages:
        context, _, doc_to_visual, doc_id, task, split = request.args
        return self._heard(user_turn(context, doc_to_visual(self.task_dict[task][split][doc_id])))

    def _batches(self, requests: Sequence[Any]) -> Iterator[tuple[list[int], dict[str, Any]]]:
        by_settings: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            by_settings.setdefault(json.dumps(self._settings(request), sort_keys=True, default=str), []).append(index)
        for indices in by_settings.values():
            for start in range(0, len(indices), self.batch_size):
                batch = indices[start : start + self.batch_size]
                yield batch, self._settings(requests[batch[0]])

    def _heard(self, messages: Messages) -> Messages:
        """The messages with the distractor, if they have no clip of their own."""
        parts = [part for message in messages if isinstance(message["content"], list) for part in message["content"]]
        if self.distractor is None or any(part["type"] == "audio" for part in parts):
            return messages
        first = messages[0]
        content = (
            [{"type": "text", "text": first["content"]}] if isinstance(first["content"], str) else first["content"]
        )
        return [first | {"content": [{"type": "audio", "audio": self.distractor}, *content]}, *messages[1:]]

    def _generate(self, chats: list[Messages], options: dict[str, Any]) -> list[str]:
        inputs = self.processor.apply_chat_template(
            chats, add_generation_prompt=True, tokenize=True, return_dict=True
        ).to(self.device)
        with greedy(self.model.safe_model.base):  # a task's settings alone change that
            generated = self.model.generate(**inputs, **options)[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in self.processor.batch_decode(generated, skip_special_tokens=True)]

    def _score(self, prompt: Messages, answer: str) -> tuple[float, bool]:
        """Mean negative log-likelihood of the tokens that an answer adds to its prompt, and whether each is the top."""
        said = {"role": "assistant", "content": [{"type": "text", "text": answer.strip()}]}
        options: dict[str, Any] = {"tokenize": True, "return_dict": True}
        length = self.processor.apply_chat_template(prompt, add_generation_prompt=True, **options)["input_ids"].shape[1]
        inputs = self.processor.apply_chat_template([*prompt, said], **options).to(self.device)
        logits = self.model(**inputs).logits[0, length - 1 : -1].float()
        labels = inputs["input_ids"][0, length:]
        return F.cross_entropy(logits, labels).item(), bool((logits.argmax(dim=-1) == labels).all())


class SafeChat(SafeSimple):
    """The same model for tasks that give messages; multiple choice needs ``--force_simple``."""

    is_simple = False

    def _settings(self, request: Any) -> dict[str, Any]:
        return request.args[2]

    def _messages(self, request: Any) -> Messages:
        _, doc_to_messages, _, doc_id, task, split = request.args
        messages = doc_to_messages(self.task_dict[task][split][doc_id])
        return self._heard([_with_content(message) for message in messages])


def user_turn(text: str, visuals: Sequence[Any] | None) -> Messages:
    """A turn with images and clips, in their order, ahead of the text."""
    return [
        {"role": "user", "content": [*(part_of(visual) for visual in visuals or ()), {"type": "text", "text": text}]}
    ]


def part_of(visual: Any) -> dict[str, Any]:
    """A clip or image as content: arrays with a rate, decoders and audio files are clips."""
    is_clip = (
        (isinstance(visual, Mapping) and "array" in visual)
        or hasattr(visual, "get_all_samples")
        or (isinstance(visual, (str, Path)) and Path(visual).suffix.lower() in AUDIO_SUFFIXES)
    )
    kind = "audio" if is_clip else "image"
    return {"type": kind, kind: visual}


def _with_content(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message whose clips are called so: lmms-eval calls what is no image a video, the arrays of clips included."""
    content = message["content"]
    if isinstance(content, str):
        return dict(message)
    parts = [part_of(part["url"]) if part["type"] == "video" else part for part in content]
    return dict(message) | {"content": parts}


def generation_options(settings: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A task's generation settings as options of ``generate``, and its stop strings; greedy at temperature 0."""
    temperature = settings.get("temperature") or 0.0
    options: dict[str, Any] = {
        "max_new_tokens": settings.get("max_new_tokens", _DEFAULT_NEW_TOKENS),
        "num_beams": settings.get("num_beams") or 1,
        "do_sample": temperature > 0,
    }
    if temperature > 0:
        options |= {"temperature": temperature, "top_p": settings.get("top_p") or 1.0}
    until = settings.get("until") or []
    return options, [until] if isinstance(until, str) else list(until)


def cut(answer: str, stops: Sequence[str]) -> str:
    """The answer up to the first stop string in it."""
    return min((answer.split(stop)[0] for stop in stops if stop), key=len, default=answer).strip()
