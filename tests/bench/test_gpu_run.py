"""The runner of the GPU kit: whatever a step does, the others run, and what it found is kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bench import gpu_run
from bench.gpu import sources
from bench.gpu.processes import Ended
from bench.gpu.results import OtherResultsError, read_results
from bench.gpu.steps import STEPS, Step
from bench.gpu_run import Runner, Settings, closing_table, listing, main, result_of

WRITE = "from bench.gpu.rows import RowWriter; RowWriter().add('row', 'passed', {'figure': 1}); "


def step(name: str, program: str, *, seconds: int = 0, limit: int = 60, **options: Any) -> Step:
    return Step(name, "a test's", seconds, limit, lambda _: [sys.executable, "-c", program], **options)


def run(folder: Path, *steps: Step, budget: float = 100.0, rehearse: bool = False) -> dict[str, dict[str, Any]]:
    """Runs steps with their own limits, also in a rehearsal."""
    folder.mkdir(exist_ok=True)
    workspace = folder / "workspace"
    workspace.mkdir(exist_ok=True)
    for old in workspace.glob("*.jsonl"):
        old.unlink()
    return Runner(Settings(folder / "out", rehearse, budget), workspace).run(steps)


def states(results: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {name: result["state"] for name, result in results.items()}


def test_a_failing_step_is_kept_and_the_next_one_runs(tmp_path: Path) -> None:
    failing = step("first", WRITE + "raise LookupError('what went wrong')")
    found = run(tmp_path, failing, step("second", WRITE))
    assert states(found) == {"first": "failed", "second": "passed"}
    kept = read_results(tmp_path / "out")["steps"]
    assert kept["first"]["rows"][0]["figures"] == {"figure": 1}
    assert "what went wrong" in kept["first"]["message"]
    assert "Traceback" in kept["first"]["tail"]
    assert kept["second"]["state"] == "passed"


def test_a_step_that_hangs_is_killed_with_what_it_started(tmp_path: Path) -> None:
    """Also where it does not listen; its rows up to then are kept."""
    child = tmp_path / "child"
    program = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + WRITE +
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
        f"open({str(child)!r}, 'w').write(str(child.pid)); time.sleep(600)"
    )  # fmt: skip
    found = run(tmp_path, step("hangs", program, limit=5), step("next", WRITE))
    assert states(found) == {"hangs": "timed out", "next": "passed"}
    assert found["hangs"]["seconds"] < 60
    assert len(found["hangs"]["rows"]) == 1
    process = int(child.read_text())
    for _ in range(50):
        if not is_alive(process):
            return
        time.sleep(0.1)
    pytest.fail("the hanging step's child is still there")


def is_alive(process: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    status = Path(f"/proc/{process}/stat")
    return status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] not in ("Z", "X")


def test_what_no_longer_fits_the_budget_is_left_out_and_said(tmp_path: Path) -> None:
    found = run(tmp_path, step("long", WRITE, seconds=50), step("short", WRITE, seconds=1), budget=30.0)
    assert states(found) == {"long": "left out", "short": "passed"}
    assert "expected 50 s" in found["long"]["message"]
    assert "left out" in closing_table(found)


def test_a_step_may_not_outlast_the_budget(tmp_path: Path) -> None:
    found = run(tmp_path, step("hangs", "import time; time.sleep(600)", limit=500), budget=4.0)
    assert states(found) == {"hangs": "timed out"}
    assert found["hangs"]["seconds"] < 60


def test_a_later_call_skips_what_passed_and_repeats_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    log.touch()
    good = step("good", WRITE + f"open({str(log)!r}, 'a').write('good ')")
    bad = step("bad", f"open({str(log)!r}, 'a').write('bad '); raise SystemExit(3)")
    run(tmp_path, good, bad)
    found = run(tmp_path, good, bad)
    assert log.read_text() == "good bad bad "
    assert states(found) == {"good": "done before", "bad": "failed"}
    monkeypatch.setattr("bench.gpu_run.source_digest", lambda: "of other sources")
    run(tmp_path, good)
    assert log.read_text() == "good bad bad good "


def test_selected_tests_do_not_make_a_step_done(tmp_path: Path) -> None:
    """Only runs of tests are given the expression; what they find is kept with it."""
    settings = Settings(tmp_path / "out", select="one or two")
    found = Runner(settings, tmp_path).run([step("good", WRITE)])
    assert states(found) == {"good": "passed"}
    kept = read_results(tmp_path / "out")["steps"]["good"]
    assert kept["selected"] == "one or two"
    assert states(run(tmp_path, step("good", WRITE))) == {"good": "passed"}
    assert gpu_run.selecting(["python", "-m", "pytest", "bench"], "one")[-2:] == ["-k", "one"]
    assert gpu_run.selecting(["python", "-c", "pass"], "one") == ["python", "-c", "pass"]


def test_a_step_that_is_left_out_keeps_what_it_found_earlier(tmp_path: Path) -> None:
    bad = step("bad", WRITE + "raise SystemExit(3)", seconds=20)
    run(tmp_path, bad)
    assert states(run(tmp_path, bad, budget=1.0)) == {"bad": "left out"}
    assert read_results(tmp_path / "out")["steps"]["bad"]["state"] == "failed"


def test_results_of_a_rehearsal_and_of_a_gpu_are_not_mixed(tmp_path: Path) -> None:
    run(tmp_path, step("good", WRITE), rehearse=True)
    with pytest.raises(OtherResultsError, match="expected results of a GPU, got those of a rehearsal"):
        run(tmp_path, step("good", WRITE))


def test_the_folder_is_few_shallow_files(tmp_path: Path) -> None:
    """At most eight of 16 MiB, no more than two folders down, come back from where there is a GPU."""
    run(tmp_path, step("good", WRITE), step("bad", "raise SystemExit(3)"))
    assert [path.name for path in (tmp_path / "out").rglob("*")] == ["results.json"]


def test_a_step_that_did_nothing_has_not_passed(tmp_path: Path) -> None:
    skipped = "from bench.gpu.rows import RowWriter; RowWriter().add('row', 'skipped', message='no GPU')"
    warned = skipped + "; RowWriter().add('warnings', 'passed')"
    found = run(tmp_path, step("silent", ""), step("skipping", skipped), step("warning", warned))
    assert states(found) == {"silent": "failed", "skipping": "failed", "warning": "failed"}
    assert "no GPU" in found["skipping"]["message"]


@pytest.mark.parametrize(
    ("code", "outcomes", "state"),
    [
        (1, ["passed", "failed"], "passed"),
        (1, ["failed"], "failed"),
        (2, ["passed"], "failed"),
        (-9, ["passed"], "failed"),
    ],
)
def test_rows_that_may_fail(code: int, outcomes: list[str], state: str) -> None:
    """Failed rows are results; a step all of whose rows failed, or that was cut off, has failed."""
    rows = [{"name": "row", "outcome": outcome, "message": None} for outcome in outcomes]
    allowing = step("sweeps", "", rows_may_fail=True)
    assert result_of(allowing, Ended(code, 1.0, ""), rows)["state"] == state
    if code == 1:
        assert result_of(step("tests", ""), Ended(code, 1.0, ""), rows)["state"] == "failed"


def test_exit_code_and_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr("bench.gpu_run.STEPS", (step("one", WRITE), step("two", "raise SystemExit('its last words')")))
    monkeypatch.setattr("bench.gpu_run.signal.signal", lambda *_: None)
    assert main(["--out", str(tmp_path), "--only", "one"]) == 0
    assert main(["--out", str(tmp_path)]) == 1
    told = capsys.readouterr().out
    assert "one           done before" in told
    assert "two           failed" in told
    assert "its last words" in told


def test_list_says_what_will_run(capsys: pytest.CaptureFixture) -> None:
    assert main(["--list"]) == 0
    told = capsys.readouterr().out
    assert all(f"{step.name} " in told for step in STEPS)
    assert sum(step.seconds for step in STEPS) <= Settings(Path()).budget
    assert all(step.seconds <= step.limit for step in STEPS)
    assert "480" in listing(STEPS, 480.0)


def test_operations_that_fail_are_not_measured() -> None:
    """Their benchmarks are skipped by name, the others are not."""
    broken = {"ewc_penalty_": "assert 0.5 < 1e-05"}
    arguments = ("-q", "-rs", "-p", "no:cacheprovider", "bench/test_elastic.py", "-m", "full", "-k", "not prepared")
    command = [sys.executable, "-m", "pytest", *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"SAFE_BENCH_BROKEN": json.dumps(broken), "SAFE_GPU_REHEARSAL": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert "3 skipped" in done.stdout, done.stdout
    assert "2 passed" in done.stdout
    assert "ewc_penalty_: its call at a native size failed: assert 0.5 < 1e-05" in done.stdout


def test_a_failing_operation_is_found_in_the_rows(tmp_path: Path) -> None:
    rows = (
        "from bench.gpu.rows import RowWriter as W; W().add('fp32', 'failed', {'operation': 'kl_divergence'}, "
        "message='wrong\\nand more'); W().add('bf16', 'passed', {'operation': 'ewc_penalty_'}); raise SystemExit(1)"
    )
    told = "import os; assert os.environ['SAFE_BENCH_BROKEN'] == '{\"kl_divergence\": \"wrong\"}'; "
    found = run(tmp_path, step("operations", rows), step("benchmarks", told + WRITE))
    assert states(found) == {"operations": "failed", "benchmarks": "passed"}, found["benchmarks"]["tail"]


def make_tree(root: Path) -> Path:
    for name in ("safe_kernels/kernel.py", "bench/run.py", "pyproject.toml"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name, encoding="utf-8")
    return root


def test_digest_is_of_the_sources(tmp_path: Path) -> None:
    first, second = make_tree(tmp_path / "first"), make_tree(tmp_path / "second")
    assert sources.source_digest(first) == sources.source_digest(second)
    (second / "notes.txt").write_text("of no consequence", encoding="utf-8")
    assert sources.source_digest(first) == sources.source_digest(second)
    (second / "safe_kernels/kernel.py").rename(second / "safe_kernels/other.py")
    assert sources.source_digest(first) != sources.source_digest(second)
    assert sources.commit(first) is None


def test_a_folder_without_wheels_is_said_and_stops_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_run, "STEPS", (step("next", WRITE),))
    assert gpu_run.main(["--out", str(tmp_path / "out"), "--wheels", str(tmp_path)]) == 0
    assert f"--wheels: no wheels in {tmp_path}, going on without" in capsys.readouterr().out


def test_an_operation_whose_process_crashed_is_known_by_its_name() -> None:
    name = "test_operations.py::test_equals_float64[fisher_diagonal_ 64 x 512-bf16]"
    crashed = {"name": name, "outcome": "failed", "message": "worker crashed", "figures": {}}
    told = {**crashed, "figures": {"operation": "ewc_penalty_"}, "message": "off by 2"}
    found = gpu_run.broken_operations({"operations": {"rows": [crashed, told]}})
    assert found == {"fisher_diagonal_": "worker crashed", "ewc_penalty_": "off by 2"}


def test_wheels_that_cannot_be_installed_are_told_and_stop_nothing(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (wheels / "broken-1.0-py3-none-any.whl").write_bytes(b"no archive")
    found = Runner(Settings(tmp_path / "out", wheels=wheels), tmp_path).run([step("next", WRITE)])
    assert states(found) == {"wheels": "failed", "next": "passed"}
