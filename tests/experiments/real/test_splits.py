"""Splits by group, and the scores of majority answers."""

import hashlib

from experiments.real.data.baselines import Asked, score_majority
from experiments.real.data.splits import assign_splits


def test_groups_are_ordered_by_their_digests():
    groups = [f"group {number}" for number in range(10)]
    ordered = sorted(groups, key=lambda group: hashlib.sha256(group.encode()).hexdigest())
    splits = assign_splits([*groups, *groups], {"val": 0.3, "tune": 0.1, "train": 0.6})
    assert splits == dict(zip(ordered, ["val"] * 3 + ["tune"] + ["train"] * 6, strict=True))


def test_the_order_of_groups_does_not_matter():
    shares = {"val": 0.5, "train": 0.5}
    assert assign_splits("abcdefg", shares) == assign_splits("gfedcba", shares)
    assert len(assign_splits("abcdefg", {"val": 0.35, "tune": 0.35, "train": 0.3})) == 7


def test_majority_answers_are_those_of_the_key():
    train = [Asked("is it red?", "yes/no", answer) for answer in ("yes", "yes", "no")]
    train += [Asked("is it blue?", "yes/no", answer) for answer in ("no", "yes")]  # as frequent: the first is no
    train += [Asked("which color?", "color", "red")]
    val = [Asked("is it red?", "yes/no", answer) for answer in ("yes", "no")]
    val += [Asked("is it blue?", "yes/no", answer) for answer in ("no", "no")]
    val += [Asked("which color?", "color", "blue"), Asked("which shape?", "shape", "circle")]
    # 1 of 2 red, 2 of 2 blue; 0 of 1 color; no answer to the shape.
    assert score_majority(train, val) == {"all": 0.5, "color": 0.0, "shape": 0.0, "yes/no": 0.75}
