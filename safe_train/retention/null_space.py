"""Null-space projection: training moves the weights only where protected answers do not feel it."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from safe_kernels import Basis, project_null_space_
from safe_train.parallel import ALONE, Processes
from safe_train.retention.mechanism import Mechanism, ProtectedBatches, ProtectedModel, gradient_of
from safe_train.retention.subspace import activation_subspace, gradient_subspace

logger = logging.getLogger(__name__)

Projected = Literal["audio_gradient", "total_gradient", "audio_update", "update"]


class NullSpaceProjection(Mechanism):
    """Keeps gradients or updates out of a protected subspace U: ``X <- X - (X U) U^T``.

    What is projected is a choice of its own:

    - ``audio_gradient``: the audio loss's gradient, before the retention losses add theirs.
    - ``total_gradient``: the gradient of the total loss. It takes the retention losses' pull away as well.
    - ``update``: what the optimizer did, ``theta_new - theta_old``, weight decay included.
    - ``audio_update``: the part of the update that stems from the audio loss. AdamW's step is linear in the first
      moment, and so splits exactly: with the moment ``m_a`` of the audio loss's gradient alone, kept here, and AdamW's
      own second moment v, that part is ``-lr m_a / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps) - lr decay theta``.

    After a projected *gradient*, AdamW's step still enters U, since the division by sqrt(v) turns directions; the two
    projections of the update do not. One-sided projection removes only what raises the protected loss.
    """

    name = "null space"

    def __init__(
        self,
        model: ProtectedModel,
        linears: Mapping[str, nn.Linear],
        batches: ProtectedBatches,
        optimizer: torch.optim.Optimizer,
        *,
        rank: int,
        min_samples: int,
        refresh_interval: int,
        subspace: Literal["gradient", "activation"] = "gradient",
        projects: Projected = "audio_update",
        one_sided: bool = True,
        energy: float | None = None,
        memory: int | None = None,
        processes: Processes = ALONE,
    ) -> None:
        """Registers the mechanism on the weights of ``linears``, which ``optimizer`` must train.

        ``memory`` is in bytes, for the captures of the gradient subspace (see ``gradient_subspace``).

        Raises:
            ValueError: one-sided projection of an activation subspace, whose vectors carry no sign; or ``audio_update``
                with another optimizer than AdamW.
        """
        if one_sided and subspace == "activation":
            raise ValueError("one_sided: expected the gradient subspace, got activation, whose vectors carry no sign")
        if projects == "audio_update":
            _check_adamw(optimizer)
        self.model, self.linears, self.batches, self.optimizer = model, dict(linears), batches, optimizer
        self.rank, self.min_samples, self.refresh_interval = rank, min_samples, refresh_interval
        self.subspace, self.projects, self.one_sided, self.energy = subspace, projects, one_sided, energy
        self.memory = memory
        self.processes = processes
        self.bases: dict[str, Basis] = {}
        self.computed_at = -1
        self._audio_gradients: dict[str, Tensor] = {}
        self._audio_moments: dict[str, Tensor] = {}
        self._before: dict[str, Tensor] = {}
        self._last: dict[str, float] = {}

    @property
    def _parameters(self) -> dict[str, Tensor]:
        return {name: module.weight for name, module in self.linears.items()}

    def before_step(self, step: int, rows_seen: int) -> None:
        """Computes the bases when enough protected rows have gone by, and again after every refresh interval."""
        due = self.min_samples if self.computed_at < 0 else self.computed_at + self.refresh_interval
        if rows_seen < due:
            return
        self.calibrate()
        self.computed_at = rows_seen
        energies = [basis.captured_energy for basis in self.bases.values()]
        logger.info("null space at step %d: captured energy %.2f to %.2f", step, min(energies), max(energies))

    def calibrate(self) -> None:
        """Estimates the subspaces at the present weights."""
        if self.subspace == "gradient":
            bases = gradient_subspace(
                self.model,
                self.linears,
                self.batches,
                num_samples=self.min_samples,
                rank=self.rank,
                energy=self.energy,
                memory=self.memory,
                processes=self.processes,
            )
        else:
            bases = activation_subspace(
                self.model,
                self.linears,
                self.batches(self.min_samples),
                rank=self.rank,
                energy=self.energy,
                processes=self.processes,
            )
        # In the layout in which they are stored: another one gives other last bits, and a resumed run has the stored.
        self.bases = {
            name: replace(basis, vectors=basis.vectors.contiguous()) for name, basis in bases.items() if basis.rank > 0
        }

    def after_audio_backward(self) -> None:
        """Projects the audio loss's gradient, or sets it aside for the split of the update."""
        gradients = {name: gradient_of(parameter) for name, parameter in self._parameters.items()}
        if self.projects == "audio_gradient":
            self._project(gradients, sign=-1.0)
        elif self.projects == "audio_update":
            self._audio_gradients = {name: gradient.clone() for name, gradient in gradients.items()}

    def after_retention_backward(self) -> None:
        """Projects the total gradient."""
        if self.projects == "total_gradient":
            self._project({name: gradient_of(p) for name, p in self._parameters.items()}, sign=-1.0)

    @torch.no_grad()
    def before_optimizer_step(self, clip_coefficient: float) -> None:
        """Notes the weights, and brings the audio loss's first moment up to date."""
        if self.projects not in ("update", "audio_update"):
            return
        self._before = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
        if self.projects == "audio_update":
            for name, parameter in self._parameters.items():
                beta1 = self._group(parameter)["betas"][0]
                moment = self._audio_moments.setdefault(name, torch.zeros_like(parameter))
                moment.lerp_(self._audio_gradients[name] * clip_coefficient, 1 - beta1)
            self._audio_gradients = {}

    @torch.no_grad()
    def after_optimizer_step(self) -> None:
        """Projects the update, or the audio loss's part of it."""
        if self._before and self.bases:
            if self.projects == "update":
                parts = {name: p - self._before[name] for name, p in self._parameters.items()}
            else:
                parts = {name: self._audio_part(name, p) for name, p in self._parameters.items()}
            rest = {name: p - parts[name] for name, p in self._parameters.items() if name in self.bases}
            if self.projects == "update":
                rest = {name: self._before[name] for name in rest}
            self._project(parts, sign=1.0)
            for name, remainder in rest.items():
                torch.add(remainder, parts[name], out=self._parameters[name].data)
        self._before = {}

    def _audio_part(self, name: str, parameter: Tensor) -> Tensor:
        """The audio loss's part of AdamW's last step, weight decay included (see the class)."""
        group, state = self._group(parameter), self.optimizer.state[parameter]
        beta1, beta2 = group["betas"]
        count = float(state["step"])
        scale = (state["exp_avg_sq"].sqrt() / math.sqrt(1 - beta2**count)).add_(group["eps"])
        part = (self._audio_moments[name] / scale).mul_(-group["lr"] / (1 - beta1**count))
        return part.sub_(self._before[name], alpha=group["lr"] * group["weight_decay"])

    def _group(self, parameter: Tensor) -> dict:
        return next(g for g in self.optimizer.param_groups if any(p is parameter for p in g["params"]))

    @torch.no_grad()
    def _project(self, tensors: dict[str, Tensor], *, sign: float) -> None:
        """Projects in place; ``sign`` is -1 for gradients, which updates run against."""
        names = [name for name in tensors if name in self.bases]
        if not names:
            return
        chosen, bases = [tensors[name] for name in names], [self.bases[name].vectors for name in names]
        before = [tensor.clone() for tensor in chosen]
        for tensor in chosen:
            tensor.mul_(sign)
        project_null_space_(chosen, bases, one_sided=self.one_sided)
        for tensor in chosen:
            tensor.mul_(sign)
        self._acted = True
        self._last = {
            "null_space_removed": _norm([b - c for b, c in zip(before, chosen, strict=True)])
            / max(_norm(before), 1e-30),
            "null_space_leakage": _norm(
                [_coefficients(c * sign, u, self.one_sided) for c, u in zip(chosen, bases, strict=True)]
            )
            / max(_norm(chosen), 1e-30),
        }

    def observations(self) -> dict[str, float]:
        """Share of the projected norm that was removed, share left inside, and the bases' captured energy."""
        if not self.bases:
            return {}
        energy = sum(basis.captured_energy for basis in self.bases.values()) / len(self.bases)
        return self._last | {"null_space_energy": energy}

    def state_dict(self) -> dict[str, Tensor]:
        """Bases, the audio loss's first moments and the row count of the last estimate."""
        state = {f"moment.{name}": moment for name, moment in self._audio_moments.items()}
        for name, basis in self.bases.items():
            state[f"vectors.{name}"] = basis.vectors
            state[f"singular_values.{name}"] = basis.singular_values
            state[f"energy.{name}"] = torch.tensor(basis.captured_energy, dtype=torch.float64)
        return state | {"computed_at": torch.tensor(self.computed_at)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Takes up the state of ``state_dict``."""
        self._audio_moments = {n: state[f"moment.{n}"].clone() for n in self.linears if f"moment.{n}" in state}
        self.bases = {
            name: Basis(state[f"vectors.{name}"], state[f"energy.{name}"].item(), state[f"singular_values.{name}"])
            for name in self.linears
            if f"vectors.{name}" in state
        }
        self.computed_at = int(state["computed_at"])
        self._acted = bool(self.bases)


def _check_adamw(optimizer: torch.optim.Optimizer) -> None:
    usable = isinstance(optimizer, torch.optim.AdamW) and not any(
        group["amsgrad"] or group["maximize"] for group in optimizer.param_groups
    )
    if not usable:
        raise ValueError(
            "projects='audio_update': expected torch.optim.AdamW without amsgrad or maximize, "
            f"got {type(optimizer).__name__}; choose projects='update'"
        )


def _coefficients(tensor: Tensor, basis: Tensor, one_sided: bool) -> Tensor:
    flat = tensor.reshape(-1, basis.shape[0]).to(basis.dtype) @ basis
    return flat.clamp_min(0.0) if one_sided else flat


def _norm(tensors: list[Tensor]) -> float:
    return math.sqrt(sum(tensor.float().square().sum().item() for tensor in tensors))
