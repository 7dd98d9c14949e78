"""Retention in the `Trainer` is the loop one would write by hand, and it keeps what a plain training forgets."""

import contextlib
import copy
import logging
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from peft import (
    IA3Config,
    LoHaConfig,
    LoraConfig,
    OFTConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
)
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainerCallback,
)

from safe_train.configs.retention_variants import RetentionVariantConfig, get_variant_config
from safe_train.errors import InputError
from safe_train.finetuning.chats import ChatCollator
from safe_train.finetuning.fsdp import leave_trained_whole
from safe_train.finetuning.rows import RetentionBatch, RetentionExamples
from safe_train.finetuning.student import frozen_copy, trained_linears
from safe_train.finetuning.trainer import require_whole_gradients
from safe_train.huggingface import Retention, RetentionCallback
from safe_train.model.base import OutputHead
from safe_train.retention import AnswerStates, RunLength, TrainingContext, build_mechanisms
from safe_train.retention.settings import RetentionSettings
from safe_train.retention.stack import resolve_variant
from tests.finetuning.tiny_text import (
    SETTINGS,
    RetentiveTrainer,
    arguments,
    collate,
    retentive,
    rows,
    text_model,
    trained_weights,
)
from tests.model.families.building import tokenizer_with
from tests.tolerances import LEAKAGE, PARALLEL, relative_error

PROTECTED = rows(24, 2)
NULL_SPACE_ALONE = RetentionVariantConfig(
    name="alone", description="", retention_loss_weight=0.0, distillation_weight=0.0, fisher_weight=0.0,
    enable_null_space=True,
)  # fmt: skip


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


class Updates(TrainerCallback):
    """The optimizer's steps, as they are left."""

    def __init__(self, linears):
        self.linears, self.found = linears, []

    def weights(self):
        return {name: module.weight.detach().clone() for name, module in self.linears.items()}

    def on_pre_optimizer_step(self, *_args, **_options):
        self.before = self.weights()

    def on_optimizer_step(self, *_args, **_options):
        self.found.append({name: after - self.before[name] for name, after in self.weights().items()})


def share_inside(update, bases):
    inside = sum((update[n].flatten() @ b.vectors).double().square().sum() for n, b in bases.items())
    return float((inside / sum(update[n].double().square().sum() for n in bases)).sqrt())


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


# --- what is refused


HEAD = "lm_head"
ADAPTERS_OF_THE_HEAD = {
    "beside others": LoraConfig(r=4, target_modules=["q_proj", HEAD]),
    "alone": LoraConfig(r=4, target_modules=[HEAD]),
    "saved whole": LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=[HEAD]),
    "DoRA": LoraConfig(r=4, target_modules=[HEAD], use_dora=True),
    "IA3": IA3Config(target_modules=["q_proj", HEAD], feedforward_modules=[]),
    "LoHa": LoHaConfig(r=4, target_modules=[HEAD]),
}


@pytest.mark.parametrize("variant", ["soft_retention", "full_retention"])
@pytest.mark.parametrize("name", ADAPTERS_OF_THE_HEAD)
def test_an_adapter_of_the_head_is_refused_before_the_training(tmp_path, name, variant):
    """Student and teacher share the head: the divergence of what it does would be missing from the loss."""
    model = get_peft_model(text_model(adapter=False), ADAPTERS_OF_THE_HEAD[name])
    with pytest.raises(InputError, match=r"output head: expected a frozen one.*got a trained lm_head.*target_modules"):
        retentive(tmp_path, model, Retention(PROTECTED, variant))


def test_an_adapter_of_the_head_that_transformers_adds_is_refused(tmp_path):
    model = text_model(adapter=False)
    model.add_adapter(LoraConfig(r=4, target_modules=["q_proj", HEAD]))
    with pytest.raises(InputError, match=r"output head: expected a frozen one.*got a trained lm_head"):
        retentive(tmp_path, model, Retention(PROTECTED))


def test_a_trained_head_is_refused_before_the_training(tmp_path):
    model = text_model(adapter=False)
    model.get_output_embeddings().requires_grad_(True)
    with pytest.raises(InputError, match=r"output head: expected a frozen one.*got a trained lm_head\.weight; freeze"):
        retentive(tmp_path, model, Retention(PROTECTED))


def test_a_tied_head_whose_embedding_is_trained_is_refused(tmp_path):
    config = GPT2Config(vocab_size=40, n_positions=16, n_embd=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2)
    with pytest.raises(InputError, match=r"output head: expected a frozen one.*got a trained transformer\.wte\.weight"):
        retentive(tmp_path, GPT2LMHeadModel(config), Retention(PROTECTED))


def test_a_model_without_a_head_is_refused(tmp_path):
    with pytest.raises(InputError, match="a language model with an output head, got LlamaModel"):
        retentive(tmp_path, text_model(adapter=False).model, Retention(PROTECTED))


def test_an_encoder_and_decoder_is_refused(tmp_path):
    config = T5Config(vocab_size=40, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0)
    with pytest.raises(InputError, match="without an encoder of text, got T5ForConditionalGeneration"):
        retentive(tmp_path, T5ForConditionalGeneration(config), Retention(PROTECTED))


def test_layers_on_several_devices_are_refused(tmp_path):
    model = text_model(adapter=True)
    model.get_base_model().hf_device_map = {"model": 0, "lm_head": 0}
    retentive(tmp_path, model, Retention(PROTECTED))
    model.get_base_model().hf_device_map = {"model": 0, "lm_head": 1}
    with pytest.raises(InputError, match="all layers on one device, got 0, 1"):
        retentive(tmp_path, model, Retention(PROTECTED))


OTHER_ADAPTERS = {
    "IA3": lambda: IA3Config(target_modules=["q_proj", "v_proj"], feedforward_modules=[]),
    "OFT": lambda: OFTConfig(oft_block_size=4, target_modules=["q_proj"]),
    "LoHa": lambda: LoHaConfig(r=4, target_modules=["q_proj"]),
    "prompt tuning": lambda: PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    "prefix tuning": lambda: PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    "P-tuning": lambda: PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=4, encoder_hidden_size=16),
}


class EveryDivergence(TrainerCallback):
    """At each step the KL of the retention examples, by the whole models' logits."""

    def __init__(self, model, original=None):
        self.model, self.found, self.original = model, [], original or text_model(adapter=False).eval()

    def on_step_begin(self, *_args, **_options):
        self.found.append(self.now())

    def now(self):
        batch, was_training = RetentionBatch.of(collate(PROTECTED), torch.device("cpu")), self.model.training
        with torch.no_grad():
            old, new = (m.eval()(**batch.inputs).logits for m in (self.original, self.model))
        self.model.train(was_training)
        length = old.shape[1]  # trained prompts come first
        old, new = (logits[:, -length:][batch.rows, batch.positions].double().log_softmax(-1) for logits in (old, new))
        return F.kl_div(new, old, reduction="batchmean", log_target=True).item()


@pytest.mark.parametrize("name", OTHER_ADAPTERS)
def test_what_is_logged_is_the_divergence_of_the_whole_model(tmp_path, name):
    """Whatever the adapter: trained vectors, rotations, prompts before the rows or in every layer."""
    torch.manual_seed(0)
    model = get_peft_model(text_model(adapter=False), OTHER_ADAPTERS[name]())
    trainer = retentive(
        tmp_path,
        model,
        Retention(PROTECTED, "soft_retention", rows_per_step=len(PROTECTED)),
        gradient_accumulation_steps=1,
    )
    divergences = EveryDivergence(model)
    trainer.add_callback(divergences)
    trainer.train()
    logged = [line["kl"] for line in trainer.state.log_history if "kl" in line]
    assert logged == pytest.approx(divergences.found, rel=1e-3, abs=1e-6)
    assert logged[-1] > 1e-5
    assert trainer.retention.stack.inactive() == []


def require_divergences_from_zero(trainer, divergences):
    """Trains: what is logged are the divergences of whole models, of which the first is none."""
    trainer.add_callback(divergences)
    trainer.train()
    logged = [line["kl"] for line in trainer.state.log_history if "kl" in line]
    assert logged == pytest.approx(divergences.found, rel=1e-3, abs=1e-6)
    assert logged[0] < 1e-6 < logged[-1]
    return divergences


BEGINNINGS = {
    name: lambda name=name: LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=name)
    for name in ("gaussian", "pissa", "olora", "orthogonal")
} | {"DoRA": lambda: LoraConfig(r=4, target_modules=["q_proj", "v_proj"], use_dora=True)}


@pytest.mark.parametrize("name", BEGINNINGS)
def test_what_is_kept_is_the_model_as_it_was_however_the_adapter_begins(tmp_path, name):
    """PiSSA and OLoRA change the weights below the adapter: without it, the model is another."""
    torch.manual_seed(0)
    model = get_peft_model(text_model(adapter=False), BEGINNINGS[name]())
    kept = Retention(PROTECTED, "soft_retention", rows_per_step=len(PROTECTED))
    trainer = retentive(tmp_path, model, kept, gradient_accumulation_steps=1)
    divergences = require_divergences_from_zero(trainer, EveryDivergence(model))
    with model.disable_adapter():
        changed = divergences.now() > 1e-3
    assert changed == (name in ("pissa", "olora"))


def trained_before():
    model = text_model(adapter=True)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(3))
    return model


def with_trained_norms():
    model = text_model(adapter=True)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.requires_grad_(True)
    return model


def with_trained_biases():
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], bias="lora_only")
    return get_peft_model(text_model(adapter=False, biases=True), config)


@pytest.mark.filterwarnings("ignore:Careful, disabling adapter layers with bias:UserWarning")
@pytest.mark.parametrize("make", [trained_before, with_trained_norms, with_trained_biases])
def test_what_is_kept_is_the_model_as_it_was_given(tmp_path, make):
    """With the adapter that it had, and without what is trained beside one."""
    model = make()
    original = copy.deepcopy(model).eval()
    retention = Retention(PROTECTED, "soft_retention", rows_per_step=len(PROTECTED))
    trainer = retentive(tmp_path, model, retention, gradient_accumulation_steps=1)
    divergences = require_divergences_from_zero(trainer, EveryDivergence(model, original))
    with model.disable_adapter():
        assert divergences.now() > 1e-4  # which the model without its adapter is not


def test_a_frozen_copy_takes_the_memory_of_what_is_trained_alone():
    model = text_model(adapter=True)
    kept = frozen_copy(model)
    shared = {
        name for name, p in kept.named_parameters() if p.data_ptr() == dict(model.named_parameters())[name].data_ptr()
    }
    assert shared == {name for name, p in model.named_parameters() if not p.requires_grad}
    assert not any(p.requires_grad for p in kept.parameters())
    assert any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("name", OTHER_ADAPTERS)
def test_other_adapters_are_retained(tmp_path, name):
    """Beside a training without retention, less has changed."""
    changes_of = {}
    for scale in (None, 100.0):
        torch.manual_seed(0)
        model = get_peft_model(text_model(adapter=False), OTHER_ADAPTERS[name]())
        options = {"max_steps": 20, "gradient_accumulation_steps": 1}
        if scale is None:
            Trainer(
                model=model, args=arguments(tmp_path, **options), train_dataset=rows(64, 1), data_collator=collate
            ).train()
        else:
            settings = SETTINGS.model_copy(update={"retention_scale": scale})
            kept = Retention(PROTECTED, "soft_retention", settings=settings, rows_per_step=len(PROTECTED))
            retentive(tmp_path, model, kept, **options).train()
        changes_of[scale] = EveryDivergence(model).now()
    assert 0 < changes_of[100.0] < 0.9 * changes_of[None]


@pytest.mark.parametrize("variant", ["fisher_retention", "nullspace_retention", "full_retention"])
@pytest.mark.parametrize("name", OTHER_ADAPTERS)
def test_what_acts_on_linear_layers_is_refused_without_any(tmp_path, name, variant):
    model = get_peft_model(text_model(adapter=False), OTHER_ADAPTERS[name]())
    with pytest.raises(InputError, match=rf"{variant} acts on, got none; choose the variant soft_retention"):
        retentive(tmp_path, model, Retention(PROTECTED, variant))


def test_trained_biases_are_refused_where_they_would_be_left_out(tmp_path):
    model = text_model(adapter=True)
    model.get_base_model().model.layers[0].self_attn.q_proj.lora_B.default.bias = torch.nn.Parameter(torch.zeros(32))
    retentive(tmp_path, model, Retention(PROTECTED, "soft_retention"))
    with pytest.raises(InputError, match=r"full_retention acts on, got a trained bias in .*lora_B"):
        retentive(tmp_path, model, Retention(PROTECTED))


def test_a_head_that_scales_its_logits_is_refused(tmp_path):
    model = text_model(adapter=True)
    model.get_base_model().lm_head.register_forward_hook(lambda _module, _inputs, logits: 1.1 * logits)
    with pytest.raises(InputError, match=r"logits that are softcap\(h W \+ b\)"):
        retentive(tmp_path, model, Retention(PROTECTED)).train()


def test_rows_without_labels_are_refused(tmp_path):
    unlabeled = [{"input_ids": row["input_ids"], "labels": [-100] * len(row["labels"])} for row in PROTECTED]
    with pytest.raises(ValueError, match="labels other than -100"):
        retentive(tmp_path, text_model(adapter=True), Retention(unlabeled)).train()
    with pytest.raises(ValueError, match="expected labels, got input_ids"):
        RetentionBatch.of({"input_ids": torch.ones(1, 3)}, torch.device("cpu"))
    with pytest.raises(ValueError, match="at least one, got none"):
        retentive(tmp_path, text_model(adapter=True), Retention([])).train()


@pytest.mark.parametrize(
    "row",
    [
        {"text": "a text"},
        {"messages": [{"role": "user", "content": "a question"}]},
        {"prompt": "a question", "completion": "an answer"},
        "a text",
        {"input_ids": "a text", "labels": "a text"},
    ],
    ids=["text", "conversation", "prompt and completion", "a bare text", "text for ids"],
)
def test_protected_rows_that_are_not_tokenized_are_refused_before_the_training(tmp_path, row):
    refused = r"retention examples, row 0: expected what the trainer's collator takes.*tokenize them"
    with pytest.raises(InputError, match=refused):
        retentive(tmp_path, text_model(adapter=True), Retention([row] * 8))


def test_every_row_of_text_is_read_before_the_training(tmp_path):
    tokenizer = tokenizer_with()
    rows_of_text = [{"prompt": "a", "completion": "b"}] * 5 + [{"prompt": "a", "completion": None}]
    with pytest.raises(InputError, match="retention examples, row 5: expected what the trainer's collator takes"):
        RetentionExamples(
            rows_of_text, ChatCollator(tokenizer), batch_size=1, seed=0, device=torch.device("cpu")
        ).require_readable()


def test_parts_of_a_data_set_are_refused(tmp_path):
    with pytest.raises(InputError, match="rows by their number, got dict with train; choose one of its parts"):
        retentive(tmp_path, text_model(adapter=True), Retention({"train": PROTECTED}))


def test_a_teacher_cache_is_refused(tmp_path):
    settings = SETTINGS.model_copy(update={"teacher_cache": True})
    with pytest.raises(InputError, match=r"retention\.settings\.teacher_cache: expected false"):
        retentive(tmp_path, text_model(adapter=True), Retention(PROTECTED, settings=settings))


def test_a_stream_of_protected_rows_is_refused_before_the_training(tmp_path):
    class Stream:
        def __iter__(self):
            return iter(PROTECTED)

    with pytest.raises(InputError, match="a data set with a length, got Stream; take a part of it as a list"):
        retentive(tmp_path, text_model(adapter=True), Retention(Stream()))


def test_the_callback_alone_is_refused(tmp_path):
    model = text_model(adapter=True)
    callback = RetentionCallback(Retention(PROTECTED), model, collate)
    trainer = Trainer(
        model=model, args=arguments(tmp_path), train_dataset=rows(64, 1), data_collator=collate, callbacks=[callback]
    )
    with pytest.raises(RuntimeError, match="the callback without the mixin"):
        trainer.train()


@pytest.mark.parametrize(
    "given",
    [
        {"n_gpu": 2},
        {"deepspeed": "plan.json"},
        {"optim": "lomo"},
        {"optim": "galore_adamw_layerwise"},
    ],
)
def test_what_cannot_be_split_is_refused(given):
    alone = {"n_gpu": 1, "deepspeed": None, "optim": "adamw_torch"}
    require_whole_gradients(SimpleNamespace(**alone))
    with pytest.raises(InputError, match=rf"TrainingArguments\.{next(iter(given))}: expected whole gradients in every"):
        require_whole_gradients(SimpleNamespace(**alone | given))


def test_what_accelerate_launch_is_told_is_refused_as_well():
    args = SimpleNamespace(n_gpu=1, deepspeed=None, optim="adamw_torch")
    with pytest.raises(InputError, match=r"TrainingArguments\.deepspeed: expected whole gradients"):
        require_whole_gradients(args, "DEEPSPEED")


SAMPLE = RetentionBatch.of(collate(PROTECTED), torch.device("cpu"))


def plugin(version=2, ignored=None):
    return SimpleNamespace(fsdp_version=version, ignored_modules=ignored)


@pytest.mark.parametrize("ignored", [None, r".*layers\.1\.mlp"], ids=["none", "a pattern"])
def test_what_is_trained_stays_whole_under_fsdp(ignored):
    model, given = text_model(adapter=True), plugin(ignored=ignored)
    leave_trained_whole(given, model, SAMPLE)
    left = {id(p) for module in given.ignored_modules for p in module.parameters()}
    assert {id(p) for p in model.parameters() if p.requires_grad} <= left
    frozen = {name: id(p) for name, p in model.named_parameters() if not p.requires_grad}
    whole = {name for name, number in frozen.items() if number in left}
    assert whole == {name for name in frozen if ignored and "layers.1.mlp" in name}


def test_what_fsdp_cannot_leave_whole_is_refused():
    with pytest.raises(InputError, match="FSDP: expected version 2, got version 1"):
        leave_trained_whole(plugin(version=1), text_model(adapter=True), SAMPLE)
    with pytest.raises(InputError, match="an adapter, which stays whole, got a training of the whole model"):
        leave_trained_whole(plugin(), text_model(adapter=False), SAMPLE)
    biased = LoraConfig(r=4, target_modules=["q_proj"], bias="lora_only")
    trained = text_model(adapter=True)
    for name, parameter in trained.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    others = [get_peft_model(text_model(adapter=False, biases=True), biased), trained]
    others.append(get_peft_model(text_model(adapter=False), BEGINNINGS["pissa"]()))
    for model in others:
        with pytest.raises(InputError, match="a fresh adapter, without which the model is as it was"):
            leave_trained_whole(plugin(), model, SAMPLE)


# --- the retention examples


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
