"""Rows in an order that depends on the seed and the batch number alone."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safe_train.audio.input import Amplified, WhiteNoise
from safe_train.data.example import Example
from safe_train.data.sampler import ExampleSampler, RetentionAudio, Subset, draw_subset
from safe_train.errors import InputError

AUDIO = [Example(f"a{k}", "what do you hear?", (f"sound {k}",), audio=Path(f"{k}.wav")) for k in range(11)]
VL = [Example(f"v{k}", "what?", (str(k),), image=Path(f"{k}.png"), kind="count", cluster=str(k // 2)) for k in range(7)]


def stream(seed=3, image_prob=0.5, audio=AUDIO, vl=VL, **settings):
    return ExampleSampler(audio, vl, seed=seed, image_prob=image_prob, **settings)


def ids(rows):
    return [row.row_id for row in rows]


@given(seed=st.integers(0, 2**31), number=st.integers(0, 10_000), size=st.integers(1, 20))
def test_a_batch_is_a_function_of_seed_and_number(seed, number, size):
    """A stream that has given other batches before, as after a resume, gives the same one."""
    used = stream(seed)
    for earlier in range(3):
        used.audio_batch(earlier, size)
        used.retention_batch(earlier, size)
    assert used.audio_batch(number, size) == stream(seed).audio_batch(number, size)
    assert used.retention_batch(number, size) == stream(seed).retention_batch(number, size)


@pytest.mark.parametrize(("kind", "rows"), [("audio_batch", AUDIO), ("retention_batch", VL)])
@pytest.mark.parametrize("size", [1, 3, 7, 16])
def test_every_epoch_is_a_permutation(kind, rows, size):
    given_ids = [row_id for n in range(6 * len(rows)) for row_id in ids(getattr(stream(), kind)(n, size))]
    epochs = [given_ids[start : start + len(rows)] for start in range(0, 6 * len(rows), len(rows))]
    for epoch in epochs:
        assert sorted(epoch) == sorted(ids(rows))
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_the_permutation_check_finds_drawing_with_replacement():
    """Negative control."""
    lent = [row.audio for n in range(20) for row in stream().retention_batch(n, len(AUDIO))]
    epochs = [lent[start : start + len(AUDIO)] for start in range(0, 20 * len(AUDIO), len(AUDIO))]
    assert any(len(set(epoch)) < len(AUDIO) for epoch in epochs)


def test_another_seed_is_another_order():
    assert ids(stream(1).audio_batch(0, 11)) != ids(stream(2).audio_batch(0, 11))


def test_vl_rows_always_get_a_clip_and_keep_the_rest():
    by_id = {row.row_id: row for row in VL}
    for number in range(30):
        for row in stream().retention_batch(number, 5):
            own = by_id[row.row_id]
            assert row.audio in {other.audio for other in AUDIO}
            assert (row.image, row.question, row.answers, row.kind, row.cluster) == (
                own.image, own.question, own.answers, own.kind, own.cluster
            )  # fmt: skip


def test_every_clip_is_lent_to_vl_rows_sooner_or_later():
    assert {row.audio for n in range(40) for row in stream().retention_batch(n, 5)} == {row.audio for row in AUDIO}


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_audio_rows_show_an_image_as_often_as_asked(share):
    rows = [row for n in range(200) for row in stream(image_prob=share).audio_batch(n, 10)]
    shown = sum(row.image is not None for row in rows)
    # Four standard deviations of a binomial count.
    assert abs(shown - share * len(rows)) <= 4 * (len(rows) * share * (1 - share)) ** 0.5
    assert {row.image for row in rows} <= {row.image for row in VL} | {None}


def test_an_audio_row_with_an_image_of_its_own_keeps_it():
    own = [Example("a", "what?", ("x",), image=Path("own.png"), audio=Path("own.wav"))]
    assert all(row.image == Path("own.png") for row in stream(image_prob=1.0, audio=own).audio_batch(0, 5))


def test_the_share_of_images_does_not_change_the_order_of_the_clips():
    assert ids(stream(image_prob=0.0).audio_batch(4, 9)) == ids(stream(image_prob=1.0).audio_batch(4, 9))


def heard(protected, number=60, **settings):
    return [
        row.audio for n in range(number) for row in stream(retention_audio=protected, **settings).retention_batch(n, 10)
    ]


def test_protected_rows_hear_silence_loud_clips_and_noise_in_their_shares():
    found = heard(RetentionAudio(silence=0.2, loud=0.3, noise=0.1))
    counts = {
        "silence": found.count(None),
        "loud": sum(isinstance(audio, Amplified) for audio in found),
        "noise": sum(isinstance(audio, WhiteNoise) for audio in found),
        "clip": sum(isinstance(audio, Path) for audio in found),
    }
    for kind, share in (("silence", 0.2), ("loud", 0.3), ("noise", 0.1), ("clip", 0.4)):
        assert abs(counts[kind] - 600 * share) < 4 * (600 * share * (1 - share)) ** 0.5, kind


@pytest.mark.parametrize(
    ("protected", "wanted"),
    [
        (RetentionAudio(silence=1.0), type(None)),
        (RetentionAudio(loud=1.0), Amplified),
        (RetentionAudio(noise=1.0), WhiteNoise),
        (RetentionAudio(), Path),
    ],
)
def test_a_share_of_one_leaves_nothing_else(protected, wanted):
    assert all(isinstance(audio, wanted) for audio in heard(protected))


def test_what_protected_rows_hear_does_not_change_their_order():
    batches = [stream(retention_audio=RetentionAudio(silence=share)).retention_batch(3, 8) for share in (0.0, 0.7)]
    assert ids(batches[0]) == ids(batches[1])


TEXT = [Example(f"t{k}", f"{k}?", (str(k),), kind="sum", cluster=str(k)) for k in range(5)]


def before_convert_text(seed, number, size):
    """The protected batch as it was defined before there were text-only rows, with NumPy alone."""
    order = [np.random.default_rng([seed, 1, epoch]).permutation(len(VL)) for epoch in range(number * size + size)]
    rng = np.random.default_rng([seed, 2, number])
    lent, draws = rng.integers(len(AUDIO), size=size), rng.random(size)
    found = []
    for place in range(size):
        epoch, offset = divmod(number * size + place, len(VL))
        clip = None if draws[place] < 0.3 else AUDIO[lent[place]].audio
        found.append((VL[order[epoch][offset]].row_id, clip))
    return found


@given(seed=st.integers(0, 2**31), number=st.integers(0, 20), size=st.integers(1, 20))
def test_without_text_rows_every_draw_is_what_it_was(seed, number, size):
    silent = RetentionAudio(silence=0.3)
    for settings in ({"text_ratio": 0.5}, {"text": TEXT, "text_ratio": 0.0}):
        batch = stream(seed, retention_audio=silent, **settings).retention_batch(number, size)
        assert [(row.row_id, row.audio) for row in batch] == before_convert_text(seed, number, size)
    with_text = stream(seed, retention_audio=silent, text=TEXT, text_ratio=0.5)
    assert with_text.audio_batch(number, size) == stream(seed).audio_batch(number, size)


@pytest.mark.parametrize(
    ("size", "share", "each"), [(16, 0.25, 4), (8, 0.25, 2), (10, 0.3, 3), (4, 1.0, 4), (4, 0.0, 0)]
)
def test_so_many_rows_of_a_batch_are_text_only(size, share, each):
    for number in range(10):
        batch = stream(text=TEXT, text_ratio=share).retention_batch(number, size)
        kinds = [row.image is None for row in batch]
        assert (sum(kinds), len(batch)) == (each, size)
        assert kinds == sorted(kinds)  # VL rows come first


@given(size=st.integers(1, 7), share=st.floats(0, 1), count=st.integers(1, 40))
def test_small_batches_have_their_share_of_text_rows_in_the_long_run(size, share, count):
    used = stream(text=TEXT, text_ratio=share)
    batches = [used.retention_batch(number, size) for number in range(count)]
    assert all(len(batch) == size for batch in batches)
    text = [row.row_id for batch in batches for row in batch if row.image is None]
    vl = [row.row_id for batch in batches for row in batch if row.image is not None]
    assert abs(len(text) - share * size * count) <= 0.5 + 1e-9
    for ids_of, rows in ((text, TEXT), (vl, VL)):  # each of them in whole epochs
        epochs = [ids_of[start : start + len(rows)] for start in range(0, len(ids_of), len(rows))]
        assert all(len(set(epoch)) == len(epoch) for epoch in epochs)


def test_negative_control_rounding_each_batch_never_protects_a_text_row_of_small_batches():
    assert round(2 * 0.2) == 0
    rows = [row for n in range(10) for row in stream(text=TEXT, text_ratio=0.2).retention_batch(n, 2)]
    assert sum(row.image is None for row in rows) == 4


def test_two_micro_batches_are_the_rows_of_one_batch_with_text_rows_too():
    used = stream(text=TEXT, text_ratio=0.25)
    for number in range(6):
        whole = ids(used.retention_batch(number, 8))
        assert sorted(ids(used.retention_batch(2 * number, 4)) + ids(used.retention_batch(2 * number + 1, 4))) == (
            sorted(whole)
        )


def test_text_rows_hear_what_vl_rows_hear():
    protected = RetentionAudio(silence=0.2, loud=0.2, noise=0.2)
    used = stream(text=TEXT, text_ratio=0.5, retention_audio=protected)
    heard_by_text = [row.audio for n in range(100) for row in used.retention_batch(n, 10) if row.image is None]
    for kind in (type(None), Amplified, WhiteNoise):
        share = sum(isinstance(audio, kind) for audio in heard_by_text) / len(heard_by_text)
        assert abs(share - 0.2) < 4 * (0.2 * 0.8 / len(heard_by_text)) ** 0.5, kind
    assert {audio for audio in heard_by_text if isinstance(audio, Path)} == {row.audio for row in AUDIO}


def gain_of(row):
    return row.audio.gain_db if isinstance(row.audio, Amplified) else 0.0


@pytest.mark.parametrize("kind", ["audio_batch", "retention_batch"])
def test_each_gain_and_none_is_drawn_as_often(kind):
    used = stream(gains_db=(-20.0, 20.0), text=TEXT)
    rows = [row for n in range(150) for row in getattr(used, kind)(n, 10)]
    for gain in (-20.0, 0.0, 20.0):
        count = sum(gain_of(row) == gain for row in rows)
        assert abs(count - 500) < 4 * (1500 * 2 / 9) ** 0.5, gain
    assert not any(row.audio.gain_db == 0 for row in rows if isinstance(row.audio, Amplified))


@pytest.mark.parametrize("settings", [{}, {"shuffle_audio": True}, {"text": TEXT}])
def test_gains_change_nothing_but_the_level(settings):
    plain = stream(retention_audio=RetentionAudio(0.2, 0.1, 0.2), **settings)
    loud = stream(retention_audio=RetentionAudio(0.2, 0.1, 0.2), gains_db=(10.0,), **settings)
    amplified = 0
    for number in range(20):
        for kind in ("audio_batch", "retention_batch"):
            for before, after in zip(getattr(plain, kind)(number, 9), getattr(loud, kind)(number, 9), strict=True):
                if isinstance(before.audio, Path) and after.audio != before.audio:
                    assert after.audio == Amplified(before.audio, 10.0)
                    amplified += 1
                    after = replace(after, audio=before.audio)
                assert after == before  # silence, noise and clips that are loud already stay what they are
    assert amplified > 50


def test_audio_and_protected_rows_draw_their_gains_apart():
    used = stream(gains_db=(10.0, 20.0))
    drawn = [[gain_of(row) for row in getattr(used, kind)(0, 60)] for kind in ("audio_batch", "retention_batch")]
    assert drawn[0] != drawn[1]


def test_shuffled_audio_keeps_the_clips_and_loses_their_rows():
    shuffled = {row.row_id: row.audio for n in range(20) for row in stream(shuffle_audio=True).audio_batch(n, 11)}
    own = {row.row_id: row.audio for row in AUDIO}
    assert sorted(shuffled.values()) == sorted(own.values())
    assert shuffled != own


@given(limit=st.one_of(st.none(), st.integers(1, 15)), seed=st.integers(0, 1_000))
def test_a_subset_is_sorted_without_repeats_and_the_same_each_time(limit, seed):
    rows, indices = draw_subset(AUDIO, limit, seed)
    assert rows == [AUDIO[index] for index in indices]
    assert indices == sorted(set(indices))
    assert len(rows) == min(limit or len(AUDIO), len(AUDIO))
    assert draw_subset(AUDIO, limit, seed) == (rows, indices)


def test_subsets_of_other_seeds_differ():
    assert len({tuple(draw_subset(AUDIO, 5, seed)[1]) for seed in range(10)}) > 1


def test_one_image_cannot_be_split():
    rows = [Example(str(index), "?", ("a",), cluster="1") for index in range(3)]
    with pytest.raises(InputError, match="expected at least two images, got 1"):
        Subset.whole(rows).split(0.2)
