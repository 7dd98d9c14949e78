"""The trace counts what closed forms say, and what the profiler sees on the CPU."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from bench.measure import peak_extra_bytes
from safe_kernels import linear_kl_divergence, project_null_space_
from safe_train.estimate.speed import Speed
from safe_train.estimate.trace import Cost, MetaTrace

META = torch.device("meta")


def test_a_product_forward_and_backward_is_six_flops_a_weight_and_row():
    layer = nn.Linear(30, 50, bias=False, device=META)
    with MetaTrace() as trace:
        x = torch.zeros(7, 30, device=META, requires_grad=True)
        with trace.phase() as forward:
            y = layer(x)
        with trace.phase() as backward:
            y.sum().backward()
    assert forward.cost.flops == 2 * 7 * 30 * 50
    assert backward.cost.flops == 2 * forward.cost.flops


def test_a_frozen_weight_takes_no_gradient():
    layer = nn.Linear(30, 50, bias=False, device=META).requires_grad_(False)
    with MetaTrace() as trace:
        x = torch.zeros(7, 30, device=META, requires_grad=True)
        y = layer(x)
        with trace.phase() as backward:
            y.sum().backward()
    assert backward.cost.flops == 2 * 7 * 30 * 50


def test_attention_is_counted_as_its_products_and_holds_no_scores():
    batch, heads, length, width = 2, 3, 64, 8
    shape = (batch, heads, length, width)
    mask = torch.ones(batch, 1, length, length, dtype=torch.bool, device=META)
    with MetaTrace() as trace:
        q, k, v = (torch.zeros(shape, device=META, requires_grad=True) for _ in range(3))
        with trace.phase() as forward:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        with trace.phase() as backward:
            out.sum().backward()
    product = 2 * batch * heads * length * length * width
    assert forward.cost.flops == 2 * product
    assert backward.cost.flops == 5 * product
    scores = batch * heads * length * length * 4
    assert forward.peak - 4 * batch * heads * length * width * 4 < scores


def test_attention_is_fused_in_the_recomputation_of_a_checkpoint_too():
    with MetaTrace() as trace:
        q = torch.zeros(1, 2, 16, 8, device=META, requires_grad=True)
        out = checkpoint(lambda x: F.scaled_dot_product_attention(x, x, x), q, use_reentrant=False)
        out.sum().backward()
    assert trace.cost.flops == (2 + 2 + 5) * 2 * 2 * 16 * 16 * 8


def test_attention_outside_of_a_trace_is_untouched():
    q = torch.randn(1, 2, 5, 4)
    with MetaTrace():
        inside = F.scaled_dot_product_attention(q, q, q)
    assert torch.equal(inside, F.scaled_dot_product_attention(q, q, q))


def test_flops_of_a_network_are_those_of_torchs_counter():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 5))
    images = torch.randn(2, 3, 8, 8)
    with FlopCounterMode(display=False) as counter:
        network(images).sum().backward()
    with MetaTrace() as trace:
        network.to(META)(images.to(META)).sum().backward()
    assert trace.cost.flops == counter.get_total_flops()


def test_the_linear_divergence_is_three_products_with_the_head():
    with MetaTrace() as trace:
        student = torch.zeros(6, 10, device=META, requires_grad=True)
        teacher, head = torch.zeros(6, 10, device=META), torch.zeros(40, 10, device=META)
        linear_kl_divergence(student, teacher, head).backward()
    assert trace.cost.flops == 3 * 2 * 6 * 10 * 40


def test_a_projection_is_counted_by_its_traffic():
    """Its products have few columns: the bytes take the time."""
    with MetaTrace() as trace:
        tensor, basis = torch.zeros(6, 10, device=META), torch.zeros(10, 2, device=META)
        with trace.phase() as phase:
            project_null_space_([tensor], [basis])
    assert phase.cost == Cost(traffic=4 * (60 + 20), operations=1)


def test_alive_and_peak_follow_tensors_and_not_views():
    with MetaTrace() as trace:
        first = torch.zeros(100, device=META)
        view = first.view(10, 10)
        assert trace.alive == 400
        second = first + 1
        assert (trace.alive, trace.peak) == (800, 800)
        del first
        assert trace.alive == 800  # the view holds the storage
        del view
        assert (trace.alive, trace.peak) == (400, 800)
        with trace.phase() as phase:
            third = second * 2
            del third
        assert (trace.alive, phase.peak) == (400, 800)
    assert phase.cost == Cost(traffic=800, operations=1)


@pytest.mark.parametrize("width", [16, 64])
def test_peak_is_what_the_profiler_sees_on_the_cpu(width):
    """A gated block trained by one step: what the backward pass saves decides the peak."""

    def network() -> nn.Module:
        return nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.LayerNorm(width))

    def step(model: nn.Module, x: torch.Tensor) -> None:
        model(x).square().mean().backward()
        model.zero_grad(set_to_none=True)

    real, inputs = network(), torch.randn(32, width)
    measured = peak_extra_bytes(lambda: step(real, inputs), torch.device("cpu"))
    meta, shapes = network().to(META), inputs.to(META)
    with MetaTrace() as trace:
        with trace.phase() as phase:
            step(meta, shapes)
        with trace.phase() as without_graph, torch.no_grad():  # negative control
            meta(shapes).square().mean()
    assert phase.peak == pytest.approx(measured, rel=0.02)
    assert without_graph.peak < 0.9 * measured


def test_values_that_are_asked_for_pass_every_check():
    with MetaTrace():
        x = torch.zeros(4, device=META)
        assert x.isfinite().all()
        assert float(x.sum()) == 1.0
        assert min(int((x > 0).sum()), 8) == 8


def test_speed_adds_on_the_cpu_and_overlaps_on_a_gpu():
    cost = Cost(flops=8e9, traffic=2e9, operations=1000)
    assert Speed(4e9, 1e9, 1e-3, overlaps=False).seconds(cost) == pytest.approx(2 + 2 + 1)
    assert Speed(4e9, 1e9, 1e-3, overlaps=True).seconds(cost) == pytest.approx(4)
    assert Speed(4e9, 1e9, 1e-2, overlaps=True).seconds(cost) == pytest.approx(10)
    assert Speed(4e9, 1e9, 1e-3, overlaps=False).slowed(3).seconds(cost) == pytest.approx(15)
