"""The command: where the page and its JSON go, and what keeps them from being written."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from safe_train.cli import safe
from tests.report.pages import report_on


def invoke(*arguments):
    return CliRunner().invoke(safe, ["report", *map(str, arguments)])


def test_the_command_prints_the_table_and_writes_beside_the_runs(make_run, tmp_path):
    make_run(tmp_path / "runs", seed=42)
    unfinished = make_run(tmp_path / "runs", seed=43)
    (unfinished / "metrics.json").unlink()
    result = invoke(tmp_path / "runs")
    assert result.exit_code == 0, result.output
    assert "full_retention 42" in result.stdout
    assert f"left out: {unfinished}: not finished" in result.stdout
    assert {path.name for path in (tmp_path / "runs").iterdir() if path.is_file()} == {"report.html", "report.json"}


def test_the_page_goes_where_it_is_asked_to(make_run, tmp_path):
    output = tmp_path / "new" / "page.html"
    assert invoke(make_run(tmp_path), "--output", output, "--picture", tmp_path / "p.png").exit_code == 0
    assert output.with_suffix(".json").is_file()
    assert (tmp_path / "p.png").is_file()


def test_the_default_place_is_the_folder_of_all_runs(make_run, tmp_path):
    runs = [make_run(tmp_path / name) for name in ("one", "two")]
    assert report_on(*runs).page == tmp_path / "report.html"


@pytest.mark.parametrize("output", ["taken", "file/page.html", "figures.json"])
def test_an_output_that_cannot_be_written(make_run, tmp_path, output):
    run = make_run(tmp_path / "runs")
    (tmp_path / "taken").mkdir()
    (tmp_path / "file").write_text("")
    result = invoke(run, "--output", tmp_path / output)
    assert result.exit_code == 2
    assert str(tmp_path / output) in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "taken", "file"}
    assert list((tmp_path / "taken").iterdir()) == []


def test_runs_without_stored_answers_make_no_page(make_run, tmp_path):
    run = make_run(tmp_path)
    (run / "config.json").unlink()
    result = invoke(run)
    assert result.exit_code == 2
    assert f"{run}: expected a run with stored answers" in result.stderr
    assert not (tmp_path / "report.html").exists()


def test_damaged_rows_are_one_line(make_run, tmp_path):
    run = make_run(tmp_path)
    path = next(path for path in Path(run).glob("evaluation/*/rows.vl.jsonl") if "base-" not in str(path))
    path.write_text("{}\n")
    result = invoke(run)
    assert result.exit_code == 2
    assert f"{path}: expected the examples of an evaluation" in result.stderr
    assert not (tmp_path / "report.html").exists()
