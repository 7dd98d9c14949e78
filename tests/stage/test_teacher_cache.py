"""The teacher's kept states: a function of the row alone, and a training that does not notice who computed them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from safe_train.data.cache.teacher_states import TeacherCache
from safe_train.data.cache.tensor_store import TensorStore
from safe_train.data.example import DOCUMENT, Example
from safe_train.model.retention_model import SafeRetentionModel
from safe_train.runs.checkpoint import latest_checkpoint
from safe_train.training.build import attach, build_collator, load_base_model, load_examples, tensor_store
from tests.tolerances import LOGITS, relative_error


@pytest.fixture
def prepared(configure):
    config = configure(variant="soft_retention")
    model = attach(load_base_model(config), config)
    return model, build_collator(model, config.data), load_examples(config).train_vl[:6]


def new_cache(model, encoder) -> TeacherCache:
    return TeacherCache(model, encoder, TensorStore(2**20))


def weights_of(stage) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in stage.model.trainable_parameters().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())


def test_states_are_those_of_the_bypass_in_the_batch_up_to_rounding(prepared):
    model, encoder, rows = prepared
    batch = encoder.training_batch(rows)
    found = SafeRetentionModel(model, new_cache(model, encoder)).teacher(batch)
    expected = SafeRetentionModel(model).teacher(batch)
    assert relative_error(found, expected) < LOGITS[torch.float32]
    one_off = SafeRetentionModel(model).teacher(replace(batch, token_positions=batch.token_positions - 1))
    assert relative_error(one_off, expected) > 0.01  # negative control


def test_a_rows_bits_do_not_depend_on_its_batch_or_on_what_was_kept(prepared):
    model, encoder, rows = prepared
    cache = new_cache(model, encoder)
    cache.states(rows[:2])
    together = cache.states(rows)
    alone = torch.cat([new_cache(model, encoder).states([row]) for row in rows])
    assert torch.equal(together, alone)
    assert cache.store.computed == len({(row.image, row.question) for row in rows})


def test_states_of_a_document_are_those_of_the_tokens_that_stand_for_it(prepared):
    model, encoder, rows = prepared
    encoder.document_tokens = 4
    document = Example("d", "", ("two red stars and one small blue circle in the top left",), kind=DOCUMENT)
    batch = encoder.training_batch([rows[0], document, rows[1]], protected=True)
    found = SafeRetentionModel(model, new_cache(model, encoder)).teacher(batch)
    assert relative_error(found, SafeRetentionModel(model).teacher(batch)) < LOGITS[torch.float32]


def test_negative_control_states_computed_in_a_batch_depend_on_it(prepared):
    model, encoder, rows = prepared
    protected = SafeRetentionModel(model)
    together = protected.teacher(encoder.training_batch(rows))
    alone = torch.cat([protected.teacher(encoder.training_batch([row])) for row in rows])
    assert not torch.equal(together, alone)


def test_audio_gate_and_training_do_not_reach_the_states(prepared):
    model, encoder, rows = prepared
    before = new_cache(model, encoder).states(rows)
    for parameter in model.trainable_parameters().values():
        torch.nn.init.normal_(parameter)
    heard = [replace(row, audio=None) for row in rows]
    with model.attached(encoder.features_of(rows)):
        assert torch.equal(new_cache(model, encoder).states(heard), before)


def test_another_answer_is_another_row(prepared):
    model, encoder, rows = prepared
    cache = new_cache(model, encoder)
    first = cache.states(rows[:1])
    other = cache.states([replace(rows[0], answers=("top left",))])
    assert first.shape[1] == other.shape[1]
    assert not torch.equal(first[-1], other[-1])


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


def test_another_base_or_precision_is_another_key(configure, tmp_path):
    def stored(**settings) -> TeacherCache:
        config = configure(variant="soft_retention", data__cache_root=tmp_path, **settings)
        model = attach(load_base_model(config), config)
        encoder = build_collator(model, config.data)
        cache = TeacherCache(model, encoder, tensor_store(config.data, "teacher-states"))
        cache.states(load_examples(config).train_vl[:2])
        return cache

    assert (stored().store.computed, stored().store.computed) == (2, 0)
    assert stored(precision="bf16").store.computed == 2
