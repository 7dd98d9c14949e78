"""Mixtures: shares of the draws, every example of a source in turn, a function of seed and position alone."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safe_train.config import build_config, run_settings
from safe_train.data.example import CAPTION, Example
from safe_train.data.sampler import ExampleSampler, Mixture
from safe_train.errors import InputError
from safe_train.training.build import build_sampler, load_examples
from tests.data.shards import as_shards


def rows(**counts):
    return [Example(f"{name}{n}", "what?", ("x",)) for name, count in counts.items() for n in range(count)]


def mixture(parts, seed=0):
    examples = rows(**{"abcdefg"[place]: count for place, (count, _) in enumerate(parts)})
    return Mixture(examples, seed, 0, parts)


def sources_of(taken):
    return Counter(example.row_id[0] for example in taken)


@given(
    st.lists(st.tuples(st.integers(1, 9), st.floats(0.01, 10)), min_size=1, max_size=5),
    st.integers(0, 500),
    st.integers(1, 40),
)
def test_the_first_draws_have_the_shares_of_the_weights(parts, steps, size):
    drawn = Counter()
    mixed, total = mixture(parts), sum(weight for _, weight in parts)
    for source, count in zip("abcdefg", mixed._counts(steps * size), strict=False):
        drawn[source] = count
    for source, (_, weight) in zip("abcdefg", parts, strict=False):
        assert abs(drawn[source] - steps * size * weight / total) < math.log2(2 * len(parts)) + 1e-6


@pytest.mark.parametrize("size", [1, 2, 7, 16])
def test_batches_of_any_size_draw_the_same(size):
    """What the first 112 draws are does not depend on how they are cut into batches, but for their order in a batch."""
    parts = [(5, 3.0), (11, 1.0), (2, 0.5)]
    whole = Counter(example.row_id for example in mixture(parts).take(0, 112))
    cut = [mixture(parts).take(start, size) for start in range(0, 112, size)]
    assert all(len(batch) == size for batch in cut)
    assert Counter(example.row_id for batch in cut for example in batch) == whole


def test_a_source_gives_each_of_its_examples_before_any_again():
    taken = mixture([(5, 1.0), (50, 1.0)]).take(0, 100)
    assert sources_of(taken) == {"a": 50, "b": 50}
    counts = Counter(example.row_id for example in taken)
    assert {counts[f"a{n}"] for n in range(5)} == {10}
    assert {counts[f"b{n}"] for n in range(50)} == {1}


def test_one_source_is_drawn_as_ever():
    examples = rows(a=13)
    plain = ExampleSampler(examples, examples, seed=3, image_prob=0.0)
    one = ExampleSampler(examples, examples, seed=3, image_prob=0.0, mixtures={"audio": [(13, 5.0)]})
    assert [plain.audio_batch(n, 4) for n in range(9)] == [one.audio_batch(n, 4) for n in range(9)]


def test_another_seed_draws_other_examples():
    parts = [(40, 1.0), (40, 1.0)]
    assert mixture(parts, 0).take(0, 20) == mixture(parts, 0).take(0, 20) != mixture(parts, 1).take(0, 20)


def captioned(count, captions=5):
    return [
        Example(f"{n}", "what?", tuple(f"caption {k} of {n}" for k in range(captions)), kind=CAPTION)
        for n in range(count)
    ]


def test_a_caption_is_drawn_for_each_clip_and_epoch():
    examples = captioned(40)
    drawn = Mixture(examples, 3, 0, draw_captions=True)
    epochs = [{e.row_id: e.answers[0] for e in drawn.take(40 * epoch, 40)} for epoch in range(50)]
    assert all(len(epoch) == 40 for epoch in epochs)
    # 50 draws of 5: each caption of a clip has a mean of 10 and a deviation of 2.8; of all clips, 400 and 18.
    counts = Counter(caption for epoch in epochs for caption in epoch.values())
    assert len(counts) == 200
    assert all(350 < sum(counts[f"caption {k} of {n}"] for n in range(40)) < 450 for k in range(5))
    for example in drawn.take(0, 40):  # the others are still its references
        assert sorted(example.answers) == sorted(examples[int(example.row_id)].answers)
    assert drawn.take(17, 4) == Mixture(examples, 3, 0, draw_captions=True).take(0, 40)[17:21]
    assert [e.row_id for e in drawn.take(0, 99)] == [e.row_id for e in Mixture(examples, 3, 0).take(0, 99)]


def test_answers_to_questions_keep_their_order():
    questions = [Example(str(n), "how many?", ("two", "2"), kind="count") for n in range(9)]
    assert all(e.answers == ("two", "2") for e in Mixture(questions, 0, 0, draw_captions=True).take(0, 90))
    assert all(e.answers[0].startswith("caption 0") for e in Mixture(captioned(9), 0, 0).take(0, 90))


def test_a_run_of_before_goes_on_with_the_first_caption():
    assert build_config({}, {}).data.caption_reference == "drawn"
    assert build_config(run_settings({"data": {}}), {}, of_a_run=True).data.caption_reference == "first"


@pytest.fixture(scope="module")
def two_sets(small_data, tmp_path_factory):
    """AudioCaps as files and, under the name of WavCaps, in shards."""
    root = as_shards(small_data, tmp_path_factory.mktemp("two"))
    (root / "wavcaps").symlink_to(root / "audiocaps")
    return root


def configured(root, **settings):
    return build_config({}, {"data.root": str(root)} | {f"data.{name}": text for name, text in settings.items()})


def test_a_run_draws_from_several_data_sets(two_sets):
    config = configured(
        two_sets, train_audio_mixture="[{source: audiocaps, weight: 3}, {source: wavcaps}]", max_train_audio="10"
    )
    found = load_examples(config)
    assert len(found.train_audio) == 20  # ten of each
    assert found.mixtures == {"audio": ((10, 3.0), (10, 1.0))}
    assert found.indices["train_audio"][10] >= 40  # counted on behind the 40 clips of the first
    sampler = build_sampler(found, config)
    taken = [example for number in range(10) for example in sampler.audio_batch(number, 8)]
    assert Counter(example.audio.parts[-3] for example in taken) == {"audiocaps": 60, "wavcaps": 20}


def test_what_is_evaluated_on_is_no_part_of_it(two_sets):
    plain = load_examples(configured(two_sets))
    mixed = load_examples(
        configured(two_sets, train_vl_mixture="[{source: vqa}]", train_text_mixture="[{source: text, weight: 2}]")
    )
    assert (mixed.val_vl, mixed.val_text, mixed.val_audio) == (plain.val_vl, plain.val_text, plain.val_audio)
    assert (mixed.train_vl, mixed.train_text) == (plain.train_vl, plain.train_text)


def test_questions_may_be_of_another_split_than_clips(two_sets):
    found = load_examples(configured(two_sets, val_vl_split="train"))
    plain = load_examples(configured(two_sets))
    assert {example.row_id for example in found.val_vl} <= {example.row_id for example in plain.train_vl}
    assert found.val_audio == plain.val_audio


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("train_audio_mixture", "[{source: wavcap}]", r"train_audio_mixture: expected one of .*did you mean 'wavcaps'"),
        ("train_vl_mixture", "[{source: audiocaps}]", r"train_vl_mixture: expected one of vqa"),
        ("train_audio_mixture", "[{source: pack}]", "expected data sets with splits, each once"),
        ("train_audio_mixture", "[{source: wavcaps}, {source: wavcaps}]", "expected data sets with splits, each once"),
        ("train_audio_mixture", "[{source: wavcaps, weight: 0}]", "greater than 0"),
        ("train_audio_mixture", "[{source: wavcaps, share: 1}]", "no such setting"),
        ("train_audio_mixture", "wavcaps", "expected a list"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path, name, text, line):
    with pytest.raises(InputError, match=line):
        configured(tmp_path, **{name: text})
