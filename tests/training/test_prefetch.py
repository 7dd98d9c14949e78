"""Worker processes prepare the next steps: to the same bits, in bounded memory, and they end with the run."""

import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from safe_train.data.cache import features as feature_cache
from safe_train.errors import InputError
from safe_train.training.prefetch import StepPrefetcher


def tensors_of(step):
    return [batch.to_tensors() for batch in (*step.task, *step.retention)]


def are_equal(one, other):
    """Whether two steps have the same tensors with the same bits and types, of the same examples."""
    rows = [[batch.rows for batch in (*step.task, *step.retention)] for step in (one, other)]
    if rows[0] != rows[1]:
        return False
    pairs = zip(tensors_of(one), tensors_of(other), strict=True)
    return all(
        list(a) == list(b) and all(torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a)
        for a, b in pairs
    )


@pytest.fixture
def no_child():
    """No process is left by the test."""
    yield
    deadline = time.monotonic() + 20
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert multiprocessing.active_children() == []


SETTINGS = [
    {"data__image_prob": 0.5},
    {"data__length_buckets": True, "data__silence_prob": 0.4, "data__noise_prob": 0.3, "data__loud_prob": 0.3},
    {"data__gains_db": [-20.0, 10.0], "data__cache_gib": 1e-6, "optimization__gradient_accumulation_steps": 2},
    {"precision": "bf16", "model__audio_features": ["grid"]},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_prepared_steps_have_the_bits_of_steps_made_in_turn(configure, prepare, text_folder, settings, no_child):
    """Also those fetched before their turn, and those whose features had to leave the memory again."""
    changes = settings | {"data__root": text_folder, "variant": "full_retention"}
    in_turn = prepare(configure(**changes)).batches
    ahead = prepare(configure(**changes, data__num_workers=2)).batches
    with ahead.prefetched(0, 8):
        for step in range(8):
            if step % 2:
                ahead.stage(step)
            found = ahead.at(step)
            assert are_equal(found, in_turn.at(step))
            assert not are_equal(found, in_turn.at(step + 1))  # negative control
            ahead.stage(8)  # there is none


def test_no_file_is_decoded_by_the_run_itself(configure, prepare, monkeypatch, no_child):
    """Each clip is decoded once, by a worker; the features of an earlier run are read by one too."""
    stage = prepare(configure(data__num_workers=2, variant="full_retention"))
    decoded = []
    load = feature_cache.render_waveform
    monkeypatch.setattr(feature_cache, "render_waveform", lambda *args: decoded.append(args) or load(*args))
    ordered = []
    with stage.batches.prefetched(0, 8):
        for _ in range(8):
            prepared = stage.batches._prefetcher.take()
            ordered += prepared.clips
            for batch in prepared.retention:
                stage.batches.collator.with_audio(batch, silence=True, prepared=prepared.clips)
            for batch in prepared.task:
                stage.batches.collator.with_audio(batch, silence=False, prepared=prepared.clips)
    assert decoded == []
    assert len(ordered) == len(set(ordered)) > 8
    needed = {clip for step in range(8) for kind in stage.batches.buckets(step) for group in kind for clip in group}
    assert set(ordered) == {example.audio for example in needed}


def test_features_of_an_earlier_run_are_read_by_workers(configure, prepare, tmp_path, monkeypatch, no_child):
    """And their memory does not keep everything else that came with them."""
    settings = {"data__num_workers": 1, "data__cache_root": tmp_path / "cache", "variant": "no_retention"}
    counts = []
    for _ in range(2):
        stage = prepare(configure(**settings))
        store = stage.batches.collator.features.store
        if counts:
            monkeypatch.setattr(feature_cache.FeatureCache, "_decode", None)
        with stage.batches.prefetched(0, 4):
            steps = [stage.batches.at(step) for step in range(4)]
        counts.append((store.found_on_disk, store.computed))
        assert all(
            tensor.untyped_storage().nbytes() == tensor.nbytes
            for tensors in store._kept.values()
            for tensor in tensors.values()
        )
        assert len(steps) == 4
    (_, computed), (found, again) = counts
    assert computed == found > 0
    assert again == 0


def weights_after(stage, run):
    outcome = stage.train(run)
    return {name: p.detach().clone() for name, p in stage.model.trainable_parameters().items()}, outcome


def test_runs_have_the_same_weights_and_metrics_and_generator(configure, prepare, tmp_path, no_child):
    """Starting workers draws nothing of the generator that a run's checkpoint holds."""
    found = []
    for workers, factor in ((0, 2), (1, 1), (2, 3)):
        stage = prepare(configure(variant="full_retention", data__num_workers=workers, data__prefetch_factor=factor))
        torch.manual_seed(7)
        weights, outcome = weights_after(stage, tmp_path / str(workers))
        assert outcome.last["seconds"] >= outcome.last["data_seconds"] > 0
        found.append((weights, outcome.last | {"seconds": 0, "data_seconds": 0}, torch.get_rng_state()))
    for weights, last, generator in found[1:]:
        assert all(torch.equal(weights[name], value) for name, value in found[0][0].items())
        assert last == found[0][1]
        assert torch.equal(generator, found[0][2])


def test_no_more_steps_are_ahead_than_asked_for(configure, prepare, no_child):
    """So that memory is bounded; the count is that of the orders that the workers were given."""
    stage = prepare(configure(data__num_workers=2, data__prefetch_factor=3))
    prefetcher = StepPrefetcher(stage.batches, 0, 1_000, 2, 3)
    for taken in range(5):
        assert prefetcher.num_ordered - taken == 6
        prefetcher.take()
    prefetcher.close()


@pytest.mark.parametrize("staged", [False, True])
def test_a_file_that_is_gone_is_named_by_its_own_words(configure, prepare, data_folder, tmp_path, staged, no_child):
    """When its step is taken, not before, with every part of the error."""
    root = Path(shutil.copytree(data_folder, tmp_path / "data"))
    stage = prepare(configure(data__root=root, data__num_workers=2, data__image_prob=1.0))
    for image in (root / "vqa/train2014").glob("*.png"):
        image.unlink()
    with stage.batches.prefetched(0, 8):
        if staged:
            stage.batches.stage(0)
        with pytest.raises(InputError) as caught:
            stage.batches.at(0)
    assert caught.value.where.endswith(".png")
    assert (caught.value.expected, caught.value.got) == ("an image", "no such file")


def test_a_worker_that_dies_is_told_in_one_line(configure, prepare, tmp_path, no_child):
    """As one does that the kernel kills for memory; the last checkpoint is there."""
    stage = prepare(configure(data__num_workers=2))

    def kill(step, _metrics):
        if step == 5:
            for child in multiprocessing.active_children():
                os.kill(child.pid, signal.SIGKILL)

    with pytest.raises(InputError, match=r"workers that go on, got DataLoader worker .* killed by signal") as caught:
        stage.train(tmp_path, on_step=kill)
    assert "\n" not in str(caught.value)
    assert "/dev/shm" in str(caught.value)


def test_workers_leave_signals_to_the_run(configure, prepare, tmp_path, no_child):
    """Ctrl-C reaches all processes of a terminal: the run ends its step and stops, with a checkpoint."""
    stage = prepare(configure(data__num_workers=2, optimization__max_steps=30))
    told = []

    def interrupt(step, _metrics):
        told.append(step)
        if step == 3:
            for child in multiprocessing.active_children():
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
                    os.kill(child.pid, number)

    outcome = stage.train(tmp_path, on_step=interrupt, should_stop=lambda: len(told) >= 20)
    assert outcome.steps == 21
    assert not outcome.finished
