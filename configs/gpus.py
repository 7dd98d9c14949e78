"""The GPUs that a run can be planned for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

_GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One kind of GPU.

    Attributes:
        name: what it is called on the command line.
        memory: bytes that a program can allocate, the CUDA context included.
        peak: dense floating-point operations per second of matrix products, by precision.
        bandwidth: bytes a second.
        source: where peak and bandwidth are published.
    """

    name: str
    memory: int
    peak: Mapping[str, float]
    bandwidth: float
    source: str


# Peaks are those without sparsity. float32 is that of the CUDA cores: PyTorch leaves TF32 off unless it is asked to.
_KINDS = (
    Gpu(
        name="a100",
        memory=int(79.1 * _GIB),
        peak={"bf16": 312e12, "fp32": 19.5e12},
        bandwidth=2.039e12,
        source="NVIDIA A100 80GB data sheet (SXM), 2021",
    ),
    Gpu(
        name="h100",
        memory=int(79.1 * _GIB),
        peak={"bf16": 989e12, "fp32": 67e12},
        bandwidth=3.35e12,
        source="NVIDIA H100 data sheet (SXM), 2023",
    ),
    Gpu(
        name="h200",
        memory=int(139.8 * _GIB),
        peak={"bf16": 989e12, "fp32": 67e12},
        bandwidth=4.8e12,
        source="NVIDIA H200 data sheet (SXM), 2024",
    ),
    Gpu(
        name="b200",
        memory=int(178.0 * _GIB),
        peak={"bf16": 2250e12, "fp32": 75e12},
        bandwidth=8.0e12,
        source="NVIDIA HGX B200 data sheet, 2025",
    ),
)

GPUS: Mapping[str, Gpu] = MappingProxyType({gpu.name: gpu for gpu in _KINDS})
