"""Draws clips of AudioCaps to overfit on and writes their manifest.

    python -m experiments.overfitting.create_subset_manifest --source-root data/audiocaps

Only clips whose audio is there are drawn. The same files and seed give the same manifest, byte for byte.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from experiments.overfitting.arguments import OneLineParser, at_least_one, at_least_zero
from safe_train.cli.errors import one_line_errors
from safe_train.data.datasets.audiocaps import CaptionRecord, read_captions
from safe_train.data.datasets.pack_manifest import CLIP_FIELDS, PackedClip, SubsetManifest
from safe_train.errors import InputError
from safe_train.io.files import json_text, write_text

OUTPUT = Path("experiments/overfitting/subset_manifest.json")


def draw_clips(source_root: Path, split: str, subset_size: int, seed: int) -> SubsetManifest:
    """Draws ``subset_size`` clips with one caption each, in the order of the table.

    Args:
        source_root: the AudioCaps folder, with ``<split>.csv`` and ``audio/<split>/``.
        split: the split.
        subset_size: clips to draw.
        seed: seed of the draw.

    Raises:
        InputError: the table is missing or malformed, or fewer clips have their audio.
    """
    captions = _keep_one_per_file(read_captions(source_root, split))
    if (found := len(captions)) < subset_size:
        expected = f"at least {subset_size} clips with their audio"
        raise InputError(source_root / f"{split}.csv", expected, str(found), "lower --subset-size or fetch more")
    drawn = sorted(random.Random(seed).sample(range(found), subset_size))
    return SubsetManifest(
        subset_name="audiocaps_overfit_v1",
        description=f"{subset_size} clips of AudioCaps for the overfitting ablation",
        seed=seed,
        source_dataset=f"AudioCaps {split} split",
        audio_rel_root=f"audio/{split}",
        metadata_columns=CLIP_FIELDS,
        entries=tuple(_pack(captions[index], source_root) for index in drawn),
    )


def _keep_one_per_file(captions: Sequence[CaptionRecord]) -> list[CaptionRecord]:
    first = {caption.audio_path: caption for caption in reversed(captions) if caption.audio_path is not None}
    return [caption for caption in captions if caption.audio_path is not None and first[caption.audio_path] is caption]


def _pack(caption: CaptionRecord, source_root: Path) -> PackedClip:
    assert caption.audio_path is not None
    relative = caption.audio_path.relative_to(source_root).as_posix()
    return PackedClip(caption.audiocap_id, caption.youtube_id, caption.start_time, caption.caption, relative)


@one_line_errors
def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = OneLineParser("create_subset_manifest", __doc__)
    parser.add_argument("--source-root", type=Path, default=Path("data/audiocaps"), help="AudioCaps folder")
    parser.add_argument("--split", default="train", help="split to draw from")
    parser.add_argument("--subset-size", type=at_least_one, default=400, help="clips to draw")
    parser.add_argument("--seed", type=at_least_zero, default=42, help="seed of the draw")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="manifest to write")
    given = parser.parse_args(arguments)
    manifest = draw_clips(given.source_root, given.split, given.subset_size, given.seed)
    write_text(given.output, json_text(manifest.to_dict()))
    print(f"{given.output}: {len(manifest.entries)} clips")


if __name__ == "__main__":
    main()
