"""The example keeps what a plain fine-tuning forgets."""

import importlib.util
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "finetune_text_model.py"


@pytest.fixture
def example():
    """The example as a module of its own."""
    spec = importlib.util.spec_from_file_location("finetune_text_model", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.mark.slow
def test_the_example_keeps_what_a_plain_training_forgets(example):
    found = example.compare(example.tiny_task(), variant="full_retention", steps=100)
    old = {name: right for name, (right, _) in found.items()}
    assert old["before"] > 0.95
    assert old["plain"] < 0.5
    assert old["full_retention"] > 0.9


def test_its_rows_carry_labels_on_answers_alone(example):
    class Words:
        eos_token_id = 1

        def __call__(self, text, add_special_tokens):
            assert add_special_tokens is False
            return type("Encoded", (), {"input_ids": [len(word) for word in text.split()]})

    (row,) = example.encoded(Words(), [("ab c", "def")])
    assert row == {"input_ids": [2, 1, 3, 1], "labels": [-100, -100, 3, 1]}


def test_a_model_of_ones_own_needs_its_rows(example, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["finetune_text_model.py", "--model", "mine"])
    with pytest.raises(SystemExit) as stopped:
        example.main()
    assert stopped.value.code == 2
    assert "--model needs --old and --new" in capsys.readouterr().err
