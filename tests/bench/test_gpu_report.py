"""The page of a GPU run: figures are carried over, gaps are said, and a rehearsal never gets into the documentation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.gpu.results import OtherResultsError
from bench.gpu_report import DOCS, main, markdown
from bench.measure import OURS


def bench_row(implementation: str, seconds: float, *, error: float = 1e-6, waits: bool = False) -> dict[str, Any]:
    figures = {
        "operation": "operation", "size": "N 3", "implementation": implementation, "device": "GPU", "threads": 1,
        "torch": "2.0", "seconds": seconds, "host_seconds": 4e-3, "device_waits": waits, "flops": 2e9, "traffic": 0.0,
        "limit_flops": 4e12, "limit_bandwidth": 1e12, "peak_extra_bytes": 3_000_000, "error": error, "tolerance": 1e-3,
    }  # fmt: skip
    return {
        "name": f"bench::{implementation}",
        "outcome": "passed",
        "seconds": 1.0,
        "message": None,
        "figures": figures,
    }


def step(*rows: dict[str, Any], state: str = "passed", message: str | None = None) -> dict[str, Any]:
    return {"state": state, "message": message, "seconds": 12.0, "rows": list(rows), "digest": "abc", "commit": None}


def document(rehearsal: bool = False, **steps: dict[str, Any]) -> dict[str, Any]:
    return {"version": 1, "rehearsal": rehearsal, "steps": steps}


def failed_row(name: str, message: str) -> dict[str, Any]:
    return {"name": name, "outcome": "failed", "seconds": 0.0, "message": message, "figures": {}}


def test_times_floor_and_speed_up() -> None:
    page = markdown(document(benchmarks=step(bench_row(OURS, 1e-3), bench_row("peer", 2.5e-3, waits=True))))
    assert "| safe_kernels | 1.00 ms | 4.00 ms | 50% | 3.0 MB | 1.0e-06 |  |" in page
    assert "| peer | 2.50 ms* | 4.00 ms | 20% | 3.0 MB | 1.0e-06 | 2.50x |" in page


def test_a_wrong_result_gets_no_speed_up() -> None:
    page = markdown(document(benchmarks=step(bench_row(OURS, 1e-3, error=0.5), bench_row("peer", 2.5e-3))))
    assert "refused: our result is wrong" in page
    assert "2.50x" not in page


def test_what_did_not_run_or_failed_is_said() -> None:
    page = markdown(
        document(
            native=step(failed_row("tests::large", "offsets overflow\nand more"), state="failed"),
            benchmarks=step(failed_row("bench::peer", "is not installed")),
            profile=step(state="left out", message="expected 35 s; 3 s of the budget are left"),
        )
    )
    assert "- tests::large: offsets overflow" in page
    assert "- peer: is not installed" in page
    assert "| profile | left out | 12 s | 0, 0, 0 | expected 35 s; 3 s of the budget are left |" in page


def test_a_run_without_the_environment_names_no_device() -> None:
    software = {"row": "software", "python": "3.12"}
    named = {"name": "environment", "outcome": "passed", "seconds": 0.0, "message": None, "figures": software}
    assert "Device and versions: not recorded" in markdown(document(native=step()))
    page = markdown(document(environment=step(named), native=step()))
    assert "not recorded" not in page
    assert "python 3.12" in page


def test_stage_a_beside_its_plan() -> None:
    figures = {
        "held": [20e9, 16e9], "peak": [30e9, 30e9], "calibrated": [40e9, 0], "seconds": [0.5, 0.4],
        "planned_seconds": 0.625,
    }  # fmt: skip
    rows = [
        {"name": name, "outcome": "passed", "message": None, "figures": figures | {"stage_a": name}}
        for name in ("no_retention", "full_retention")
    ]
    page = markdown(document(stage_a=step(*rows)))
    assert (
        "| full_retention | 20 / 16 (+25 %) | 30 / 30 (+0 %) | 40 / not measured | 0.5 / 0.4 (+25 %) | 0.625 s | 1.00 |"
        in page
    )


def test_parts_of_a_step_and_the_price_on_the_same_rows() -> None:
    parts = {"data": 0.1, "audio pass": 0.3, "together": 0.5}
    sizes = {"held": [1, 1], "peak": [1, 1], "calibrated": [1, 1]}
    rows = [
        {"name": name, "outcome": "passed", "message": None, "figures": figures}
        for name, figures in (
            ("step", sizes | {"stage_a": "full_retention", "seconds": [0.5, 0.4]}),
            ("parts", {"parts": parts}),
            ("profile", {"busy_seconds": 0.3}),
            ("same rows", {"ratio": 1.125, "spread": 0.05}),
        )
    ]  # fmt: skip
    page = markdown(document(stage_a=step(*rows)))
    assert "| audio pass | 300.00 ms | 60% |" in page
    assert "| the rest | 100.00 ms | 20% |" in page
    assert "The device is busy for 300.00 ms of a step's 400.00 ms: 75%." in page
    assert "plain cross-entropy: 1.12 ± 0.05" in page


def test_sweeps_are_one_line_a_constant() -> None:
    point = {"sweep": "module:TOKENS", "size": "T 64"}
    rows = [
        {"name": "a", "outcome": "passed", "message": None, "figures": point | {"value": 16, "seconds": 2e-3}},
        {"name": "b", "outcome": "failed", "message": "LookupError: none", "figures": point | {"value": 32}},
    ]
    assert "| `module:TOKENS` | T 64 | 16: 2.00 ms; 32: LookupError: none |" in markdown(document(sweeps=step(*rows)))


def test_of_two_runs_a_table_is_of_one() -> None:
    """The second has a faster kernel and no peer beside it: no speed-up is taken over two runs."""
    first = document(benchmarks=step(bench_row(OURS, 2e-3), bench_row("peer", 3e-3)))
    second = document(benchmarks=step(bench_row(OURS, 1e-3)) | {"selected": "ours"})
    page = markdown(first, second)
    older, newer = page.partition("## Time")[2].split("### operation")[1:]
    assert "Run 1." in older
    assert "| safe_kernels | 2.00 ms |" in older
    assert "1.50x" in older
    assert "Run 2." in newer
    assert "| safe_kernels | 1.00 ms |" in newer
    assert "peer" not in newer
    assert "3.00x" not in page
    assert "## Steps, run 1" in page
    assert "| benchmarks, `ours` | passed |" in page


def test_a_run_that_has_measured_as_much_replaces_an_earlier_one() -> None:
    first = document(benchmarks=step(bench_row(OURS, 2e-3), bench_row("peer", 3e-3)))
    second = document(benchmarks=step(bench_row(OURS, 1e-3), bench_row("peer", 4e-3)))
    page = markdown(first, second)
    assert "| safe_kernels | 1.00 ms |" in page
    assert "4.00x" in page
    assert "| safe_kernels | 2.00 ms |" not in page


def test_a_benchmark_that_failed_and_passes_later_is_not_missing() -> None:
    failed = document(benchmarks=step(failed_row("bench::peer", "is not installed"), state="failed"))
    assert "Not measured:" in markdown(failed)
    assert "Not measured:" not in markdown(failed, document(benchmarks=step(bench_row("peer", 3e-3))))


def test_runs_of_two_kinds_are_refused() -> None:
    def run(name: str) -> dict[str, Any]:
        row = {"name": "gpu", "outcome": "passed", "message": None, "figures": {"name": name}}
        return document(environment=step(row))

    with pytest.raises(OtherResultsError, match="runs of one kind of GPU, got H100, H200"):
        markdown(run("H100"), run("H200"))
    with pytest.raises(OtherResultsError, match="got both"):
        markdown(document(), document(rehearsal=True))


def write(folder: Path, rehearsal: bool) -> Path:
    folder.mkdir()
    found = document(rehearsal, benchmarks=step(bench_row(OURS, 1e-3), bench_row("peer", 2.5e-3)))
    (folder / "results.json").write_text(json.dumps(found), encoding="utf-8")
    return folder


@pytest.mark.parametrize("options", [[], ["--output", str(DOCS)], ["--output", str(DOCS / "kernels" / "new")]])
def test_a_rehearsal_is_refused_for_the_documentation(
    tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture
) -> None:
    before = sorted(DOCS.rglob("*"))
    with pytest.raises(SystemExit) as ended:
        main([str(write(tmp_path / "out", rehearsal=True)), *options])
    assert ended.value.code == 2
    assert "got those of a rehearsal; name another folder by --output" in capsys.readouterr().err
    assert sorted(DOCS.rglob("*")) == before


@pytest.mark.parametrize("rehearsal", [True, False])
def test_page_and_plot_elsewhere(tmp_path: Path, rehearsal: bool) -> None:
    pytest.importorskip("matplotlib")
    assert main([str(write(tmp_path / "out", rehearsal)), "--output", str(tmp_path / "page")]) == 0
    page = (tmp_path / "page" / "measured-gpu.md").read_text(encoding="utf-8")
    assert page.startswith("# Rehearsal: nothing here was measured on a GPU" if rehearsal else "# Measured on a GPU")
    assert "<svg" in (tmp_path / "page" / "measured-gpu.svg").read_text(encoding="utf-8")


def test_a_folder_without_results_is_told(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path)])
    assert "expected what python -m bench.gpu_run writes" in capsys.readouterr().err
