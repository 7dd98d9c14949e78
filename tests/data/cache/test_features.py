"""Audio features are computed once, and have the same bits however they were kept."""

import shutil
import threading

import numpy as np
import pytest
import soundfile
import torch

from safe_train.audio.input import Amplified, WhiteNoise, render_waveform
from safe_train.configs.model_configs import EMBEDDED
from safe_train.data.cache import features as feature_cache
from safe_train.data.cache.features import FeatureCache
from safe_train.data.cache.tensor_store import TensorStore
from safe_train.errors import InputError
from safe_train.model.audio.encoder import AudioFeatures, load_audio_encoder
from tests.data.cache.stores import counts, store


@pytest.fixture(scope="module")
def audio_encoder():
    return load_audio_encoder(EMBEDDED)


@pytest.fixture
def clips(tmp_path):
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{index}.wav" for index in range(3)]
    for index, path in enumerate(paths):
        soundfile.write(path, 0.2 * rng.standard_normal(16_000 * (index + 1)), 16_000)
    return [*paths, Amplified(paths[0], 20.0), WhiteNoise(-20.0, 3), None]


@pytest.mark.parametrize("clip", [None, WhiteNoise(-20.0, 3)])
def test_the_key_of_a_made_clip_holds_its_length(clip, audio_encoder, monkeypatch):
    """Features of two seconds of silence are not those of three."""
    keys = set()
    for seconds in (2.0, 3.0):
        monkeypatch.setattr(feature_cache, "SYNTHETIC_SECONDS", seconds)
        keys.add(FeatureCache([audio_encoder])._key(0, clip))
    assert len(keys) == 2


def test_features_have_the_same_bits_however_they_were_kept(tmp_path, audio_encoder, clips):
    (expected,) = FeatureCache([audio_encoder]).get(clips)
    for name, kept in {
        "first": store(tmp_path / "cache"),
        "from disk": store(tmp_path / "cache"),
        "hardly any memory": store(tmp_path / "cache", max_bytes=1),
        "neither memory nor disk": TensorStore(max_bytes=1),
    }.items():
        cache = FeatureCache([audio_encoder], store=kept)
        for order in (clips, clips[::-1]):
            (found,) = cache.get(order)
            assert torch.equal(found.values, expected.values if order is clips else expected.values.flip(0)), name
            assert torch.equal(found.mask, expected.mask if order is clips else expected.mask.flip(0)), name


def test_the_second_run_encodes_nothing(tmp_path, audio_encoder, clips):
    first, second = store(tmp_path / "cache"), store(tmp_path / "cache")
    FeatureCache([audio_encoder], store=first).get(clips)
    FeatureCache([audio_encoder], store=second).get([*clips, *clips])
    assert counts(first) == (0, 0, len(clips))
    assert counts(second) == (0, len(clips), 0)


def test_a_clip_counts_by_its_bytes_and_alterations(tmp_path, audio_encoder, clips):
    kept = store(tmp_path / "cache")
    FeatureCache([audio_encoder], store=kept).get(clips)
    copy = tmp_path / "copy of the first.wav"
    shutil.copy(clips[0], copy)
    moved, altered = store(tmp_path / "cache"), store(tmp_path / "cache")
    FeatureCache([audio_encoder], store=moved).get([copy, Amplified(copy, 20.0)])
    assert counts(moved) == (0, 2, 0)
    soundfile.write(clips[1], np.zeros(16_000), 16_000)  # another sound under an old name
    FeatureCache([audio_encoder], store=altered).get([clips[1], Amplified(copy, 10.0), WhiteNoise(-20.0, 4)])
    assert counts(altered) == (0, 0, 3)


def test_another_encoder_does_not_find_the_features(tmp_path, clips):
    FeatureCache([load_audio_encoder(EMBEDDED)], store=store(tmp_path / "cache")).get(clips)
    other = load_audio_encoder(EMBEDDED)
    with torch.no_grad():
        next(iter(other.parameters())).view(-1)[0] += 1e-3
    kept = store(tmp_path / "cache")
    FeatureCache([other], store=kept).get(clips)
    assert counts(kept) == (0, 0, len(clips))
    half, of_half = load_audio_encoder(EMBEDDED, dtype=torch.bfloat16), store(tmp_path / "cache")
    FeatureCache([half], store=of_half).get(clips[:1])
    assert counts(of_half) == (0, 0, 1)


def test_another_level_does_not_find_the_features(tmp_path, clips):
    """And the features of clips as loud as they are keep the keys that they had before there were levels."""
    encoders = [load_audio_encoder(EMBEDDED, level_db=level) for level in (None, -20.0, -23.0, -23.0)]
    computed = []
    for encoder in encoders:
        kept = store(tmp_path / "cache")
        FeatureCache([encoder], store=kept).get(clips[:2])
        computed.append(kept.computed)
    assert computed == [2, 2, 2, 0]
    without = load_audio_encoder(EMBEDDED)
    del without.level_db
    assert feature_cache._encoder_sha256(without) == feature_cache._encoder_sha256(encoders[0])


def test_another_window_does_not_find_the_features(tmp_path, clips):
    """Also of an encoder whose own window is longer; a limit that is longer than that changes nothing."""
    computed = []
    for seconds in (30.0, 1.0, 0.5, 2.0, 1.0):
        kept = store(tmp_path / "cache")
        FeatureCache([load_audio_encoder(EMBEDDED, features="grid", seconds=seconds)], store=kept).get(clips[1:3])
        computed.append(kept.computed)
    assert computed == [2, 2, 2, 0, 0]  # the embedded encoder hears 2 s


@pytest.mark.parametrize(("dtype", "size"), [(torch.bfloat16, 2), (torch.float32, 4)])
def test_features_are_kept_in_the_encoders_precision(dtype, size, tmp_path, clips):
    """Without loss: those of an encoder in half precision take half the memory and come back as the same bits."""
    encoder = load_audio_encoder(EMBEDDED, features="grid", dtype=dtype)
    expected = encoder([render_waveform(clips[0], encoder.sampling_rate)])
    first, second = store(tmp_path / "cache"), store(tmp_path / "cache")
    for kept in (first, first, second):  # computed, from memory, from disk
        (found,) = FeatureCache([encoder], store=kept).get(clips[:1])
        assert found.values.dtype == torch.float32
        assert torch.equal(found.values, expected.values)
        assert torch.equal(found.mask, expected.mask)
        assert kept.num_bytes == expected.values.numel() * size + expected.mask.numel()
    assert (counts(first), counts(second)) == ((1, 0, 1), (0, 1, 0))


def test_what_half_precision_would_round_is_kept_as_it_is(audio_encoder, clips):
    """A mean over a clip is taken in float32, whatever the precision of the encoder."""
    encoder = load_audio_encoder(EMBEDDED, dtype=torch.bfloat16)
    third = torch.full((1, 1, 4), 1 / 3)
    encoder.encode = lambda _: AudioFeatures(third, torch.ones(1, 1, dtype=torch.bool))
    (found,) = FeatureCache([encoder]).get(clips[:1])
    assert torch.equal(found.values, third)


def test_a_clip_that_vanished_is_told_with_its_name(tmp_path, audio_encoder):
    with pytest.raises(InputError, match=r"gone\.wav"):
        FeatureCache([audio_encoder], store=store(tmp_path)).get([tmp_path / "gone.wav"])


def test_threads_decode_to_the_same_bits(embedded_base, make_safe_model, small_data, monkeypatch):
    """And they are at work: with workers, no clip is decoded in the main thread."""
    clips = sorted((small_data / "audiocaps/audio/val").iterdir())[:6]
    encoders = list(make_safe_model().encoders)
    names = []
    load = feature_cache.render_waveform

    def recording(path, rate, window):
        names.append(threading.current_thread().name)
        return load(path, rate, window)

    monkeypatch.setattr(feature_cache, "render_waveform", recording)
    alone = FeatureCache(encoders).get([*clips, None, clips[0]])
    assert set(names) == {threading.main_thread().name}
    names.clear()
    threaded = FeatureCache(encoders, num_workers=2).get([*clips, None, clips[0]])
    assert len(names) == 7  # six clips and silence
    assert threading.main_thread().name not in names
    for one, other in zip(alone, threaded, strict=True):
        assert torch.equal(one.values, other.values)
