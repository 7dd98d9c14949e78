"""The retention examples: their order, their labels, and that each is read before the training."""

import pytest
import torch

from safe_train.errors import InputError
from safe_train.finetuning.chats import ChatCollator
from safe_train.finetuning.rows import RetentionBatch, RetentionExamples
from tests.finetuning.tiny_text import (
    collate,
)
from tests.model.families.building import tokenizer_with


def test_every_row_of_text_is_read_before_the_training(tmp_path):
    tokenizer = tokenizer_with()
    rows_of_text = [{"prompt": "a", "completion": "b"}] * 5 + [{"prompt": "a", "completion": None}]
    with pytest.raises(InputError, match="retention examples, row 5: expected what the trainer's collator takes"):
        RetentionExamples(
            rows_of_text, ChatCollator(tokenizer), batch_size=1, seed=0, device=torch.device("cpu")
        ).require_readable()


def test_every_protected_row_comes_once_before_any_comes_again():
    data = [{"input_ids": [3, 4 + index], "labels": [3, 4 + index]} for index in range(10)]

    def batches(seed):
        stream = RetentionExamples(data, collate, batch_size=4, seed=seed, device=torch.device("cpu"))
        return [batch.labels.tolist() for batch in stream.coming(0, 20)]

    order = [label for labels in batches(0) for label in labels]
    assert sorted(order[:10]) == sorted(order[10:20]) == list(range(4, 14))
    assert order[:10] != order[10:20]
    assert batches(0) == batches(0) != batches(1)
    stream = RetentionExamples(data, collate, batch_size=4, seed=0, device=torch.device("cpu"))
    assert stream.batch(3).labels.tolist() == batches(0)[3]  # a function of the number alone


def test_the_position_before_a_label_predicts_it():
    collated = {"input_ids": torch.tensor([[5, 6, 7], [8, 9, 0]]), "labels": torch.tensor([[-100, 6, 7], [8, 9, -100]])}
    batch = RetentionBatch.of(collated, torch.device("cpu"))
    found = list(zip(batch.rows.tolist(), batch.positions.tolist(), batch.labels.tolist(), strict=True))
    assert found == [(0, 0, 6), (0, 1, 7), (1, 0, 9)]
