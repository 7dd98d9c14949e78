"""Rows with and without an image go through the model apart: less padding, the same gradient."""

import torch

from safe_train.data.example import Example
from safe_train.data.sampler import length_buckets
from tests.data.shards import as_files, as_shards
from tests.tolerances import relative_error


def padding_of(batches) -> tuple[int, int]:
    """Padded positions and all positions."""
    masks = [batch.inputs["attention_mask"] for batch in batches]
    return sum(int((mask == 0).sum()) for mask in masks), sum(mask.numel() for mask in masks)


def test_every_row_is_in_one_group_in_its_order(tmp_path):
    rows = [Example(str(n), "what?", ("x",), image=tmp_path if n in (1, 2, 5) else None) for n in range(6)]
    assert [[row.row_id for row in group] for group in length_buckets(rows)] == [["0", "3", "4"], ["1", "2", "5"]]
    assert length_buckets(rows[1:3]) == [rows[1:3]]
    assert length_buckets([]) == []


def test_same_rows_less_padding_and_the_same_gradient(configure, prepare):
    found = []
    for flag in (False, True):
        stage = prepare(configure(variant="no_retention", data__length_buckets=flag, optimization__audio_batch_size=16))
        batches = stage.batches.at(0).task
        losses = stage.compute_gradient(batches, [])
        gradient = torch.cat([p.grad.flatten() for p in stage.model.trainable_parameters().values()])
        found.append((batches, losses["audio_loss"], gradient))
    (whole, loss, gradient), (apart, loss_apart, gradient_apart) = found
    assert (len(whole), len(apart)) == (1, 2)
    assert sorted(row.row_id for batch in apart for row in batch.rows) == sorted(row.row_id for row in whole[0].rows)
    assert {len({row.image is None for row in batch.rows}) for batch in apart} == {1}
    assert abs(loss_apart - loss) < 1e-5 * loss
    assert relative_error(gradient_apart, gradient) < 1e-4
    (padded, _), (padded_apart, _) = padding_of(whole), padding_of(apart)
    assert padded_apart < padded


def test_negative_control_a_mean_of_the_groups_means_is_another_loss(configure, prepare):
    stage = prepare(configure(variant="no_retention", data__length_buckets=True, optimization__audio_batch_size=16))
    batches = stage.batches.at(0).task
    tokens = sum(len(batch.labels) for batch in batches)
    with torch.no_grad():
        whole = sum(float(stage._task_loss(batch, tokens)) for batch in batches)
        means = sum(float(stage._task_loss(batch, len(batch.labels))) for batch in batches) / 2
    assert len({len(batch.labels) for batch in batches}) == 2
    assert abs(means - whole) > 1e-4 * whole


def test_shards_train_to_the_bits_of_the_same_data_in_files(configure, prepare, small_data, tmp_path):
    """Clips and images come from archives; the order of the examples is a function of seed and step alone."""
    weights = []
    for root in (as_files(small_data, tmp_path / "files"), as_shards(small_data, tmp_path / "shards")):
        stage = prepare(configure(variant="full_retention", data__root=str(root)))
        for _ in range(3):
            stage.train_step()
        weights.append({name: p.detach().clone() for name, p in stage.model.trainable_parameters().items()})
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
