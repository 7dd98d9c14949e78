"""What retention costs a Stage A step, before and after the caches, and how that grows.

    python -m bench.cost --output cost.json
    python -m bench.cost --device cuda --output cost.json

prints tables in Markdown. Times are CPU time of one thread, or the time from an idle GPU to an idle GPU; arms
interleaved, medians over rounds of the ratio within a round, with half the distance of its quartiles. Takes some
minutes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench.random_llava import Shape
from bench.stages import (
    UnsharedModel,
    configuration,
    data_folder,
    median_ratio,
    stage_on,
    step_seconds,
    train_on_vl_rows,
)
from safe_train.audio.input import AudioInput
from safe_train.configs.retention_variants import RETENTION_VARIANTS
from safe_train.data.cache.features import FeatureCache
from safe_train.data.cache.tensor_store import TensorFolder, TensorStore
from safe_train.model.base import Base
from safe_train.training.build import load_base_model, resolve_device
from safe_train.training.trainer import StageATrainer

BASELINE = "no_retention, same rows"
MIDDLE = Shape(hidden=384, layers=8, image_side=8, vision_hidden=192)
FULL = "full_retention"
_WARM_UP = 3
"""Steps before the timed ones: calibrations, the optimizer's state, features and kept states of all rows."""

Arms = dict[str, Callable[[], object]]


def step_arms(base: Base, data: Path, variants: tuple[str, ...], **settings: Any) -> Arms:
    """A step of each variant, ready to be timed, full retention also without the prefix and with a kept teacher.

    The baseline also trains on the VL rows, by cross-entropy.
    """

    def prepared(variant: str, **changes: Any) -> StageATrainer:
        return stage_on(base, configuration(data, variant=variant, **settings, **changes))

    def with_vl_rows(stage: StageATrainer) -> Callable[[], None]:
        def step() -> None:
            stage.train_step(measure=False)
            train_on_vl_rows(stage)

        return step

    def plain(stage: StageATrainer) -> Callable[[], object]:
        return lambda: stage.train_step(measure=False)

    arms: Arms = {BASELINE: with_vl_rows(prepared("no_retention")), "no_retention": plain(prepared("no_retention"))}
    for variant in (*variants, FULL):
        arms[variant] = plain(prepared(variant))
    before = prepared(FULL)
    before.retention.model = UnsharedModel(before.model)
    arms[f"{FULL}, two whole passes"] = plain(before)
    arms[f"{FULL}, kept teacher"] = plain(prepared(FULL, retention__teacher_cache=True))
    return arms


def warmed(arms: Arms, steps: int) -> Arms:
    """The arms after so many steps of each."""
    for arm in arms.values():
        for _ in range(steps):
            arm()
    return arms


def ratios(arms: Arms, rounds: int, device: torch.device) -> dict[str, dict[str, float]]:
    """Of each arm the seconds of a step, and its ratio to the baseline."""
    found = step_seconds(arms, rounds, device)
    rows = {}
    for name, seconds in found.items():
        ratio, spread = median_ratio(seconds, found[BASELINE])
        rows[name] = {"seconds": statistics.median(seconds), "ratio": ratio, "spread": spread}
    return rows


def variants_table(base: Base, data: Path, rounds: int, epoch_steps: int, **settings: Any) -> dict[str, Any]:
    """All variants with a loss or an update of their own."""
    names = tuple(v for v in RETENTION_VARIANTS if v.endswith("_retention") and v not in ("no_retention", FULL))
    arms = step_arms(base, data, names, device=base.model.device, **settings)
    return ratios(warmed(arms, epoch_steps), rounds, base.model.device)


def growth_table(data: Path, root: Path, rounds: int, device: torch.device) -> dict[str, Any]:
    """Full retention against the baseline as one size at a time grows."""
    small = Shape(hidden=256, layers=8, image_side=6, vision_hidden=128)
    cases: dict[str, tuple[Shape, int]] = {
        "hidden 256, 36 image tokens, batch 4": (small, 4),
        "hidden 512": (Shape(512, 8, 6, 128), 4),
        "hidden 768": (Shape(768, 8, 6, 128), 4),
        "16 layers": (Shape(256, 16, 6, 128), 4),
        "144 image tokens": (Shape(256, 8, 12, 128), 4),
        "324 image tokens": (Shape(256, 8, 18, 128), 4),
        "batch 8": (small, 8),
        "batch 16": (small, 16),
    }
    found = {}
    for name, (shape, batch) in cases.items():
        base = random_base(shape, root / name.replace(" ", "-").replace(",", ""), device)
        settings = {"optimization__audio_batch_size": batch, "optimization__vl_batch_size": batch}
        arms = step_arms(base, data, (), data__max_train_vl=2 * batch, device=device, **settings)
        parameters = sum(p.numel() for p in base.model.parameters())
        found[name] = {"parameters": parameters, "arms": ratios(warmed(arms, _WARM_UP), rounds, device)}
    return found


def random_base(shape: Shape, folder: Path, device: torch.device | str = "cpu") -> Base:
    """A base with random weights."""
    return load_base_model(configuration(folder, model__base_model=shape.save(folder), device=device))


def features_table(base: Base, data: Path, folder: Path, rounds: int) -> dict[str, float]:
    """Seconds for the features of a batch of 16 clips: encoded, from the disk, from memory."""
    device = base.model.device
    stage = stage_on(base, configuration(data, device=device))
    encoders: Any = list(stage.model.encoders)
    clips: list[AudioInput | None] = [row.audio for row in stage.batches.sampler.audio[:16]]

    def cache(max_bytes: int, root: Path | None) -> FeatureCache:
        return FeatureCache(encoders, store=TensorStore(max_bytes, TensorFolder(root) if root else None))

    kept, on_disk, none = cache(2**30, None), cache(1, folder), cache(1, None)
    arms: Arms = {
        "encoded": lambda: none.get(clips),
        "from disk": lambda: on_disk.get(clips),
        "from memory": lambda: kept.get(clips),
    }
    warmed(arms, 1)
    return {name: statistics.median(seconds) for name, seconds in step_seconds(arms, rounds, device).items()}


def markdown(found: dict[str, Any]) -> str:
    """The tables."""
    lines, unit = [], "CPU s" if found.get("device", "cpu") == "cpu" else "s"
    for title in ("embedded", "middle"):
        if title in found:
            lines += ["", f"## {title}", "", f"| arm | {unit} a step | times the baseline |", "|---|---|---|"]
            lines += [
                f"| {name} | {row['seconds']:.3f} | {row['ratio']:.2f} ± {row['spread']:.2f} |"
                for name, row in found[title].items()
            ]
    if "growth" in found:
        names = [name for name in next(iter(found["growth"].values()))["arms"] if name != BASELINE]
        lines += ["", "## growth", "", f"| case | parameters | {' | '.join(names)} |", "|---" * (2 + len(names)) + "|"]
        for case, row in found["growth"].items():
            cells = [f"{row['arms'][n]['ratio']:.2f} ± {row['arms'][n]['spread']:.2f}" for n in names]
            lines.append(f"| {case} | {row['parameters'] / 1e6:.1f} M | {' | '.join(cells)} |")
    if "features" in found:
        lines += ["", "## features of 16 clips", ""]
        lines += [f"{name}: {1e3 * seconds:.2f} ms" for name, seconds in found["features"].items()]
    return "\n".join(lines)


def main() -> None:
    """Measures what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=["embedded", "features", "middle", "growth"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    device = resolve_device(options.device)
    torch.set_num_threads(1)  # several wait actively for each other, which is CPU time of no work
    found: dict[str, Any] = {"threads": torch.get_num_threads(), "torch": torch.__version__, "rounds": options.rounds}
    found["device"] = options.device
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        data = data_folder(root / "data")
        embedded = load_base_model(configuration(data, device=device))
        if "embedded" in options.parts:
            found["embedded"] = variants_table(embedded, data, options.rounds, 6)
        if "features" in options.parts:
            found["features"] = features_table(embedded, data, root / "features", options.rounds)
        if "middle" in options.parts:
            batch = {"optimization__audio_batch_size": 4, "optimization__vl_batch_size": 4, "data__max_train_vl": 8}
            base = random_base(MIDDLE, root / "middle", device)
            found["middle"] = variants_table(base, data, options.rounds, _WARM_UP, **batch)
        if "growth" in options.parts:
            found["growth"] = growth_table(data, root, options.rounds, device)
    print(markdown(found))
    if options.output is not None:
        options.output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
