"""Audio encoders of each class: what is read of them, lengths, and masks behind which nothing is heard."""

from __future__ import annotations

import json
import math
import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoFeatureExtractor, AutoModel, ClapAudioModelWithProjection, WhisperFeatureExtractor

from safe_train.config import build_config
from safe_train.configs.model_configs import EMBEDDED
from safe_train.errors import InputError
from safe_train.estimate.meta_model import meta_audio_encoder
from safe_train.huggingface import SafeForConditionalGeneration
from safe_train.model.audio.encoder import AT_ONCE, AudioEncoder, AudioFeatures, leveled, load_audio_encoder
from safe_train.model.audio.projector import AudioProjector
from safe_train.model.loading import load_base
from safe_train.model.safe_model import AdapterConfig, SafeModel
from safe_train.training.build import load_audio_encoders
from tests.model.audio_models import AUDIO_MODELS
from tests.tolerances import LOGITS, relative_error

RATE = 16_000


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("audio")
    return {name: str(model.save(root / name)) for name, model in AUDIO_MODELS.items()}


@pytest.fixture(params=AUDIO_MODELS)
def name(request) -> str:
    return request.param


@pytest.fixture
def encoder(name, folders) -> AudioEncoder:
    return load_audio_encoder(folders[name], features=AUDIO_MODELS[name].features)


@pytest.fixture
def clips() -> list[torch.Tensor]:
    """Of 0.5, 1.5 and 1 seconds."""
    generator = torch.Generator().manual_seed(0)
    return [0.1 * torch.randn(int(seconds * RATE), generator=generator) for seconds in (0.5, 1.5, 1.0)]


def last_layer(folder: str, clip: torch.Tensor):
    """The model's own output for a clip that is alone, through its own extractor."""
    kind = ClapAudioModelWithProjection if "clap" in folder else AutoModel
    model, extractor = kind.from_pretrained(folder).eval(), AutoFeatureExtractor.from_pretrained(folder)
    inputs = extractor(clip.numpy(), sampling_rate=RATE, return_tensors="pt")
    inputs.pop("attention_mask", None)
    with torch.no_grad():
        return (model.encoder if "whisper" in folder else model)(**inputs)


def test_features_are_the_models_own(name, folders, encoder, clips):
    output = last_layer(folders[name], clips[1])
    values = encoder([clips[1]]).values[0]
    mask = encoder([clips[1]]).mask[0]
    if name == "clap pooled":
        expected = output.audio_embeds
    elif name == "clap grid":  # [1, D, bands, moments]: the bands of the first moment come first
        grid = output.last_hidden_state[0]
        expected = torch.stack([grid[:, band, moment] for moment in range(16) for band in range(4)])
    elif name == "ast":  # two summaries, then the moments of the first band, then those of the second
        states = output.last_hidden_state[0, 2:]
        expected = torch.stack([states[band * 25 + moment] for moment in range(25) for band in range(2)])
    elif name == "whisper pooled":  # 1.5 of 4 seconds
        expected = output.last_hidden_state[0, :75].mean(dim=0, keepdim=True)
    else:
        expected = output.last_hidden_state[0]
    assert relative_error(values[mask], expected[: len(values[mask])]) <= LOGITS[torch.float32]


def test_an_attention_mask_without_padding_says_nothing(folders, clips):
    """Models that were trained with a mask give the same without one for a clip alone, so it is left out."""
    folder = folders["wav2vec2 large"]
    model, extractor = AutoModel.from_pretrained(folder).eval(), AutoFeatureExtractor.from_pretrained(folder)
    inputs = extractor(clips[1].numpy(), sampling_rate=RATE, return_tensors="pt")
    assert inputs["attention_mask"].all()
    with torch.no_grad():
        expected = model(**inputs).last_hidden_state[0]
    values = load_audio_encoder(folder)([clips[1]]).values[0, : len(expected)]
    assert relative_error(values, expected) <= LOGITS[torch.float32]


def test_features_end_with_the_clip(name, encoder):
    described = AUDIO_MODELS[name]
    seconds = (0.5, 1.0, 1.3)
    counts = encoder([torch.zeros(int(length * RATE)) for length in seconds]).mask.sum(dim=1).tolist()
    for length, count in zip(seconds, counts, strict=True):
        if described.per_second is None:
            assert count == 1
        elif described.window < 30:  # a feature that begins within the clip counts
            bands = {"clap grid": 4, "ast": 2}.get(name, 1)
            assert count == bands * math.ceil(length * described.per_second / bands - 1e-9)
        else:  # a window of analysis is a little longer than its step
            assert length * described.per_second - 2 <= count <= length * described.per_second


def test_a_clip_does_not_hear_its_neighbors(name, encoder, clips):
    together = encoder(clips)
    for index, clip in enumerate(clips):
        alone = encoder([clip])
        assert torch.equal(together.values[index], alone.values[0])
        assert torch.equal(together.mask[index], alone.mask[0])
    assert not torch.equal(together.values[0], together.values[1])


def test_a_padded_batch_would_hear_its_neighbors(folders, clips):
    """The control: a model that normalizes over the clip hears the padding if clips of two lengths go in together."""
    folder = folders["wav2vec2"]
    model, extractor = AutoModel.from_pretrained(folder).eval(), AutoFeatureExtractor.from_pretrained(folder)
    inputs = extractor([clip.numpy() for clip in clips], sampling_rate=RATE, padding=True, return_tensors="pt")
    with torch.no_grad():
        padded = model(**inputs).last_hidden_state[0]
    alone = load_audio_encoder(folder)([clips[0]])
    heard = alone.values[0][alone.mask[0]]
    assert relative_error(padded[: len(heard)], heard) > 100 * LOGITS[torch.float32]


def test_a_long_clip_is_heard_up_to_the_window(name, folders):
    encoder = load_audio_encoder(folders[name], features=AUDIO_MODELS[name].features, seconds=3.0)
    assert encoder.window == min(3.0, AUDIO_MODELS[name].window) * RATE
    clip = 0.1 * torch.randn(encoder.window + RATE, generator=torch.Generator().manual_seed(0))
    assert torch.equal(encoder([clip]).values, encoder([clip[: encoder.window]]).values)
    assert encoder([clip]).mask.all()
    assert encoder([clip]).values.shape == (1, encoder.num_features, encoder.feature_size)


@pytest.mark.parametrize(
    ("name", "seconds", "count"),
    [
        ("whisper", 1.0, 50),  # of 200 in 4 s
        ("whisper", 0.51, 26),  # the last of them begins at 0.5 s
        ("whisper", 0.5, 25),
        ("whisper", 30.0, 200),
        ("whisper pooled", 1.0, 1),
        ("clap pooled", 1.0, 1),
        ("clap grid", 1.0, 8 * 4),  # of 16 moments in 2 s, 4 bands each
        ("clap grid", 0.8, 7 * 4),
        ("ast", 1.0, 13 * 2),  # of 25 moments in 2 s, 2 bands each
        ("ast", 2.5, 25 * 2),
    ],
)
def test_of_an_encoder_with_a_longer_window_those_features_are_kept_that_begin_in_time(name, seconds, count, folders):
    """Bit for bit those of the whole window, for the clip cropped to so many seconds."""
    kind = AUDIO_MODELS[name].features
    whole = load_audio_encoder(folders[name], features=kind)
    encoder = load_audio_encoder(folders[name], features=kind, seconds=seconds)
    assert encoder.window == min(seconds, AUDIO_MODELS[name].window) * RATE
    clip = 0.1 * torch.randn(5 * RATE, generator=torch.Generator().manual_seed(0))
    found, expected = encoder([clip]), whole([clip[: encoder.window]])
    assert found.values.shape == (1, count, whole.feature_size) == (1, encoder.num_features, encoder.feature_size)
    assert torch.equal(found.values, expected.values[:, :count])
    assert found.mask.all()
    assert not expected.mask[:, count:].any()
    if encoder.window < whole.window:  # the control: what lies behind would change them
        assert not torch.equal(whole([clip]).values[:, :count], found.values)
    dry_run = meta_audio_encoder(folders[name], torch.float32, features=kind, seconds=seconds)
    assert (dry_run.window, dry_run.num_features) == (encoder.window, count)
    half = encoder([clip[: encoder.window // 2]])
    assert torch.equal(half.mask, whole([clip[: encoder.window // 2]]).mask[:, :count])


def test_five_seconds_of_whisper_are_250_features():
    """Of the published 1500 in 30 s; behind the clip lies silence, by Whisper's own extractor or in the file."""
    torch.manual_seed(0)
    tiny, _ = AUDIO_MODELS["whisper"].build()
    tiny.config.max_source_positions = 1_500
    model, extractor = type(tiny)(tiny.config), WhisperFeatureExtractor(feature_size=16)
    whole, encoder = AudioEncoder(model, extractor, "whisper"), AudioEncoder(model, extractor, "whisper", seconds=5.0)
    assert (whole.window, whole.num_features) == (30 * RATE, 1_500)
    assert (encoder.window, encoder.num_features) == (5 * RATE, 250)
    clip = 0.1 * torch.randn(5 * RATE, generator=torch.Generator().manual_seed(0))
    silence_behind = torch.cat([clip, torch.zeros(25 * RATE)])
    assert torch.equal(encoder([clip]).values, whole([silence_behind]).values[:, :250])
    noise_behind = torch.cat([clip, 0.1 * torch.ones(25 * RATE)])
    assert not torch.equal(encoder([clip]).values, whole([noise_behind]).values[:, :250])
    assert torch.equal(encoder([clip]).values, encoder([noise_behind]).values)


WINDOWED = [("whisper", 30.0), ("whisper pooled", 30.0), ("clap pooled", 30.0), ("clap grid", 30.0), ("ast", 30.0)]


@pytest.mark.parametrize(("name", "limit"), [*WINDOWED, ("whisper", 9.0), ("clap grid", 5.0), ("clap pooled", 4.5)])
def test_a_long_clip_is_heard_in_several_windows(name, limit, folders):
    """Each gives, bit for bit, the features that it has as a clip; those behind the end are masked."""
    kind, own = AUDIO_MODELS[name].features, int(AUDIO_MODELS[name].window * RATE)
    single = load_audio_encoder(folders[name], features=kind)
    encoder = load_audio_encoder(folders[name], features=kind, seconds=limit, windows=3)
    assert encoder.window == min(3 * own, limit * RATE)
    assert (single.num_windows, encoder.num_windows) == (1, math.ceil(encoder.window / own))
    clip = 0.1 * torch.randn(4 * own, generator=torch.Generator().manual_seed(0))
    for length in (len(clip), int(2.5 * own), own, own // 2, 0):
        heard = clip[: min(length, encoder.window)]
        parts = [single([heard[start : start + own]]) for start in range(0, encoder.window, own)]
        found = encoder([clip[:length]])
        count = encoder.num_features
        assert found.values.shape == (1, count, single.feature_size)
        assert torch.equal(found.mask, torch.cat([part.mask for part in parts], dim=1)[:, :count])
        assert torch.equal(found.values, torch.cat([part.values for part in parts], dim=1)[:, :count])
    together = encoder([clip, clip[: own // 2], clip[:own]])
    assert torch.equal(together.values, torch.cat([encoder([c]).values for c in (clip, clip[: own // 2], clip[:own])]))
    dry_run = meta_audio_encoder(folders[name], torch.float32, features=kind, seconds=limit, windows=3)
    assert (dry_run.window, dry_run.num_features) == (encoder.window, encoder.num_features)


def test_a_model_without_a_window_of_its_own_has_one(folders):
    encoder = load_audio_encoder(folders["wav2vec2"], seconds=3.0, windows=5)
    assert (encoder.num_windows, encoder.window) == (1, 3 * RATE)


def test_what_a_clips_key_depends_on_has_not_changed(folders):
    """Features that earlier versions have kept are found: these attributes of an encoder are part of their keys."""
    attributes = vars(load_audio_encoder(folders["whisper"])).items()
    plain = {
        name
        for name, value in attributes
        if isinstance(value, str | int | float) and name not in vars(torch.nn.Module())
    }
    assert plain == {
        "source", "sampling_rate", "features", "window", "_fixed", "feature_size", "_grid_size", "num_features",
    }  # fmt: skip


def calls_of(encoder, monkeypatch):
    """The batch sizes with which the model is called from now on."""
    sizes, forward = [], encoder.model.forward

    def counting(*args, **inputs):
        sizes.append(len(next(iter(inputs.values()))))
        return forward(*args, **inputs)

    monkeypatch.setattr(encoder.model, "forward", counting)
    return sizes


def test_clips_are_encoded_together_with_the_bits_that_each_has_alone(name, encoder, monkeypatch):
    """The first of a length are encoded both ways, to be compared; others too few for that, or of another, alone."""
    generator = torch.Generator().manual_seed(3)
    clips = [0.1 * torch.randn(RATE, generator=generator) for _ in range(2 * AT_ONCE + 3)]
    clips.append(0.1 * torch.randn(RATE // 2, generator=generator))
    alone = AudioFeatures.cat([encoder([clip]) for clip in clips])
    sizes = [] if name in ("whisper", "whisper pooled") else calls_of(encoder, monkeypatch)
    found = encoder(clips)
    assert torch.equal(found.values, alone.values)
    assert torch.equal(found.mask, alone.mask)
    (same,) = encoder._same_together.values()
    if sizes:
        together = [AT_ONCE, *[1] * AT_ONCE, *([AT_ONCE] if same else [1] * AT_ONCE), 1, 1, 1, 1]
        assert sizes == together


def test_negative_control_a_model_that_has_other_bits_together_encodes_clips_alone(folders, monkeypatch, caplog):
    encoder = load_audio_encoder(folders["clap grid"], features="grid")
    clips = [0.1 * torch.randn(RATE, generator=torch.Generator().manual_seed(n)) for n in range(2 * AT_ONCE)]
    alone = AudioFeatures.cat([encoder([clip]) for clip in clips])
    forward = encoder.model.forward

    def differing(**inputs):
        found = forward(**inputs)
        if len(inputs["input_features"]) > 1:
            found.last_hidden_state[-1, 0, 0, 0] += 1e-7 * found.last_hidden_state.abs().max()
        return found

    monkeypatch.setattr(encoder.model, "forward", differing)
    with caplog.at_level("INFO"):
        assert torch.equal(encoder(clips).values, alone.values)
    assert "clips are encoded one by one" in caplog.text


@pytest.mark.parametrize(("seconds", "tokens"), [(30.0, 2), (2.0, 4), (1.0, 8)])
def test_the_audio_tokens_spread_over_the_window(seconds, tokens, folders, clips):
    """Of 8, a clip of one second has 2 in Whisper's own window, here 4 s, and all of them in a window of one."""
    encoder = load_audio_encoder(folders["whisper"], seconds=seconds)
    projector = AudioProjector(encoder.num_features, encoder.feature_size, 8, 16, 32)
    _, mask = projector(encoder(clips[2:]))
    assert mask[0].tolist() == [True] * tokens + [False] * (8 - tokens)


@pytest.mark.parametrize("name", ["whisper", "wav2vec2"])
def test_a_window_that_no_clip_fits_into_is_refused(name, folders):
    with pytest.raises(InputError, match=r"model\.audio_seconds: expected a clip of at least 0\.025 s, got 0\.02 s"):
        load_audio_encoder(folders[name], seconds=0.02)
    assert load_audio_encoder(folders[name], seconds=0.04).num_features == {"whisper": 2, "wav2vec2": 1}[name]


@pytest.fixture(scope="module")
def base():
    return load_base(EMBEDDED)


def hearing(base, encoders) -> SafeModel:
    config = AdapterConfig(num_audio_tokens=4, projector_hidden=16, fusion_layers=(0,), fusion_dim=32, fusion_heads=4)
    model = SafeModel(base, encoders, config)
    for index, parameter in enumerate(model.trainable_parameters().values()):
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(index))
    return model


def logits(model: SafeModel, features, rows: int = 1) -> torch.Tensor:
    ids = torch.arange(40, 46)[None].repeat(len(features[0].values) if features else rows, 1)
    with torch.no_grad():
        hidden = model.last_hidden_state({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, features)
        return model.base.head(hidden)


@pytest.mark.parametrize("rubbish", [1e3, math.nan, math.inf])
def test_what_lies_behind_the_end_is_not_heard(name, encoder, clips, rubbish):
    """Whatever the features hold where the mask is False, audio tokens and logits are the same bits."""
    base = load_base(EMBEDDED)
    model = hearing(base, [encoder])
    features = encoder([*clips[:2], torch.zeros(0)])
    behind = ~features.mask[..., None]
    assert behind[2].all()
    noise = rubbish * torch.linspace(1, 2, encoder.feature_size)
    changed = AudioFeatures(torch.where(behind, noise, features.values), features.mask)
    with torch.no_grad():
        tokens = [model.projectors[0](each) for each in (features, changed)]
    assert torch.equal(tokens[0][0], tokens[1][0])
    expected = logits(model, [features])
    assert torch.equal(logits(model, [changed]), expected)
    assert torch.isfinite(expected).all()
    unheard = logits(model, None, rows=3)  # in a batch of that size: the last bits of a product may depend on it
    assert torch.equal(expected[2], unheard[2])  # a clip without samples is no clip
    shown = AudioFeatures(changed.values, torch.ones_like(features.mask))  # the control: without a mask it is heard
    assert not torch.equal(logits(model, [shown])[2], expected[2])


def test_clap_and_whisper_together(base, folders, clips):
    """Each is heard: taking either away changes the logits; taking both away leaves the base."""
    encoders = [load_audio_encoder(folders["clap grid"], features="grid"), load_audio_encoder(folders["whisper"])]
    model = hearing(load_base(EMBEDDED), encoders)
    features = [each(clips[:1]) for each in encoders]
    silent = [AudioFeatures(each.values, torch.zeros_like(each.mask)) for each in features]
    both = logits(model, features)
    found = [logits(model, pair) for pair in ((features[0], silent[1]), (silent[0], features[1]))]
    assert not any(torch.equal(each, both) for each in found)
    assert not torch.equal(*found)
    assert torch.equal(logits(model, silent), logits(model, None))


def test_settings_name_the_features(folders):
    settings = {"model.audio_encoders": f"['{folders['clap grid']}', '{folders['wav2vec2']}']"}
    plain = load_audio_encoders(build_config({}, settings))
    assert [encoder.num_features for encoder in plain] == [1, 1499]
    chosen = settings | {"model.audio_features": "[grid, pooled]", "model.audio_seconds": "2"}
    changed = load_audio_encoders(build_config({}, chosen))
    assert [encoder.num_features for encoder in changed] == [64, 1]
    assert [encoder.window for encoder in changed] == [2 * RATE, 2 * RATE]
    with pytest.raises(InputError, match="one for each of 2 audio encoders, got 1"):
        load_audio_encoders(build_config({}, settings | {"model.audio_features": "[grid]"}))


def test_an_extractor_that_hides_its_window_is_refused(folders):
    class Hiding:
        sampling_rate = RATE

        def __init__(self, extractor):
            self.extractor = extractor

        def __call__(self, clips, **options):
            return self.extractor(clips, **options)

    known = load_audio_encoder(folders["whisper"])
    with pytest.raises(InputError, match="a feature extractor with n_samples, got Hiding"):
        AudioEncoder(known.model, Hiding(known.extractor), "hiding")


def copied(folder: str, to, change) -> str:
    """The folder with the names of its weights changed; what becomes None is left out."""
    shutil.copytree(folder, to)
    tensors = load_file(to / "model.safetensors")
    kept = {new: tensor for name, tensor in tensors.items() if (new := change(name)) is not None}
    save_file(kept, to / "model.safetensors", {"format": "pt"})
    return str(to)


@pytest.mark.parametrize("kind", ["clap pooled", "whisper", "wav2vec2", "ast"])
def test_weights_under_other_names_are_told(kind, folders, tmp_path):
    """As a wrapper for several GPUs saves them; transformers alone would hear through random weights."""
    folder = copied(folders[kind], tmp_path / "encoder", lambda name: f"module.{name}")
    with pytest.raises(InputError, match=r"weights for every parameter, got none for .*missing\)"):
        load_audio_encoder(folder)


def test_every_weight_that_features_depend_on_must_be_there(folders, tmp_path):
    """Of wav2vec 2.0 that is each but what masks its training clips, which many published files lack."""
    names = sorted(load_file(f"{folders['wav2vec2']}/model.safetensors"))
    assert "masked_spec_embed" in names
    for index, left_out in enumerate(names):
        folder = copied(folders["wav2vec2"], tmp_path / str(index), lambda name: None if name == left_out else name)  # noqa: B023
        if left_out == "masked_spec_embed":
            continue
        with pytest.raises(InputError, match=r"\(1 missing\)"):
            load_audio_encoder(folder)


@pytest.mark.parametrize(("kind", "part"), [("wav2vec2", "masked_spec_embed"), ("whisper", "decoder.")])
def test_weights_that_no_feature_depends_on_may_be_missing(kind, part, folders, tmp_path, clips):
    folder = copied(folders[kind], tmp_path / "encoder", lambda name: None if name.startswith(part) else name)
    found, again = load_audio_encoder(folder), load_audio_encoder(folder)
    assert torch.equal(found(clips).values, load_audio_encoder(folders[kind])(clips).values)
    # They are not random either, or stored answers of one process would be found by no other.
    assert all(torch.equal(p, q) for p, q in zip(found.parameters(), again.parameters(), strict=True))


def rms_db(waveform: torch.Tensor) -> float:
    return 20 * math.log10(waveform.double().square().mean().sqrt())


@given(gain_db=st.floats(-60, 40), level_db=st.floats(-60, 10))
def test_a_leveled_clip_has_its_level_and_its_form(gain_db, level_db):
    """Whatever its own level was; samples beyond full scale are kept."""
    clip = 0.1 * torch.randn(4_000, generator=torch.Generator().manual_seed(0))
    found = leveled(clip * 10 ** (gain_db / 20), level_db)
    assert rms_db(found) == pytest.approx(level_db, abs=1e-3)
    assert relative_error(found / found.norm(), clip / clip.norm()) < LOGITS[torch.float32]


@pytest.mark.parametrize("clip", [torch.zeros(0), torch.zeros(100), torch.full((100,), 0.9e-5)])
def test_silence_stays_silence(clip):
    assert torch.equal(leveled(clip, -20.0), clip)


def test_negative_control_just_above_the_floor_a_clip_is_brought_to_the_level():
    assert rms_db(leveled(torch.full((100,), 1.1e-5), -20.0)) == pytest.approx(-20.0, abs=1e-3)


def test_an_encoder_with_a_level_hears_loud_and_soft_clips_alike(folders, clips):
    """What is heard is brought to the level: what lies behind the window does not count."""
    encoder = load_audio_encoder(folders["clap grid"], features="grid", level_db=-20.0)
    plain = load_audio_encoder(folders["clap grid"], features="grid")
    loud, soft = (encoder([gain * clips[0]]).values for gain in (4.0, 0.02))
    assert relative_error(loud, soft) < LOGITS[torch.float32]
    assert relative_error(plain([4.0 * clips[0]]).values, plain([0.02 * clips[0]]).values) > 0.01
    assert torch.equal(encoder([clips[0]]).values, plain([leveled(clips[0], -20.0)]).values)
    assert torch.equal(encoder([torch.zeros(RATE)]).values, plain([torch.zeros(RATE)]).values)
    long = torch.cat([0.1 * torch.randn(encoder.window, generator=torch.Generator().manual_seed(0)), torch.ones(RATE)])
    assert torch.equal(encoder([long]).values, encoder([long[: encoder.window]]).values)


def test_the_level_is_in_settings_and_in_what_is_saved(tmp_path, make_safe_model):
    model = make_safe_model(**{"model.audio_level_db": "-23"})
    assert [encoder.level_db for encoder in model.encoders] == [-23.0]
    model.save_adapter(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["audio_level_db"] == [-23.0]
    config = SafeForConditionalGeneration.from_safe_model(model).config
    assert [options["level_db"] for options in config.audio_options] == [-23.0]
    as_it_is = make_safe_model(**{"model.audio_level_db": "null"})
    assert "level_db" not in SafeForConditionalGeneration.from_safe_model(as_it_is).config.audio_options[0]
    assert [encoder.level_db for encoder in make_safe_model().encoders] == [-20.0]
