"""The teacher's kept states are a function of the example alone."""

from dataclasses import replace

import pytest
import torch

from safe_train.config import StageAConfig, build_config
from safe_train.data.cache.teacher_states import TeacherCache
from safe_train.data.cache.tensor_store import TensorStore
from safe_train.data.example import DOCUMENT, Example
from safe_train.model.retention_model import SafeRetentionModel
from safe_train.training.build import attach, build_collator, load_base_model, load_examples, tensor_store
from tests.tolerances import LOGITS, relative_error


@pytest.fixture
def configure(small_data):
    """A configuration on the small data; keyword arguments are dotted settings with ``__`` for the dot."""

    def build(**settings) -> StageAConfig:
        changes = {key.replace("__", "."): str(value) for key, value in settings.items()}
        return build_config({}, {"data.root": str(small_data)} | changes)

    return build


@pytest.fixture
def prepared(configure):
    config = configure(variant="soft_retention")
    model = attach(load_base_model(config), config)
    return model, build_collator(model, config.data), load_examples(config).train_vl[:6]


def new_cache(model, encoder) -> TeacherCache:
    return TeacherCache(model, encoder, TensorStore(2**20))


def weights_of(stage) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in stage.model.trainable_parameters().items()}


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
