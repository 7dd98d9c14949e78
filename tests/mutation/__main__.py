"""`python -m tests.mutation`: how many small faults the tests find. See docs/mutation.md."""

from __future__ import annotations

import argparse
import hashlib
import platform
import subprocess
from collections import Counter
from importlib.metadata import version
from pathlib import Path

from tests.mutation.runner import Runner, Tree, files_of
from tests.mutation.selection import AREAS, MIRRORS, draw

ROOT = Path(__file__).parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="which mutants are drawn")
    parser.add_argument("--count", type=int, default=200, help="how many; those of a smaller count are the first")
    parser.add_argument("--area", choices=AREAS, action="append", help="where; may be given again (default: all)")
    parser.add_argument("--workers", type=int, default=1, help="mutants at the same time")
    parser.add_argument("--output", type=Path, default=ROOT / "build/mutation.json", help="goes on where it ended")
    parser.add_argument("--list", action="store_true", help="print the mutants and run none")
    options = parser.parse_args()

    mutants = draw(ROOT, {name: AREAS[name] for name in options.area or AREAS}, options.seed, options.count)
    if options.list:
        for mutant in mutants:
            print(f"{mutant.key} {mutant.path}:{mutant.line} {mutant.kind}: {mutant.before!r} -> {mutant.after!r}")
        return
    tree = Tree(ROOT, files_of(ROOT), ("safe_kernels", "safe_train", "configs"), (".venv",), mirrors=MIRRORS)
    header = {
        "seed": options.seed,
        "revision": revision(),
        "versions": {name: version(name) for name in ("torch", "triton", "transformers", "pytest")}
        | {"python": platform.python_version()},
    }
    results = Runner(tree, options.output, header, workers=options.workers).run(mutants)
    found = results["killed"] + results["timeout"]
    print(
        f"{found} of {found + results['survived']} found ({results['timeout']} of them out of time): {options.output}"
    )
    for kind, number in Counter(m["kind"] for m in results["mutants"] if m["status"] == "survived").most_common():
        print(f"  survived: {number} {kind}")


def revision() -> str:
    """The commit, and a digest of what differs from it."""
    commit = _git("rev-parse", "HEAD").strip()
    changes = _git("status", "--porcelain") + _git("diff", "HEAD")
    return f"{commit}+{hashlib.sha256(changes.encode()).hexdigest()[:8]}" if changes else commit


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    main()
