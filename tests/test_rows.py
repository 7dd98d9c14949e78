"""Rows in an order that depends on the seed and the batch number alone."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safe_train.data.audio_input import Amplified, WhiteNoise
from safe_train.data.audiocaps import AudioExample
from safe_train.data.rows import ProtectedAudio, Row, RowStream, audio_rows, draw_subset, vl_rows
from safe_train.data.vqa import VQAExample
from safe_train.metrics.vqa_accuracy import vqa_accuracy

AUDIO = [Row(f"a{k}", "what do you hear?", (f"sound {k}",), audio=Path(f"{k}.wav")) for k in range(11)]
VL = [Row(f"v{k}", "what?", (str(k),), image=Path(f"{k}.png"), kind="count", cluster=str(k // 2)) for k in range(7)]


def stream(seed=3, image_share=0.5, audio=AUDIO, vl=VL, **settings):
    return RowStream(audio, vl, seed=seed, image_share=image_share, **settings)


def ids(rows):
    return [row.row_id for row in rows]


@given(seed=st.integers(0, 2**31), number=st.integers(0, 10_000), size=st.integers(1, 20))
def test_a_batch_is_a_function_of_seed_and_number(seed, number, size):
    """A stream that has given other batches before, as after a resume, gives the same one."""
    used = stream(seed)
    for earlier in range(3):
        used.audio_batch(earlier, size)
        used.vl_batch(earlier, size)
    assert used.audio_batch(number, size) == stream(seed).audio_batch(number, size)
    assert used.vl_batch(number, size) == stream(seed).vl_batch(number, size)


@pytest.mark.parametrize(("kind", "rows"), [("audio_batch", AUDIO), ("vl_batch", VL)])
@pytest.mark.parametrize("size", [1, 3, 7, 16])
def test_every_epoch_is_a_permutation(kind, rows, size):
    given_ids = [row_id for n in range(6 * len(rows)) for row_id in ids(getattr(stream(), kind)(n, size))]
    epochs = [given_ids[start : start + len(rows)] for start in range(0, 6 * len(rows), len(rows))]
    for epoch in epochs:
        assert sorted(epoch) == sorted(ids(rows))
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_the_permutation_check_finds_drawing_with_replacement():
    """Negative control."""
    lent = [row.audio for n in range(20) for row in stream().vl_batch(n, len(AUDIO))]
    epochs = [lent[start : start + len(AUDIO)] for start in range(0, 20 * len(AUDIO), len(AUDIO))]
    assert any(len(set(epoch)) < len(AUDIO) for epoch in epochs)


def test_another_seed_is_another_order():
    assert ids(stream(1).audio_batch(0, 11)) != ids(stream(2).audio_batch(0, 11))


def test_vl_rows_always_get_a_clip_and_keep_the_rest():
    by_id = {row.row_id: row for row in VL}
    for number in range(30):
        for row in stream().vl_batch(number, 5):
            own = by_id[row.row_id]
            assert row.audio in {other.audio for other in AUDIO}
            assert (row.image, row.question, row.answers, row.kind, row.cluster) == (
                own.image, own.question, own.answers, own.kind, own.cluster
            )  # fmt: skip


def test_every_clip_is_lent_to_vl_rows_sooner_or_later():
    assert {row.audio for n in range(40) for row in stream().vl_batch(n, 5)} == {row.audio for row in AUDIO}


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_audio_rows_show_an_image_as_often_as_asked(share):
    rows = [row for n in range(200) for row in stream(image_share=share).audio_batch(n, 10)]
    shown = sum(row.image is not None for row in rows)
    # Four standard deviations of a binomial count.
    assert abs(shown - share * len(rows)) <= 4 * (len(rows) * share * (1 - share)) ** 0.5
    assert {row.image for row in rows} <= {row.image for row in VL} | {None}


def test_an_audio_row_with_an_image_of_its_own_keeps_it():
    own = [Row("a", "what?", ("x",), image=Path("own.png"), audio=Path("own.wav"))]
    assert all(row.image == Path("own.png") for row in stream(image_share=1.0, audio=own).audio_batch(0, 5))


def test_the_share_of_images_does_not_change_the_order_of_the_clips():
    assert ids(stream(image_share=0.0).audio_batch(4, 9)) == ids(stream(image_share=1.0).audio_batch(4, 9))


def heard(protected, number=60, **settings):
    return [row.audio for n in range(number) for row in stream(protected_audio=protected, **settings).vl_batch(n, 10)]


def test_protected_rows_hear_silence_loud_clips_and_noise_in_their_shares():
    found = heard(ProtectedAudio(silence=0.2, loud=0.3, noise=0.1))
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
        (ProtectedAudio(silence=1.0), type(None)),
        (ProtectedAudio(loud=1.0), Amplified),
        (ProtectedAudio(noise=1.0), WhiteNoise),
        (ProtectedAudio(), Path),
    ],
)
def test_a_share_of_one_leaves_nothing_else(protected, wanted):
    assert all(isinstance(audio, wanted) for audio in heard(protected))


def test_what_protected_rows_hear_does_not_change_their_order():
    batches = [stream(protected_audio=ProtectedAudio(silence=share)).vl_batch(3, 8) for share in (0.0, 0.7)]
    assert ids(batches[0]) == ids(batches[1])


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


def vqa(answers):
    return VQAExample(1, 2, "how many?", tuple(answers), Path("2.png"), "count", "number")


@given(answers=st.lists(st.sampled_from(["1", "2", "3"]), min_size=1, max_size=10))
def test_the_majority_answer_comes_first_and_none_is_lost(answers):
    (row,) = vl_rows([vqa(answers)])
    assert sorted(row.answers) == sorted(answers)
    assert answers.count(row.answers[0]) == max(map(answers.count, answers))
    assert vqa_accuracy("1", row.answers) == pytest.approx(vqa_accuracy("1", answers))


def test_a_question_without_answers_stays_without():
    assert vl_rows([vqa([])])[0].answers == ()


def test_vl_rows_are_clustered_by_image_and_audio_rows_by_clip():
    assert vl_rows([vqa(["1"])])[0].cluster == "2"
    example = AudioExample("clip", Path("a.wav"), ("a dog", "a bark"), None, None)
    (row,) = audio_rows([example], "what do you hear?")
    assert (row.cluster, row.question, row.answers) == ("clip", "what do you hear?", ("a dog", "a bark"))


def test_a_clip_with_a_question_of_its_own_keeps_it():
    example = AudioExample("clip", Path("a.wav"), ("yes",), "is it a dog?", None)
    assert audio_rows([example], "what do you hear?")[0].question == "is it a dog?"
