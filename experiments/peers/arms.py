"""What is compared: SAFE's variants and peers, each with nine settings to choose from.

Every arm trains the same 200 new rows for the same number of steps, by AdamW under the same schedule. Those that
protect by old rows get the same ones. What a peer's authors publish as a formula stands here as that formula, what PEFT
has is PEFT's.
"""

from __future__ import annotations

import copy
import itertools
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig, OSFConfig, get_peft_model
from peft.tuners.lora.config import CordaConfig
from peft.tuners.lora.corda import preprocess_corda
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainingArguments

from experiments.peers.skills import Row, Task, collate
from safe_train.configs.retention_variants import get_variant_config
from safe_train.finetuning.trainer import Retention, RetentionMixin
from safe_train.retention.settings import RetentionSettings

LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
STEPS, BATCH, KEPT_PER_STEP, RANK = 300, 32, 16, 8

Setting = Mapping[str, float]
Run = Callable[[Task, Setting, int], Iterator[tuple[Setting, Any]]]
"""Trains and gives models, each with the setting that it is of: one training can be stopped at several points."""


@dataclass(frozen=True)
class Arm:
    """A way to fine-tune.

    Attributes:
        name: as the table has it.
        source: where the method comes from.
        trains: ``LoRA``, or what else.
        needs_old_rows: whether it looks at rows of what is to be kept.
        settings: those that it may choose from.
        run: trains a copy of the task's model by one of them.
        chooses_new_alone: whether the setting is chosen for the new skill alone.
    """

    name: str
    source: str
    trains: str
    needs_old_rows: bool
    settings: Sequence[Setting]
    run: Run
    chooses_new_alone: bool = False


class RetentiveTrainer(RetentionMixin, Trainer):
    """SAFE."""


class PenalizedTrainer(Trainer):
    """Adds a term to the loss, as most peers do."""

    penalty: Callable[[Any, dict[str, Tensor], Tensor], Tensor]

    def compute_loss(  # noqa: D102 - the trainer's
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        found: Any = super().compute_loss(model, inputs, True, num_items_in_batch)
        loss, outputs = found
        loss = loss + self.penalty(model, inputs, outputs.logits)
        return (loss, outputs) if return_outputs else loss


def _grid(**columns: Sequence[float]) -> list[Setting]:
    return [dict(zip(columns, values, strict=True)) for values in itertools.product(*columns.values())]


RATES = (2e-4, 3e-4, 4e-4, 6e-4, 8e-4, 1e-3, 2e-3, 4e-3, 8e-3)
WHOLE_RATES = (3e-5, 1e-4, 2e-4, 3e-4, 4e-4, 6e-4, 1e-3, 2e-3, 4e-3)


def _adapted(task: Task, seed: int, **options: Any) -> Any:
    torch.manual_seed(seed)
    return get_peft_model(
        copy.deepcopy(task.model), LoraConfig(r=RANK, target_modules=LINEARS, task_type="CAUSAL_LM", **options)
    )


def _whole(task: Task) -> Any:
    model: Any = copy.deepcopy(task.model).requires_grad_(True)
    model.get_output_embeddings().requires_grad_(False)
    return model


def train(
    model: Any, rows: list[Row], rate: float, seed: int, kind: type[Trainer] = Trainer, **options: Any
) -> Trainer:
    """A training of ``STEPS`` steps."""
    penalty, callbacks = options.pop("penalty", None), options.pop("callbacks", [])
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=STEPS,
            per_device_train_batch_size=BATCH,
            learning_rate=rate,
            lr_scheduler_type="cosine",
            warmup_steps=STEPS // 10,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            seed=seed,
            dataloader_num_workers=0,
        )
        data: Any = rows
        trainer = kind(
            model=model, args=arguments, train_dataset=data, data_collator=collate, callbacks=callbacks, **options
        )
        if penalty is not None:
            assert isinstance(trainer, PenalizedTrainer)
            trainer.penalty = penalty
        trainer.train()
    return trainer


def _plain(make: Callable[[Task, int], Any]) -> Run:
    def run(task: Task, setting: Setting, seed: int) -> Iterator[tuple[Setting, Any]]:
        model = make(task, seed)
        train(model, task.new, setting["rate"], seed)
        yield setting, model

    return run


def _retained(make: Callable[[Task, int], Any], variant: str) -> Run:
    """SAFE's mechanisms on the kept rows."""

    def run(task: Task, setting: Setting, seed: int) -> Iterator[tuple[Setting, Any]]:
        model = make(task, seed)
        retention = Retention(
            task.kept,
            get_variant_config(variant),
            rows_per_step=KEPT_PER_STEP,
            settings=RetentionSettings(retention_scale=setting["scale"], fisher_samples=len(task.kept)),
            seed=seed,
        )
        train(model, task.new, setting["rate"], seed, RetentiveTrainer, retention=retention)
        yield setting, model

    return run


def _mixed(make: Callable[[Task, int], Any]) -> Run:
    """Old rows among the new, ``share`` of each batch in expectation."""

    def run(task: Task, setting: Setting, seed: int) -> Iterator[tuple[Setting, Any]]:
        times = round(len(task.new) * setting["share"] / (1 - setting["share"]) / len(task.kept))
        model = make(task, seed)
        train(model, task.new + task.kept * max(1, times), setting["rate"], seed)
        yield setting, model

    return run


def _stopped(task: Task, setting: Setting, seed: int) -> Iterator[tuple[Setting, Any]]:
    """One training; the model at each of the points that the settings name."""
    model, taken = _adapted(task, seed), []

    class Take(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **options: Any) -> None:
            if state.global_step in _STOPS:
                taken.append(({**setting, "step": state.global_step}, copy.deepcopy(model)))

    train(model, task.new, setting["rate"], seed, callbacks=[Take()])
    yield from taken


_STOPS = (25, 50, 60, 70, 80, 90, 100, 150, 200)
_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def _averaged(task: Task, setting: Setting, seed: int) -> Iterator[tuple[Setting, Any]]:
    """``(1 - a) theta* + a theta`` of the weights: of LoRA, whose product is scaled by a."""
    model = _adapted(task, seed)
    train(model, task.new, setting["rate"], seed)
    for share in _SHARES:
        mixed = copy.deepcopy(model)
        with torch.no_grad():
            for name, weight in mixed.named_parameters():
                if "lora_B" in name:
                    weight.mul_(share)
        yield {**setting, "share": share}, mixed


def _without_forgetting(task: Task, setting: Setting, seed: int) -> Iterator[tuple[Setting, Any]]:
    """The KL divergence from the model as it was on the new rows' own prompts, where nothing is learned."""
    model, original = _adapted(task, seed), task.model

    def penalty(_model: Any, inputs: dict[str, Tensor], logits: Tensor) -> Tensor:
        with torch.no_grad():
            old = original(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
        prompt = (inputs["labels"][:, 1:] == -100) & (inputs["attention_mask"][:, 1:] == 1)
        new, old = (values[:, :-1][prompt].log_softmax(-1) for values in (logits, old))
        return setting["weight"] * F.kl_div(new, old, reduction="batchmean", log_target=True)

    train(model, task.new, setting["rate"], seed, PenalizedTrainer, penalty=penalty)
    yield setting, model


def _from_the_start(task: Task, setting: Setting, seed: int) -> Iterator[tuple[Setting, Any]]:
    """``weight / 2 |theta - theta*|^2``."""
    model = _whole(task)
    start = [(p, p.detach().clone()) for p in model.parameters() if p.requires_grad]

    def penalty(*_given: Any) -> Tensor:
        return setting["weight"] / 2 * torch.stack([(p - before).square().sum() for p, before in start]).sum()

    train(model, task.new, setting["rate"], seed, PenalizedTrainer, penalty=penalty)
    yield setting, model


def _elastic(task: Task, setting: Setting, seed: int) -> Iterator[tuple[Setting, Any]]:
    """``weight sum_i F_i (theta_i - theta*_i)^2``; F is the mean square of the gradients of mini-batches' mean losses.

    So does Avalanche 0.6 (``EWCPlugin``): with the data's labels, mini-batches as in training, and no half.
    """
    model = _whole(task).eval()
    trained = [p for p in model.parameters() if p.requires_grad]
    importances = [torch.zeros_like(p) for p in trained]
    batches = [task.kept[start : start + BATCH] for start in range(0, len(task.kept), BATCH)]
    for batch in batches:
        loss = model(**collate(batch)).loss
        for importance, gradient in zip(importances, torch.autograd.grad(loss, trained), strict=True):
            importance += gradient.square() / len(batches)
    start = [p.detach().clone() for p in trained]

    def penalty(*_given: Any) -> Tensor:
        terms = zip(trained, start, importances, strict=True)
        return setting["weight"] * torch.stack([(f * (p - before).square()).sum() for p, before, f in terms]).sum()

    train(model, task.new, setting["rate"], seed, PenalizedTrainer, penalty=penalty)
    yield setting, model


def _corda(task: Task, setting: Setting, seed: int) -> Iterator[tuple[Setting, Any]]:
    """LoRA that begins in the directions which the kept rows' inputs use least (knowledge-preserved mode)."""
    torch.manual_seed(seed)
    model = copy.deepcopy(task.model)
    config = LoraConfig(
        r=RANK,
        lora_alpha=RANK,
        target_modules=LINEARS,
        task_type="CAUSAL_LM",
        init_lora_weights="corda",
        corda_config=CordaConfig(corda_method="kpm"),
    )

    @torch.no_grad()
    def look() -> None:
        for row in task.kept:  # alone: it takes no batch
            model(input_ids=torch.tensor([row["input_ids"]]))

    preprocess_corda(model, config, run_model=look)
    model = get_peft_model(model, config)
    train(model, task.new, setting["rate"], seed)
    yield setting, model


def _orthogonal(task: Task, setting: Setting, seed: int) -> Iterator[tuple[Setting, Any]]:
    """The large singular directions of every weight are frozen, and gradients kept out of them (PEFT's OSF)."""
    torch.manual_seed(seed)
    config = OSFConfig(target_modules=LINEARS, effective_rank=setting["frozen"])
    model = get_peft_model(copy.deepcopy(task.model), config)
    train(model, task.new, setting["rate"], seed)
    yield setting, model


_SCALES = (1.0, 10.0, 100.0)
_LORA_RATES, _OTHER_RATES = (1e-3, 2e-3, 4e-3), (3e-4, 1e-3, 3e-3)


def _safe(variant: str, scales: Sequence[float] = _SCALES) -> Arm:
    given = _grid(rate=_LORA_RATES, scale=scales)
    return Arm(variant, "SAFE", "LoRA", True, given, _retained(_adapted, variant))


ARMS: dict[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm("plain", "", "LoRA", False, _grid(rate=RATES), _plain(_adapted), chooses_new_alone=True),
        Arm("lower rate", "", "LoRA", False, _grid(rate=RATES), _plain(_adapted)),
        Arm("early stopping", "", "LoRA", False, [{"rate": 4e-3, "step": step} for step in _STOPS], _stopped),
        Arm(
            "model averaging",
            "WiSE-FT, arXiv:2109.01903",
            "LoRA",
            False,
            [{"rate": 4e-3, "share": share} for share in _SHARES],
            _averaged,
        ),
        Arm(
            "LwF on the new rows' prompts",
            "arXiv:1606.09282",
            "LoRA",
            False,
            _grid(rate=_LORA_RATES, weight=(0.1, 1.0, 10.0)),
            _without_forgetting,
        ),
        Arm("CorDA, knowledge-preserved", "PEFT, arXiv:2406.05223", "LoRA", True, _grid(rate=RATES), _corda),
        Arm(
            "old rows mixed in",
            "",
            "LoRA",
            True,
            _grid(rate=_LORA_RATES, share=(0.5, 0.75, 0.9)),
            _mixed(_adapted),
        ),
        _safe("replay_only"),
        _safe("soft_retention"),
        _safe("fisher_retention"),
        _safe("nullspace_retention"),
        _safe("full_retention"),
        Arm(
            "plain, whole model",
            "",
            "whole",
            False,
            _grid(rate=WHOLE_RATES),
            _plain(lambda task, _: _whole(task)),
            chooses_new_alone=True,
        ),
        Arm(
            "L2-SP",
            "arXiv:1802.01483",
            "whole",
            False,
            _grid(rate=_OTHER_RATES, weight=(0.03, 0.1, 0.3)),
            _from_the_start,
        ),
        Arm(
            "EWC",
            "as in Avalanche 0.6, arXiv:1612.00796",
            "whole",
            True,
            _grid(rate=_OTHER_RATES, weight=(1e6, 1e9, 1e12)),
            _elastic,
        ),
        Arm(
            "OSF",
            "PEFT, arXiv:2504.07097",
            "whole, part of each weight's rank",
            False,
            _grid(rate=_OTHER_RATES, frozen=(0.25, 0.5, 0.75)),
            _orthogonal,
        ),
        Arm(
            "full_retention, whole model",
            "SAFE",
            "whole",
            True,
            _grid(rate=_OTHER_RATES, scale=_SCALES),
            _retained(lambda task, _: _whole(task), "full_retention"),
        ),
    )
}
"""By name, in the order of the table."""
