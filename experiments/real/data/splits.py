"""Splits by group, the same wherever and whenever they are made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256
from itertools import accumulate


def assign_splits(groups: Iterable[str], shares: Mapping[str, float]) -> dict[str, str]:
    """The split of each group: ordered by SHA-256 of their names, the first are of the first split, and so on.

    Args:
        groups: names of groups, which may repeat.
        shares: of each split, its share of the groups; together 1. The number of groups is rounded.
    """
    ordered = sorted(set(groups), key=lambda group: sha256(group.encode()).digest())
    ends = [round(share * len(ordered)) for share in accumulate(shares.values())]
    return {
        group: next((split for split, end in zip(shares, ends, strict=True) if place < end), list(shares)[-1])
        for place, group in enumerate(ordered)
    }
