"""Where an answer ends, by the tokens that end one."""

import sys

import pytest
import torch

from safe_train.evaluation.base_answers import ends, find_ended

GENERATED = torch.tensor([[5, 2, 0], [5, 6, 7], [5, 9, 0]])


@pytest.fixture
def stopping(monkeypatch):
    def by(*tokens):
        monkeypatch.setattr(sys.modules[find_ended.__module__], "stop_tokens", lambda _base: list(tokens))

    return by


@pytest.mark.parametrize(
    ("tokens", "ended"), [((2,), [True, False, False]), ((2, 9), [True, False, True]), ((), [False, False, False])]
)
def test_an_answer_ends_with_any_of_the_tokens_that_end_one(stopping, embedded_base, tokens, ended):
    stopping(*tokens)
    assert find_ended(GENERATED, embedded_base).tolist() == ended
    assert ends(GENERATED, embedded_base, max_new_tokens=3) == ended


def test_an_answer_ends_where_generation_stopped_before_the_longest_length(stopping, embedded_base):
    stopping()
    assert ends(GENERATED, embedded_base, max_new_tokens=4) == [True, True, True]
