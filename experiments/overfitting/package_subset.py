r"""Copies the clips of a manifest, and the images of a validation manifest, into a pack that can be moved and sent.

    python -m experiments.overfitting.package_subset \
        --source-root data/audiocaps --dest-root experiments/overfitting/data_pack
    tar czf safe_overfit_pack.tgz -C experiments/overfitting data_pack

Images are looked for in the folder ``vqa`` beside the source root. A list of text-only rows, in the form of
``text/val.jsonl`` in a data root, comes along with ``--text-list``. Files that are not there are counted and listed in
``missing_files.log`` of the pack. The pack appears when it is complete; an older pack is replaced.
"""

from __future__ import annotations

import json
import posixpath
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from experiments.overfitting import create_subset_manifest, create_val_manifest
from experiments.overfitting.arguments import OneLineParser
from safe_train.cli.errors import one_line_errors
from safe_train.data.datasets.manifest import read_records, resolve
from safe_train.data.datasets.pack import CAPTIONS, IMAGES, SUBSET_MANIFESTS, TEXT_LIST, VAL_MANIFEST
from safe_train.data.datasets.pack_manifest import PackedClip, SubsetManifest, ValManifest
from safe_train.data.datasets.text import FIELDS, read_text_list
from safe_train.errors import InputError
from safe_train.io.files import json_text, staged_folder

README = "README.txt"
MISSING = "missing_files.log"
_IMAGE_FOLDERS = ("images", "images/val2014", "images/train2014", "val2014", "train2014")


@dataclass(frozen=True)
class PackingReport:
    """What a pack holds.

    Attributes:
        num_clips: audio files in it.
        num_images: images in it.
        missing: files that its lists name and that were not found, relative to the pack.
        num_texts: entries of text-only rows in it.
    """

    num_clips: int
    num_images: int
    missing: tuple[str, ...]
    num_texts: int = 0


def package_subset(
    manifest_path: Path,
    source_root: Path,
    dest_root: Path,
    val_manifest_path: Path | None,
    text_list_path: Path | None = None,
) -> PackingReport:
    """Makes the pack ``dest_root``.

    Args:
        manifest_path: the list of clips.
        source_root: the folder that the paths in it are relative to.
        dest_root: the pack; must not exist, be empty, or be an older pack, which is replaced.
        val_manifest_path: the list of questions, or None for a pack without them.
        text_list_path: the list of text-only rows, or None for a pack without them.

    Raises:
        InputError: a list is malformed, a path leaves its folder, no clip is there, ``dest_root`` holds something
            else, or it cannot be written.
    """
    manifest = SubsetManifest.read(manifest_path)
    questions = ValManifest.read(val_manifest_path) if val_manifest_path else None
    texts = _texts(text_list_path) if text_list_path else []
    clips = _clip_files(manifest, manifest_path, source_root)
    images = _image_files(questions, val_manifest_path, source_root.parent / "vqa") if questions else {}
    present = {name for name, path in (clips | images).items() if path is not None}
    if not present & clips.keys():
        raise InputError(source_root, "audio files of the manifest", f"none of {len(clips)}", "mend --source-root")
    _require_replaceable(dest_root)
    missing = tuple(sorted((clips | images).keys() - present))
    report = PackingReport(len(present & clips.keys()), len(present & images.keys()), missing, len(texts))
    with staged_folder(dest_root) as staging:
        _copy(clips | images, staging)
        for name in SUBSET_MANIFESTS:
            (staging / name).write_text(json_text(manifest.to_dict()), encoding="utf-8")
        packed = [entry for entry in manifest.entries if _relative(entry) in present]
        (staging / CAPTIONS).write_text(_json_lines(packed), encoding="utf-8")
        if questions:
            (staging / VAL_MANIFEST).write_text(json_text(questions.to_dict()), encoding="utf-8")
        if texts:
            (staging / TEXT_LIST).write_text("".join(texts), encoding="utf-8")
        (staging / README).write_text(_readme(manifest, questions, report), encoding="utf-8")
        (staging / MISSING).write_text("".join(f"{name}\n" for name in missing), encoding="utf-8")
    return report


def _texts(path: Path) -> list[str]:
    """The entries of a list of text-only rows as lines of JSON, with the fields that are read."""
    read_text_list(path)
    known = ({name: record.fields[name] for name in FIELDS if name in record.fields} for record in read_records(path))
    return [json.dumps(fields, ensure_ascii=False) + "\n" for fields in known]


def _clip_files(manifest: SubsetManifest, where: Path, source_root: Path) -> dict[str, Path | None]:
    """The source of each audio file of the pack, or None if it is not there."""
    files: dict[str, Path | None] = {}
    for index, entry in enumerate(manifest.entries):
        place = f"{where}: entries[{index}]"
        path = resolve(source_root, source_root, entry.audio_relpath, place)
        if not Path(_relative(entry)).is_relative_to(manifest.audio_rel_root):
            raise InputError(place, f"a path in {manifest.audio_rel_root}", repr(entry.audio_relpath), "mend the path")
        files[_relative(entry)] = path if path.is_file() else None
    return files


def _image_files(questions: ValManifest, where: Path | None, vqa: Path) -> dict[str, Path | None]:
    files: dict[str, Path | None] = {}
    for index, entry in enumerate(questions.entries):
        place = f"{where}: entries[{index}]"
        candidates = (
            resolve(folder, folder, entry.image_filename, place) for folder in map(vqa.joinpath, _IMAGE_FOLDERS)
        )
        files[posixpath.normpath(f"{IMAGES}/{entry.image_filename}")] = next(
            (path for path in candidates if path.is_file()), None
        )
    return files


def _relative(entry: PackedClip) -> str:
    return posixpath.normpath(entry.audio_relpath)


def _require_replaceable(dest_root: Path) -> None:
    if dest_root.is_dir() and any(dest_root.iterdir()) and not (dest_root / SUBSET_MANIFESTS[0]).is_file():
        raise InputError(
            dest_root, "an older pack or no folder", "a folder of other files", "choose another --dest-root"
        )
    if dest_root.exists() and not dest_root.is_dir():
        raise InputError(dest_root, "an older pack or no folder", "a file", "choose another --dest-root")


def _copy(files: dict[str, Path | None], staging: Path) -> None:
    for folder in (staging / "audio", staging / IMAGES):
        folder.mkdir()
    for name, source in files.items():
        if source is not None:
            target = staging / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)


def _json_lines(entries: Iterable[PackedClip]) -> str:
    return "".join(json.dumps(asdict(entry), ensure_ascii=False) + "\n" for entry in entries)


def _readme(manifest: SubsetManifest, questions: ValManifest | None, report: PackingReport) -> str:
    lines = [
        f"Subset: {manifest.subset_name}",
        f"Source: {manifest.source_dataset}, seed {manifest.seed}",
        f"Clips: {report.num_clips}",
    ]
    if questions:
        lines += [
            f"Questions: {len(questions.entries)} ({questions.source_dataset}, seed {questions.seed})",
            f"Images: {report.num_images}",
        ]
    if report.num_texts:
        lines.append(f"Text-only rows: {report.num_texts}")
    lines += [
        f"Files missing when the pack was made: {len(report.missing)}, listed in {MISSING}",
        "",
        "Train and evaluate on it with",
        "  python -m experiments.overfitting.run_overfitting --pack-root PATH_OF_THIS_FOLDER",
    ]
    return "\n".join(lines) + "\n"


def _val_manifest(given: Path | None) -> Path | None:
    """The manifest that is named, or else the default one if it is there."""
    if given is not None:
        return given
    return create_val_manifest.OUTPUT if create_val_manifest.OUTPUT.is_file() else None


@one_line_errors
def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = OneLineParser("package_subset", __doc__)
    parser.add_argument("--manifest", type=Path, default=create_subset_manifest.OUTPUT, help="list of clips")
    parser.add_argument("--source-root", type=Path, default=Path("data/audiocaps"), help="AudioCaps folder")
    parser.add_argument("--dest-root", type=Path, default=Path("experiments/overfitting/data_pack"), help="the pack")
    parser.add_argument(
        "--val-manifest", type=Path, help=f"list of questions; if not given, {create_val_manifest.OUTPUT} if it exists"
    )
    parser.add_argument("--text-list", type=Path, help="list of text-only rows, as text/val.jsonl; if not given, none")
    given = parser.parse_args(arguments)
    if not given.manifest.is_file():
        hint = "make it with python -m experiments.overfitting.create_subset_manifest"
        raise InputError(given.manifest, "a list of clips", "no such file", hint)
    questions = _val_manifest(given.val_manifest)
    report = package_subset(given.manifest, given.source_root, given.dest_root, questions, given.text_list)
    texts = f", {report.num_texts} text-only rows" if report.num_texts else ""
    print(f"{given.dest_root}: {report.num_clips} clips, {report.num_images} images{texts}")
    if report.missing:
        print(f"WARNING {len(report.missing)} files were not found, see {given.dest_root / MISSING}")


if __name__ == "__main__":
    main()
