"""Training with the teacher's states kept: it does not notice who computed them."""

from pathlib import Path

import pytest
import torch

from safe_train.runs.checkpoint import latest_checkpoint
from tests.tolerances import LOGITS, relative_error


def weights_of(stage) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in stage.model.trainable_parameters().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize("on_disk", [False, True])
def test_resuming_gives_the_same_bits(tmp_path: Path, configure, prepare, on_disk):
    """The resumed run computes what the interrupted one had in memory, or reads it from the folder."""
    settings = {"variant": "full_retention", "retention__teacher_cache": True}
    if on_disk:
        settings["data__cache_root"] = tmp_path / "cache"
    config = configure(**settings)
    straight = prepare(configure(variant="full_retention", retention__teacher_cache=True))
    straight.train(tmp_path / "straight")
    interrupted = prepare(config)
    interrupted.train(tmp_path / "interrupted", should_stop=lambda: interrupted.step == 5)
    resumed = prepare(config)
    resumed.resume(latest_checkpoint(tmp_path / "interrupted"), tmp_path / "interrupted")
    resumed.train(tmp_path / "interrupted")
    assert same(weights_of(resumed), weights_of(straight))
    again = prepare(config)
    again.train(tmp_path / "again")
    assert same(weights_of(again), weights_of(straight))
    store = again.retention.model.teacher_cache.store
    assert (store.computed == 0) == on_disk
    assert (store.found_on_disk > 0) == on_disk


def test_the_setting_changes_who_computes_and_not_what_is_learned(configure, prepare):
    runs = [prepare(configure(variant="soft_retention", retention__teacher_cache=flag)) for flag in (False, True)]
    metrics = [[run.train_step() for _ in range(3)] for run in runs]
    assert runs[0].retention.model.teacher_cache is None
    assert runs[1].retention.model.teacher_cache.store.computed > 0
    first, second = (torch.cat([w.flatten() for w in weights_of(run).values()]) for run in runs)
    assert relative_error(second, first) < LOGITS[torch.float32]
    assert metrics[0][-1]["kl"] > 0
