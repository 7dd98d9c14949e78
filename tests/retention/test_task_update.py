"""The task's part of AdamW's steps, against a second AdamW in float64 that never sees the other gradient."""

import pytest
import torch

from safe_train.retention.task_update import TaskUpdate

LR, DECAY, BETAS, EPS = 1e-2, 0.1, (0.9, 0.98), 1e-8


def gradients(step):
    generator = torch.Generator().manual_seed(step)
    return (torch.randn(2, 5, 3, generator=generator, dtype=torch.float64)).unbind()


def run(steps, *, clip=1.0):
    """Parts of each step and what the optimizer did, with the definition's part beside it."""
    torch.manual_seed(7)
    weight = torch.nn.Parameter(torch.randn(5, 3, dtype=torch.float64))
    optimizer = torch.optim.AdamW([weight], lr=LR, weight_decay=DECAY, betas=BETAS, eps=EPS)
    update = TaskUpdate(optimizer, [weight])
    first, second = torch.zeros_like(weight), torch.zeros_like(weight)
    found = []
    for step in range(1, steps + 1):
        task, other = gradients(step)
        before = weight.detach().clone()
        update.take_gradients([task])
        weight.grad = clip * (task + other)
        update.before_optimizer_step(clip, wants_part=True)
        optimizer.step()
        (part,) = update.take_part()
        first = BETAS[0] * first + (1 - BETAS[0]) * clip * task
        second = BETAS[1] * second + (1 - BETAS[1]) * (clip * (task + other)).square()
        corrected = (second / (1 - BETAS[1] ** step)).sqrt() + EPS
        expected = -LR * first / (1 - BETAS[0] ** step) / corrected - LR * DECAY * before
        found.append((part, expected, weight.detach() - before))
    return found


@pytest.mark.parametrize("clip", [1.0, 0.25])
def test_it_is_the_definition(clip):
    for part, expected, whole in run(6, clip=clip):
        torch.testing.assert_close(part, expected, rtol=1e-10, atol=1e-14)
        assert (part - whole).norm() > 0.1 * whole.norm()  # negative control: the other gradient has a part as well


def test_alone_it_is_the_whole_step(monkeypatch):
    monkeypatch.setitem(
        globals(), "gradients", lambda step, draw=gradients: (draw(step)[0], torch.zeros(5, 3).double())
    )
    for part, _, whole in run(6):
        torch.testing.assert_close(part, whole, rtol=1e-10, atol=1e-14)
