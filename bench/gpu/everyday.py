"""Each operation once at a native size, for a profiler that watches a program from outside."""

from __future__ import annotations

import torch

from bench.gpu.cases import everyday_cases
from bench.rehearsal import sized


def main() -> None:
    """Runs them in half precision."""
    torch.manual_seed(0)
    for case in everyday_cases():
        case.call(case.make(torch.device(sized("cuda", "cpu")), torch.bfloat16))


if __name__ == "__main__":
    main()
