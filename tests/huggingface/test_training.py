"""A plain `Trainer` trains the adapter alone, saves it alone and goes on from what it has saved."""

import json

import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from safe_train.huggingface import SafeForConditionalGeneration
from tests.huggingface.made import conversation, figures_of, loud_model

STEPS = 4


def train(folder, processor, rows, resume=None, stop_at=None, lr=1e-3):
    """The trained model, which began with figures, and the base's weights as they were."""
    start = loud_model()
    model = SafeForConditionalGeneration.from_safe_model(start, retention=figures_of(start))
    before = {name: p.clone() for name, p in model.vision_language_model.named_parameters()}

    def collate(batch):
        chats = [conversation(row, answer=row.answers[0]) for row in batch]
        inputs = processor.apply_chat_template(chats, tokenize=True, return_dict=True)
        labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
        return {**inputs, "labels": labels}

    class Stop(TrainerCallback):
        def on_step_end(self, _args, state, control, **_options):
            control.should_training_stop = state.global_step == stop_at

    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=STEPS, per_device_train_batch_size=4, learning_rate=lr, report_to=[],
        save_strategy="steps", save_steps=2, use_cpu=True, disable_tqdm=True, remove_unused_columns=False,
        lr_scheduler_type="constant",
    )  # fmt: skip
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collate, callbacks=[Stop()])
    trainer.train(resume_from_checkpoint=resume)
    return model, before


@pytest.fixture(scope="module")
def trained(tmp_path_factory, processor, heard):
    folder = tmp_path_factory.mktemp("trained")
    return (*train(folder, processor, heard[:16]), folder)


def test_the_adapter_alone_is_trained(trained):
    model, base, _ = trained
    assert all(torch.equal(p, base[name]) for name, p in model.vision_language_model.named_parameters())
    start = loud_model().trainable_parameters()
    assert all(not torch.equal(p, start[name]) for name, p in model.safe_model.trainable_parameters().items())


def test_a_checkpoint_is_an_adapter(trained, processor, heard):
    model, _, folder = trained
    saved = SafeForConditionalGeneration.from_pretrained(folder / f"checkpoint-{STEPS}")
    own, stored = model.safe_model.trainable_parameters(), saved.safe_model.trainable_parameters()
    assert all(torch.equal(stored[name], p) for name, p in own.items())
    sizes = [path.stat().st_size for path in (folder / f"checkpoint-{STEPS}").glob("model*.safetensors")]
    assert sum(sizes) < 1.1 * sum(4 * p.numel() for p in own.values()) + 10_000


def test_it_goes_on_from_there_to_the_same_bits(trained, tmp_path, processor, heard):
    train(tmp_path, processor, heard[:16], stop_at=2)
    again, _ = train(tmp_path, processor, heard[:16], resume=str(tmp_path / "checkpoint-2"))
    expected = trained[0].safe_model.trainable_parameters()
    assert all(torch.equal(p, expected[name]) for name, p in again.safe_model.trainable_parameters().items())


def test_a_checkpoint_of_other_weights_has_no_figures(trained, tmp_path, processor, heard):
    def what_it_says(folder):
        card, config = (folder / "README.md").read_text(), json.loads((folder / "config.json").read_text())
        return "matched 99.9 %" in card, "have not been evaluated" in card, config.get("retention") is not None

    for step in (2, STEPS):
        assert what_it_says(trained[2] / f"checkpoint-{step}") == (False, True, False)
    train(tmp_path, processor, heard[:16], lr=0.0)  # the weights that were evaluated
    assert what_it_says(tmp_path / f"checkpoint-{STEPS}") == (True, False, True)
