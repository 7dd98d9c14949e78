"""A mechanism that is registered acts in a ``transformers.Trainer`` as well."""

from safe_train.huggingface import Retention
from safe_train.retention import MECHANISMS
from tests.finetuning.tiny_text import RetentiveTrainer, arguments, collate, rows, text_model
from tests.retention.l2_anchor import PROBE, L2Anchor


def test_a_transformers_trainer_trains_with_it(monkeypatch, tmp_path):
    monkeypatch.setitem(MECHANISMS, L2Anchor.name, L2Anchor)
    model = text_model(adapter=True)
    trainer = RetentiveTrainer(
        model=model, args=arguments(tmp_path), train_dataset=rows(32, 1), data_collator=collate,
        retention=Retention(rows(16, 2), PROBE),
    )  # fmt: skip
    trainer.train()
    assert trainer.retention.stack.inactive() == []
    assert trainer.retention.metrics()["anchor"] > 0
