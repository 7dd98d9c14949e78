"""Results hold what programs printed, without the folders of the machine that printed it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from bench.gpu.results import Results, read_results, without_places
from bench.gpu.sources import ROOT


def test_folders_of_this_machine_are_named_and_not_told(tmp_path: Path) -> None:
    """In JSON as well, where a line break follows a path as a backslash."""
    said = f'{sys.prefix}/lib/x.py:4: in f\n{ROOT}/bench/y.py\n"{ROOT}"\nsafe_kernels/z.py'
    Results(tmp_path, rehearsal=True).put("kernels", {"state": "failed", "digest": "", "tail": said})
    assert sys.prefix not in (tmp_path / "results.json").read_text(encoding="utf-8")
    tail = read_results(tmp_path)["steps"]["kernels"]["tail"]
    assert tail == '<environment>/lib/x.py:4: in f\n<checkout>/bench/y.py\n"<checkout>"\nsafe_kernels/z.py'


@pytest.mark.parametrize("place", ["/", "/usr"])
def test_folders_that_every_machine_has_stay(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.setattr(sys, "prefix", place)
    monkeypatch.setattr(sys, "base_prefix", place)
    monkeypatch.setattr(Path, "home", lambda: Path(place))
    assert without_places("/usr/bin/python: /dev/null") == "/usr/bin/python: /dev/null"


def test_a_folder_whose_name_goes_on_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", "/some/env")
    said, told = "/some/env2/bin /some/env.old /some/env/bin", "/some/env2/bin /some/env.old <environment>/bin"
    assert without_places(said) == told


@pytest.mark.parametrize(
    "path", sorted((ROOT / "bench/results/gpu").glob("*/results.json")), ids=lambda p: p.parent.name
)
def test_published_results_name_no_folder_of_a_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    json.loads(text)
    assert not [place for place in ("/opt/", "/root/", "/home/", "/tmp/") if place in text]
