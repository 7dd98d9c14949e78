"""The benchmark report: figures are carried over, and a wrong result of ours gets no speed-up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bench.measure import OURS, Limits, Row, Work, WrongResultError, peak_extra_bytes, run
from bench.report import markdown, plot, rows_of


def row(implementation: str, seconds: float, error: float = 1e-6) -> dict[str, Any]:
    return {
        "extra_info": {
            "operation": "operation", "size": "N 3", "implementation": implementation, "device": "processor",
            "threads": 1, "torch": "2.0", "seconds": seconds, "flops": 2e9, "traffic": 0.0, "limit_flops": 4e9,
            "limit_bandwidth": 1e9,
            "peak_extra_bytes": 3_000_000, "error": error, "tolerance": 1e-3,
        }
    }  # fmt: skip


def test_table_holds_the_figures_and_the_speed_up() -> None:
    page = markdown({"benchmarks": [row(OURS, 1.0), row("peer", 2.5)]})
    assert "| safe_kernels | 1.00 s | 2.0 GFLOP/s | 50% | 3.0 MB | 1.0e-06 |  |" in page
    assert "| peer | 2.50 s | 0.8 GFLOP/s | 20% | 3.0 MB | 1.0e-06 | 2.50x |" in page


@pytest.mark.parametrize("error", [0.5, float("nan")])
def test_a_wrong_result_gets_no_speed_up(error: float) -> None:
    page = markdown({"benchmarks": [row(OURS, 1.0, error), row("peer", 2.5)]})
    assert "refused: our result is wrong" in page
    assert "2.50x" not in page


@pytest.mark.parametrize("error", [0.5, float("nan")])
def test_a_wrong_result_is_not_timed(error: float) -> None:
    judged = Row("operation", "N 3", OURS, Work(), error, 1e-3)
    with pytest.raises(WrongResultError, match=r"tolerance 0\.001"):
        run(None, judged, lambda: None, torch.device("cpu"))


def test_floor_is_the_slower_of_arithmetic_and_traffic() -> None:
    limits = Limits(flops=1e9, bandwidth=1e6)
    assert limits.floor(Work(flops=3e9)) == pytest.approx(3.0)
    assert limits.floor(Work(flops=3e9, traffic=5e6)) == pytest.approx(5.0)


@pytest.mark.filterwarnings("ignore")
def test_extra_memory_is_what_is_alive_at_once() -> None:
    def one_after_the_other() -> None:
        for _ in range(4):
            torch.empty(2**18).fill_(1.0)

    def together() -> None:
        kept = [torch.empty(2**18) for _ in range(4)]
        del kept

    device = torch.device("cpu")
    assert peak_extra_bytes(one_after_the_other, device) == pytest.approx(2**20, rel=0.01)
    assert peak_extra_bytes(together, device) == pytest.approx(4 * 2**20, rel=0.01)


def test_plot_is_drawn(tmp_path: Path) -> None:
    document = {"benchmarks": [row(OURS, 1.0), row("peer", 2.5)]}
    assert len(rows_of(document)) == 2
    plot(document, tmp_path / "measured.svg")
    assert "<svg" in (tmp_path / "measured.svg").read_text(encoding="utf-8")
