"""Scaled gradients, checkpointed layers, compiled models, noisy embeddings and other optimizers in the `Trainer`."""

import copy

import pytest
import torch
from accelerate.utils import AutocastKwargs
from transformers import TrainerCallback
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from safe_train.errors import InputError
from safe_train.finetuning.student import trained_linears
from safe_train.huggingface import Retention
from safe_train.retention.settings import RetentionSettings
from tests.finetuning.tiny_text import NULL_SPACE_ALONE, PROTECTED, SETTINGS, retentive, text_model, trained_weights
from tests.finetuning.watching import EveryDivergence, Updates, share_inside
from tests.tolerances import LEAKAGE, PARALLEL, relative_error

pytestmark = [
    # A step that a scaler has skipped, of which the trainer's scheduler knows nothing.
    pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step\\(\\)` before:UserWarning"),
]


def trained(folder, *, adapter=True, prepare=lambda _trainer: None, **options):
    """A trainer that has trained with full retention, and how far the weights went."""
    model = text_model(adapter=adapter)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    before = trained_weights(model)
    trainer = retentive(folder, model, Retention(PROTECTED, settings=SETTINGS), **options)
    prepare(trainer)
    trainer.train()
    after = trained_weights(model)
    return trainer, torch.cat([(after[name] - before[name]).flatten() for name in sorted(before)])


def scale_gradients(scaler, *, autocast):
    """Float16 as on a GPU. Accelerate refuses it on a CPU, where its scaler and autocast work all the same."""

    def prepare(trainer):
        accelerator = trainer.accelerator
        accelerator.scaler, accelerator.native_amp = scaler, True
        accelerator.state._mixed_precision = "fp16"
        accelerator.autocast_handler = AutocastKwargs(enabled=autocast)

    return prepare


@pytest.fixture
def precision():
    """Accelerate's state outlives a trainer."""
    yield
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)


class Counted(torch.amp.GradScaler):
    """Notes its factors."""

    def __init__(self, init_scale):
        super().__init__("cpu", init_scale=init_scale, growth_interval=4)
        self.factors = []

    def update(self, new_scale=None):
        super().update(new_scale)
        self.factors.append(self.get_scale())


def test_scaled_gradients_train_to_the_same_bits(tmp_path, precision):
    """Powers of two change no digit, as long as nothing leaves the range."""
    _, expected = trained(tmp_path)
    scaler = Counted(2.0**10)
    trainer, found = trained(tmp_path, prepare=scale_gradients(scaler, autocast=False))
    assert len(set(scaler.factors)) > 1
    assert torch.equal(found, expected)
    assert trainer.retention.stack.inactive() == []


@pytest.mark.parametrize("told", [True, False], ids=["told", "not told"])
def test_a_step_that_the_scaler_skips_is_none_for_the_mechanisms(tmp_path, precision, monkeypatch, told):
    scaler = Counted(2.0**10)
    prepare = scale_gradients(scaler, autocast=False)

    def prepared(trainer):
        prepare(trainer)
        overflows = iter([True])  # in the first backward pass alone, as float16 does where the factor is too large
        weight = next(p for p in trainer.model.parameters() if p.requires_grad)
        weight.register_hook(lambda gradient: gradient + torch.inf if next(overflows, False) else gradient)
        if not told:
            callback = type(trainer.retention)
            monkeypatch.setattr(callback, "_skips", property(lambda _: False, lambda *_: None), raising=False)

    if not told:
        with pytest.raises(ValueError, match="a positive finite trace, got nan"):  # of ruined weights
            trained(tmp_path, prepare=prepared)
        return
    trainer, found = trained(tmp_path, prepare=prepared)
    assert scaler.factors[0] == 2.0**9
    moments = {name: value for name, value in trainer.retention.stack.state_dict().items() if "moment" in name}
    assert moments
    assert all(value.isfinite().all() for value in (found, *moments.values()))


def test_it_trains_in_float16(tmp_path, precision):
    _, expected = trained(tmp_path)
    trainer, found = trained(tmp_path, prepare=scale_gradients(Counted(2.0**10), autocast=True))
    assert 0 < relative_error(found, expected) < 0.2  # AdamW's steps divide small gradients by their own size
    assert trainer.retention.stack.inactive() == []
    assert trainer.state.log_history[-2]["null_space_leakage"] < LEAKAGE


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("adapter", [True, False], ids=["LoRA", "whole model"])
def test_checkpointed_layers_train_the_same(tmp_path, adapter, reentrant):
    passes = {True: 0, False: 0}

    class Count(TrainerCallback):
        """Of a layer's passes, those in evaluation mode with gradients: the retention's."""

        def on_train_begin(self, _args, _state, _control, model, **_options):
            layer = next(module for module in model.modules() if isinstance(module, LlamaDecoderLayer))
            norm = layer.input_layernorm
            norm.register_forward_hook(lambda *_: self.note(norm))

        def note(self, norm):
            if torch.is_grad_enabled() and not norm.training:
                passes[self.checkpointing] += 1

    found = {}
    for checkpointing in (False, True):
        counted = Count()
        counted.checkpointing = checkpointing
        options = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": reentrant}}
        _, found[checkpointing] = trained(
            tmp_path, adapter=adapter, prepare=lambda trainer, it=counted: trainer.add_callback(it),
            **(options if checkpointing else {}),
        )  # fmt: skip
    assert relative_error(found[True], found[False]) < PARALLEL[torch.float32]
    assert passes[True] >= 2 * passes[False] > 0  # once forward, once again in the backward pass


def test_noise_in_the_embeddings_of_the_task_stays_out_of_the_retention(tmp_path):
    model = text_model(adapter=True)
    retention = Retention(PROTECTED, "soft_retention", rows_per_step=len(PROTECTED))
    options = {"gradient_accumulation_steps": 1, "neftune_noise_alpha": 50.0}
    trainer = retentive(tmp_path, model, retention, **options)
    divergences = EveryDivergence(model)
    trainer.add_callback(divergences)
    trainer.train()
    logged = [line["kl"] for line in trainer.state.log_history if "kl" in line]
    assert logged == pytest.approx(divergences.found, rel=1e-3, abs=1e-6)
    assert logged[0] == 0.0
    plain = retentive(tmp_path, text_model(adapter=True), retention, gradient_accumulation_steps=1)
    plain.train()
    assert trainer.state.log_history[0]["loss"] != plain.state.log_history[0]["loss"]  # there is noise in the task


@pytest.mark.slow
def test_a_compiled_model_trains_the_same(tmp_path):
    _, expected = trained(tmp_path)
    _, found = trained(tmp_path, torch_compile=True, torch_compile_backend="aot_eager")
    assert relative_error(found, expected) < PARALLEL[torch.float32]


def test_fused_adamw_trains_the_same(tmp_path):
    _, expected = trained(tmp_path)
    _, found = trained(tmp_path, optim="adamw_torch_fused")
    assert relative_error(found, expected) < PARALLEL[torch.float32]


class Lion(torch.optim.Optimizer):
    """``w -= lr sign(b1 m + (1 - b1) g)``, ``m = b2 m + (1 - b2) g``: Chen et al. 2023, arXiv:2302.06675, program 1."""

    def __init__(self, weights, lr=1e-3, betas=(0.9, 0.99)):
        super().__init__(weights, {"lr": lr, "betas": betas})

    @torch.no_grad()
    def step(self, closure=None):
        assert closure is None
        for group in self.param_groups:
            b1, b2 = group["betas"]
            for weight in group["params"]:
                if weight.grad is not None:
                    moment = self.state[weight].setdefault("moment", torch.zeros_like(weight))
                    weight.sub_(torch.sign(b1 * moment + (1 - b1) * weight.grad), alpha=group["lr"])
                    moment.mul_(b2).add_(weight.grad, alpha=1 - b2)


OTHER_OPTIMIZERS = {
    "adafactor": None,
    "sgd": None,
    "rmsprop": None,
    "adagrad": None,
    "Muon": lambda weights: torch.optim.Muon(weights, lr=1e-2),
    "Lion": Lion,
    "NAdam": lambda weights: torch.optim.NAdam(weights, lr=1e-2),
    "amsgrad": lambda weights: torch.optim.AdamW(weights, lr=1e-2, amsgrad=True),
}


def with_optimizer(folder, name, retention):
    model = text_model(adapter=True)
    make = OTHER_OPTIMIZERS[name]
    trainer = retentive(folder, model, retention, **({"optim": name} if make is None else {}))
    if make is not None:
        trainer.optimizer = make([p for p in model.parameters() if p.requires_grad])
    return trainer, model


@pytest.mark.parametrize("name", OTHER_OPTIMIZERS)
def test_a_whole_update_stays_out_of_the_subspace_by_any_optimizer(tmp_path, name):
    settings = RetentionSettings(null_space_min_samples=8, null_space_target="update", null_space_one_sided=False)
    trainer, model = with_optimizer(tmp_path, name, Retention(PROTECTED, NULL_SPACE_ALONE, settings=settings))
    updates = Updates(trained_linears(model))
    trainer.add_callback(updates)
    trainer.train()
    (null_space,) = trainer.retention.stack.mechanisms
    bases = copy.copy(null_space.bases)
    assert share_inside(updates.found[-1], bases) < LEAKAGE
    assert share_inside(updates.found[0], bases) > 100 * LEAKAGE  # before there was a subspace


@pytest.mark.parametrize("name", OTHER_OPTIMIZERS)
def test_an_optimizer_whose_steps_do_not_split_is_refused_with_what_to_do(tmp_path, name):
    trainer, _ = with_optimizer(tmp_path, name, Retention(PROTECTED, settings=SETTINGS))
    with pytest.raises(InputError, match=r'optimizer: expected torch\.optim\.AdamW .*null_space_target="update"'):
        trainer.train()
    kept, _ = with_optimizer(tmp_path, name, Retention(PROTECTED, "soft_retention"))
    kept.train()
    assert kept.retention.stack.inactive() == []
