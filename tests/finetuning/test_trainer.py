"""Retention in the `Trainer` is the loop one would write by hand, and it keeps what a plain training forgets."""

import contextlib
import logging
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from peft import (
    LoraConfig,
    get_peft_model,
)
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Trainer,
    TrainerCallback,
)

from safe_train.configs.retention_variants import get_variant_config
from safe_train.errors import InputError
from safe_train.finetuning.rows import RetentionBatch, RetentionExamples
from safe_train.finetuning.student import trained_linears
from safe_train.huggingface import Retention
from safe_train.model.base import OutputHead
from safe_train.retention import AnswerStates, RunLength, TrainingContext, build_mechanisms
from safe_train.retention.settings import RetentionSettings
from safe_train.retention.stack import resolve_variant
from tests.finetuning.tiny_text import (
    NULL_SPACE_ALONE,
    PROTECTED,
    SETTINGS,
    RetentiveTrainer,
    arguments,
    collate,
    retentive,
    rows,
    text_model,
    trained_weights,
    with_trained_norms,
)
from tests.finetuning.watching import Updates, share_inside
from tests.tolerances import LEAKAGE, PARALLEL, relative_error


@dataclass
class ByHand:
    """Student and frozen teacher as two models, hidden states read from the whole output."""

    model: torch.nn.Module
    original: torch.nn.Module

    def __post_init__(self):
        self.head = OutputHead(self.original.get_output_embeddings().weight, None, None)

    def hidden(self, model, batch):
        states = model(**batch.inputs, output_hidden_states=True).hidden_states[-1]
        return states[batch.rows, batch.positions]

    def student(self, batch):
        self.model.eval()
        return AnswerStates(self.hidden(self.model, batch), batch.labels, batch.rows)

    def teacher(self, batch):
        with torch.no_grad():
            return self.hidden(self.original, batch)


def train_by_hand(model, batches, args, retention, *, tells_clipping=True):
    """The loop of docs/retention.md around the task's own loss: a mean over the tokens of both micro-batches."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = [  # the trainer lets normalizations be
        {"params": [p for name, p in named if "norm" not in name], "weight_decay": args.weight_decay},
        {"params": [p for name, p in named if "norm" in name], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=args.learning_rate)
    protected = RetentionExamples(
        retention.protected, collate, batch_size=retention.rows_per_step, seed=retention.seed, device=model.device
    )
    step = 0
    variant = resolve_variant(get_variant_config(retention.variant), retention.settings)
    context = TrainingContext(
        model=ByHand(model, text_model(adapter=False)),
        linears=trained_linears(model),
        batches=lambda count: protected.coming(step, count),
        optimizer=optimizer,
        length=RunLength(args.max_steps, retention.rows_per_step),
        seed=retention.seed,
    )
    stack = build_mechanisms(variant, retention.settings, context)
    for step in range(args.max_steps):
        stack.before_step(step, step * retention.rows_per_step)
        optimizer.zero_grad()
        micro = batches[2 * step : 2 * step + 2]
        tokens = sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in micro)
        model.train()
        for batch in micro:
            logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
            targets = batch["labels"][:, 1:]
            (F.cross_entropy(logits[:, :-1].transpose(1, 2), targets, reduction="sum") / tokens).backward()
        stack.after_task_backward()
        stack.loss(protected.batch(step)).backward()
        stack.after_retention_backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), args.max_grad_norm).item()
        stack.before_optimizer_step(min(1.0, args.max_grad_norm / (norm + 1e-6)) if tells_clipping else 1.0)
        optimizer.step()
        stack.after_optimizer_step()
    return trained_weights(model), norm


class Batches(TrainerCallback):
    """Notes what the trainer's collator gave, in order."""

    def __init__(self):
        self.seen = []

    def __call__(self, batch):
        self.seen.append(collate(batch))
        return self.seen[-1]


def without_dropout(model):
    """The order of random draws is the trainer's own affair."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def changes(before, after):
    return torch.cat([(after[name] - before[name]).flatten() for name in sorted(before)])


@pytest.mark.parametrize("adapter", [True, False], ids=["LoRA", "whole model"])
def test_it_is_the_loop_written_by_hand(tmp_path, adapter):
    retention = Retention(PROTECTED, settings=SETTINGS)
    data = rows(96, 1)
    taken = [collate(data[start : start + 4]) for start in range(0, 96, 4)]
    model = without_dropout(text_model(adapter=adapter))
    before = trained_weights(model)
    args = arguments(tmp_path, train_sampling_strategy="sequential")
    trainer = RetentiveTrainer(model=model, args=args, train_dataset=data, data_collator=collate, retention=retention)
    trainer.train()
    assert trainer.retention.stack.inactive() == []
    found = changes(before, trained_weights(model))
    expected, norm = train_by_hand(without_dropout(text_model(adapter=adapter)), taken, args, retention)
    assert norm > args.max_grad_norm  # clipping is at work, which the split of the update has to know of
    assert relative_error(found, changes(before, expected)) < PARALLEL[torch.float32]
    wrong, _ = train_by_hand(without_dropout(text_model(adapter=adapter)), taken, args, retention, tells_clipping=False)
    assert relative_error(changes(before, wrong), changes(before, expected)) > 10 * PARALLEL[torch.float32]


def test_the_optimizers_step_stays_out_of_the_protected_subspace(tmp_path):
    settings = RetentionSettings(null_space_min_samples=8, null_space_target="update", null_space_one_sided=False)
    model = text_model(adapter=True)
    trainer = retentive(tmp_path, model, Retention(PROTECTED, NULL_SPACE_ALONE, settings=settings))
    updates = Updates(trained_linears(model))
    trainer.add_callback(updates)  # behind the retention's own
    trainer.train()
    (null_space,) = trainer.retention.stack.mechanisms
    assert share_inside(updates.found[-1], null_space.bases) < LEAKAGE

    plain = text_model(adapter=True)
    of_plain = Updates(trained_linears(plain))
    Trainer(
        model=plain, args=arguments(tmp_path), train_dataset=rows(64, 1), data_collator=collate, callbacks=[of_plain]
    ).train()
    assert share_inside(of_plain.found[-1], null_space.bases) > 0.05


def divergence_from_original(model):
    """Mean KL of the protected tokens' distributions from those of the untouched model, in nats."""
    batch = RetentionBatch.of(collate(PROTECTED), torch.device("cpu"))
    with torch.no_grad():
        old, new = (
            m.eval()(**batch.inputs).logits[batch.rows, batch.positions].double().log_softmax(-1)
            for m in (text_model(adapter=False), model)
        )
    return F.kl_div(new, old, reduction="batchmean", log_target=True).item()


@pytest.mark.parametrize("adapter", [True, False], ids=["LoRA", "whole model"])
def test_a_training_without_it_forgets_more(tmp_path, adapter):
    plain, kept = text_model(adapter=adapter), text_model(adapter=adapter)
    assert divergence_from_original(plain) < 1e-12
    options = {"max_steps": 30}
    Trainer(model=plain, args=arguments(tmp_path, **options), train_dataset=rows(64, 1), data_collator=collate).train()
    settings = SETTINGS.model_copy(update={"retention_scale": 20.0})
    trainer = retentive(tmp_path, kept, Retention(PROTECTED, settings=settings, rows_per_step=24), **options)
    trainer.train()
    assert divergence_from_original(kept) < 0.5 * divergence_from_original(plain)


def test_a_resumed_training_gives_the_same_bits(tmp_path):
    retention = Retention(PROTECTED, settings=SETTINGS)
    whole = text_model(adapter=True)
    retentive(tmp_path / "whole", whole, retention).train()
    first = retentive(
        tmp_path / "cut", text_model(adapter=True), retention, max_steps=12, save_strategy="steps", save_steps=5
    )

    class Stop(TrainerCallback):
        def on_step_end(self, _args, state, control, **_options):
            control.should_training_stop = state.global_step == 6

    first.add_callback(Stop())
    first.train()
    resumed = text_model(adapter=True)
    again = retentive(tmp_path / "cut", resumed, retention)
    again.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-5"))
    expected, found = trained_weights(whole), trained_weights(resumed)
    assert all(torch.equal(found[name], expected[name]) for name in expected)

    (tmp_path / "cut" / "checkpoint-5" / "retention.safetensors").unlink()
    with pytest.raises(InputError, match=r"retention\.safetensors.*no such file"):
        retentive(tmp_path / "cut", text_model(adapter=True), retention).train(resume_from_checkpoint=True)


def test_a_checkpoint_is_named_by_a_path_too(tmp_path):
    retention, found = Retention(PROTECTED, settings=SETTINGS), []
    options = {"save_strategy": "steps", "save_steps": 4}
    whole = text_model(adapter=True)
    retentive(tmp_path, whole, retention, **options).train()
    for named in (str(tmp_path / "checkpoint-4"), tmp_path / "checkpoint-4"):
        model = text_model(adapter=True)
        retentive(tmp_path, model, retention).train(resume_from_checkpoint=named)
        found.append(trained_weights(model))
    expected = trained_weights(whole)
    assert all(torch.equal(weights[name], expected[name]) for weights in found for name in expected)


def test_without_the_optimizers_state_the_mechanisms_begin_its_moments_anew(tmp_path):
    retention = Retention(PROTECTED, settings=SETTINGS)
    options = {"save_strategy": "steps", "save_steps": 8, "save_only_model": True}
    retentive(tmp_path, text_model(adapter=True), retention, **options).train()
    trainer = retentive(tmp_path, text_model(adapter=True), retention, max_steps=9)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
    null_space = trainer.retention.stack.mechanisms[-1]
    assert null_space.bases
    moments, of_adamw = null_space._share.moments, trainer.optimizer.optimizer.state
    for weight, moment in zip(null_space._parameters, moments, strict=True):
        # Of one step from zero, both; the task's part of a gradient that is clipped as a whole is no larger by much.
        assert moment.norm() < 3 * of_adamw[weight]["exp_avg"].norm() + 1e-6


def test_a_checkpoint_of_another_variant_is_refused(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 4}
    retentive(tmp_path, text_model(adapter=True), Retention(PROTECTED, "soft_retention"), **options).train()
    trainer = retentive(tmp_path, text_model(adapter=True), Retention(PROTECTED, "full_retention", settings=SETTINGS))
    with pytest.raises(InputError, match="expected the state of full_retention on these layers"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))


def test_what_the_mechanisms_pass_by_is_told(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="safe_train"):
        retentive(tmp_path, with_trained_norms(), Retention(PROTECTED, settings=SETTINGS), max_steps=2).train()
    assert "linear layers, which hold 91 % of what is trained" in caplog.text


def test_lora_on_fused_experts_has_no_layers_of_its_own(tmp_path):
    config = MixtralConfig(
        vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=2,
    )  # fmt: skip
    torch.manual_seed(0)
    experts = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    adapter = LoraConfig(r=4, target_modules=["q_proj"], target_parameters=experts)
    model = get_peft_model(MixtralForCausalLM(config), adapter)
    assert set(trained_linears(model)) == {
        f"base_model.model.model.layers.0.self_attn.q_proj.lora_{side}.default" for side in "AB"
    }
    trainer = retentive(tmp_path, model, Retention(PROTECTED, settings=SETTINGS))
    trainer.train()
    assert trainer.retention.stack.inactive() == []


def test_an_optimizer_of_a_part_of_the_adapter_is_enough(tmp_path):
    model = text_model(adapter=True)
    trainer = retentive(tmp_path, model, Retention(PROTECTED, settings=SETTINGS))
    some = [p for name, p in model.named_parameters() if p.requires_grad and "layers.1" in name]
    trainer.optimizer = torch.optim.AdamW(some, lr=5e-3)
    trainer.train()
    assert trainer.retention.stack.inactive() == []


def test_opt_is_retained(tmp_path):
    """Its head stands behind a decoder that is called past the model around it."""
    config = OPTConfig(
        vocab_size=40, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4, word_embed_proj_dim=32,
        max_position_embeddings=32, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = get_peft_model(OPTForCausalLM(config), LoraConfig(r=4, target_modules=["q_proj", "fc1"]))
    trainer = retentive(tmp_path, model, Retention(PROTECTED, settings=SETTINGS))
    trainer.train()
    assert trainer.retention.stack.inactive() == []
    assert trainer.state.log_history[-2]["null_space_leakage"] < LEAKAGE


def test_the_logs_tell_the_tasks_loss_and_what_the_mechanisms_did(tmp_path):
    trainer = retentive(tmp_path, text_model(adapter=True), Retention(PROTECTED, settings=SETTINGS))
    trainer.train()
    line = trainer.state.log_history[-2]
    assert {"retention_loss", "kl", "ewc", "null_space_removed", "null_space_leakage"} <= line.keys()
    assert line["null_space_leakage"] < LEAKAGE
    assert line["retention_loss"] == pytest.approx(0.2 * line["kl"])
    plain = Trainer(
        model=text_model(adapter=True), args=arguments(tmp_path), train_dataset=rows(64, 1), data_collator=collate
    )
    plain.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(plain.state.log_history[0]["loss"])


def test_a_mechanism_that_never_acts_is_told(tmp_path, caplog):
    trainer = retentive(tmp_path, text_model(adapter=True), Retention(PROTECTED, "soft_retention"), max_steps=1)
    with caplog.at_level(logging.WARNING, logger="safe_train"):
        trainer.train()  # at the first step student and teacher are still the same
    assert "KL is on and never had an effect" in caplog.text


def test_it_works_behind_a_trainer_with_a_training_step_and_a_loss_of_its_own(tmp_path):
    class Supervised(Trainer):
        """Overrides what trainers for supervised fine-tuning override."""

        def training_step(self, *args, **options):
            with contextlib.nullcontext():
                return super().training_step(*args, **options)

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    class Mixed(RetentiveTrainer, Supervised):
        """Retention before the trainer."""

    weights = []
    for kind in (RetentiveTrainer, Mixed):
        model = text_model(adapter=True)
        kind(
            model=model, args=arguments(tmp_path), train_dataset=rows(64, 1), data_collator=collate,
            retention=Retention(PROTECTED, settings=SETTINGS),
        ).train()  # fmt: skip
        weights.append(trained_weights(model))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_it_works_in_bfloat16(tmp_path):
    model = text_model(adapter=True)
    trainer = retentive(tmp_path, model, Retention(PROTECTED, settings=SETTINGS), bf16=True)
    trainer.train()
    assert trainer.retention.stack.inactive() == []
    assert trainer.state.log_history[-2]["null_space_leakage"] < LEAKAGE
    assert all(weight.isfinite().all() for weight in trained_weights(model).values())


def test_gpt2_with_an_adapter_is_retained(tmp_path):
    """Another class: learned positions, a tied head, and projections that are no linear layers but for the adapter."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=40, n_positions=16, n_embd=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2)
    adapter = LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM")
    trainer = retentive(
        tmp_path, get_peft_model(GPT2LMHeadModel(config), adapter), Retention(PROTECTED, settings=SETTINGS)
    )
    trainer.train()
    assert trainer.retention.stack.inactive() == []
    assert trainer.state.log_history[-2]["null_space_leakage"] < LEAKAGE
