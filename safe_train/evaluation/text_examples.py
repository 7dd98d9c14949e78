"""Text-only examples: questions without an image, which are answered, and documents, whose tokens are scored."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from safe_train.data.example import Example
from safe_train.evaluation.predictions import Answer, Prediction
from safe_train.model.base import OutputHead
from safe_train.model.batch import Batch

_CHUNK = 2**24  # logits at a time, 64 MB in float32: a hundred texts under a large vocabulary take tens of gigabytes


def answer_by_form(
    examples: Sequence[Example], questions: Answer, documents: Answer, *, collective_forward: bool
) -> Answer:
    """Answers batches that hold both forms, each by its own function, in the order of the batch.

    Where processes run the same forward passes, a batch without an example of one form puts the first of all examples
    of that form through its function, to no purpose but that.

    Args:
        examples: all text-only examples.
        questions: returns the predictions of questions.
        documents: returns those of documents.
        collective_forward: whether processes run the same forward passes.
    """

    def answer(batch: Sequence[Example]) -> list[Prediction]:
        found: dict[str, Prediction] = {}
        for function, is_document in ((questions, False), (documents, True)):
            chosen, first = _of_form(batch, is_document), _of_form(examples, is_document)[:1]
            if chosen:
                found |= {prediction.row_id: prediction for prediction in function(chosen)}
            elif collective_forward and first:
                function(first)
        return [found[example.row_id] for example in batch]

    return answer


def _of_form(examples: Sequence[Example], is_document: bool) -> list[Example]:
    return [example for example in examples if example.is_document == is_document]


def num_bytes(example: Example) -> int:
    """Length in UTF-8 of a document's text."""
    return len(example.answers[0].encode())


def bits_by_row(head: OutputHead, hidden: Tensor, batch: Batch) -> list[float]:
    """``-sum log2 p(token | tokens before)`` of each example's labels, by teacher forcing.

    The logits of some tokens exist at a time, never those of all.

    Args:
        head: the base's output head, of V classes.
        hidden: [N, H], the states that predict the labels.
        batch: the N labels and the examples that they are of.
    """
    losses = []
    size = max(1, _CHUNK // head.weight.shape[0])
    for states, labels in zip(hidden.split(size), batch.labels.split(size), strict=True):
        logits = head(states)
        losses.append(logits.logsumexp(dim=1).double() - logits.gather(1, labels[:, None])[:, 0].double())
    sums = torch.zeros(batch.num_rows, dtype=torch.float64, device=hidden.device)
    sums.index_add_(0, batch.token_rows, torch.cat(losses))
    return (sums / math.log(2.0)).tolist()


def hash_states(head: OutputHead, hidden: Tensor, mask: Tensor) -> list[str]:
    """SHA-256 of each example's logits at the tokens that it has, some tokens at a time.

    Args:
        head: the base's output head, of V classes.
        hidden: [B, T, H], the states that it reads.
        mask: [B, T], 1 where an example has a token.
    """
    size = max(1, _CHUNK // head.weight.shape[0])
    found = []
    for states, present in zip(hidden, mask.bool(), strict=True):
        digest = hashlib.sha256()
        for part in states[present].split(size):
            digest.update(head(part).cpu().contiguous().view(torch.uint8).numpy().data)
        found.append(digest.hexdigest())
    return found
