"""What a run's start takes with a large data set: 200,000 clips as files, as WebDataset shards and as Parquet.

    python -m bench.large_set --rows 200000 --json docs/results/large_set.json

writes the three forms into a temporary folder, about 1 GB, and reads each with the AudioCaps reader in a process of its
own: seconds until all examples are known, and how much more memory it has then than before.
The clips are of 404 bytes and never opened: a reader opens none of them, whatever their length.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safe_train.data.datasets.audiocaps import AudioCaps

_CLIP = b"RIFF" + b"\0" * 400
_IN_A_SHARD, _IN_A_FOLDER = 10_000, 200
_SPLIT = "train"


def write_files(folder: Path, rows: int) -> None:
    """A list of entries, and a file for each clip."""
    entries = []
    for number in range(rows):
        path = folder / "audiocaps" / "audio" / str(number // _IN_A_FOLDER) / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_CLIP)
        entries.append(json.dumps(_fields(number) | {"audio": str(path.relative_to(folder))}))
    (folder / "audiocaps" / f"{_SPLIT}.jsonl").write_text("\n".join(entries) + "\n")


def write_shards(folder: Path, rows: int) -> None:
    """Numbered tar archives."""
    (folder / "audiocaps").mkdir(parents=True)
    for shard, start in enumerate(range(0, rows, _IN_A_SHARD)):
        path = folder / "audiocaps" / f"{_SPLIT}-{shard:06d}.tar"
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
            for number in range(start, min(start + _IN_A_SHARD, rows)):
                for suffix, content in ((".wav", _CLIP), (".json", json.dumps(_fields(number)).encode())):
                    member = tarfile.TarInfo(f"{number:08d}{suffix}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))


def write_tables(folder: Path, rows: int) -> None:
    """Four Parquet files with the clips' bytes inside, as `datasets` writes them."""
    import datasets

    (folder / "audiocaps").mkdir(parents=True)
    for part in range(4):
        own = [
            _fields(number) | {"audio": {"bytes": _CLIP, "path": f"{number}.wav"}} for number in range(part, rows, 4)
        ]
        table = datasets.Dataset.from_list(own).cast_column("audio", datasets.Audio(decode=False))
        table.to_parquet(folder / "audiocaps" / f"{_SPLIT}-{part:05d}-of-00004.parquet")


FORMS: dict[str, Callable[[Path, int], None]] = {
    "files": write_files,
    "shards": write_shards,
    "parquet": write_tables,
}


def _fields(number: int) -> dict[str, Any]:
    return {"id": f"clip{number}", "captions": ["a bell rings", "a bell is struck"]}


def read(folder: Path) -> dict[str, float]:
    """Seconds of reading a form in this process, and the memory that its examples hold."""
    before, start = _resident(), time.perf_counter()
    examples = AudioCaps().examples(folder, _SPLIT, default_question="what do you hear?")
    return {"rows": len(examples), "seconds": time.perf_counter() - start, "mb": (_resident() - before) / 2**20}


def _resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def measure(folder: Path, rows: int, rounds: int) -> list[dict[str, Any]]:
    """The form's figures: of several rounds the fastest, in turns."""
    for form, write in FORMS.items():
        write(folder / form, rows)
    found: dict[str, list[dict[str, float]]] = {form: [] for form in FORMS}
    for _ in range(rounds):
        for form in FORMS:
            command = [sys.executable, "-m", "bench.large_set", "--read", str(folder / form)]
            found[form].append(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))
    return [{"form": form} | min(figures, key=lambda each: each["seconds"]) for form, figures in found.items()]


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="a file for the figures")
    parser.add_argument(
        "--folder", type=Path, help="where the forms are written and kept (default: a temporary folder)"
    )
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.read:
        print(json.dumps(read(given.read)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        found = measure(given.folder or Path(temporary), given.rows, given.rounds)
    print("| form | clips | seconds | memory |\n|---|---|---|---|")
    for each in found:
        print(f"| {each['form']} | {each['rows']:,} | {each['seconds']:.1f} | {each['mb']:.0f} MB |")
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
