"""Runs are made in processes of their own, once; what was interrupted goes on, and what fails is told."""

import json
import sys
import time

import pytest

from experiments import runs
from experiments.early_stopping import train_and_choose
from experiments.runs import OUTPUT, Job, commands, finished_run, make
from experiments.tuning import point_of
from safe_train.config import build_config
from safe_train.embedded.dataset import DatasetSizes, write_dataset
from safe_train.errors import InputError
from safe_train.report.summary import read_summary
from safe_train.runs.layout import read_config

SETTINGS = {"variant": "soft_retention", "optimization.lr_adapter": "0.001", "seed": "3"}


def job(tmp_path, name="a", **changes):
    return Job(name, SETTINGS, tmp_path / name, **changes)


def write_run(folder, settings=SETTINGS, *, finished, checkpoint=True):
    run = folder / "20260101-000000_x"
    (run / "checkpoints").mkdir(parents=True)
    if checkpoint:
        (run / "checkpoints" / "step-0000100").mkdir()
    (run / "config.json").write_text(build_config({}, settings).model_dump_json())
    if finished:
        (run / "metrics.json").write_text("{}")
    return run


def test_a_new_run_gets_the_settings_and_the_folder(tmp_path):
    (command,) = commands(job(tmp_path))
    assert command[:3] == [sys.executable, "-m", "safe_train"]
    assert dict(word.split("=") for word in command if "=" in word) == SETTINGS
    assert command[-2:] == ["--output-root", str(tmp_path / "a")]
    assert commands(job(tmp_path, early_stopping=True))[0][2] == "experiments.early_stopping"


def test_a_finished_run_is_left_alone_and_an_interrupted_one_goes_on(tmp_path):
    finished = write_run(tmp_path / "a", finished=True)
    assert commands(job(tmp_path)) == []
    assert finished_run(tmp_path / "a") == finished
    begun = write_run(tmp_path / "b", finished=False)
    assert commands(job(tmp_path, "b")) == [[sys.executable, "-m", "safe_train", "--resume", str(begun)]]
    write_run(tmp_path / "c", finished=False, checkpoint=False)
    assert "--set" in commands(job(tmp_path, "c"))[0]


@pytest.mark.parametrize("finished", [True, False])
def test_a_run_with_other_settings_is_never_taken_for_it(tmp_path, finished):
    write_run(tmp_path / "a", SETTINGS | {"optimization.lr_adapter": "0.004"}, finished=finished)
    with pytest.raises(InputError, match=r"expected optimization.lr_adapter 0.001, got 0.004; choose another --output"):
        commands(job(tmp_path))


def by_script(monkeypatch, scripts):
    monkeypatch.setattr(runs, "commands", lambda found: [[sys.executable, "-c", scripts[found.name]]])


def test_one_that_fails_does_not_keep_the_others_from_being_made(tmp_path, monkeypatch, capsys):
    scripts = {
        "a": "print('first'); raise SystemExit('no such thing')",
        "b": "import os; print(os.environ['OMP_NUM_THREADS'])",
    }
    by_script(monkeypatch, scripts)
    with pytest.raises(
        InputError, match=r"expected 2 runs, got 1 that failed, the first a: exit code 1: no such thing"
    ):
        make([job(tmp_path, name) for name in scripts], workers=1)
    assert (tmp_path / "b" / OUTPUT).read_text() == "1\n"
    assert "[2/2] b: " in capsys.readouterr().out


def test_several_are_made_at_a_time(tmp_path, monkeypatch):
    """Each of the two waits for what the other writes."""
    wait = "import pathlib, time\npathlib.Path({!r}).touch()\nwhile not pathlib.Path({!r}).exists(): time.sleep(0.01)"
    one, other = str(tmp_path / "one"), str(tmp_path / "other")
    by_script(monkeypatch, {"a": wait.format(one, other), "b": wait.format(other, one)})
    make([job(tmp_path, "a"), job(tmp_path, "b")], workers=2)


def test_an_interruption_stops_the_processes_and_starts_no_more(tmp_path, monkeypatch):
    begun, told = tmp_path / "begun", tmp_path / "told"
    stops = (
        "import pathlib, signal, sys, time\n"
        f"signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path({str(told)!r}).touch(), sys.exit(75)))\n"
        f"pathlib.Path({str(begun)!r}).touch()\ntime.sleep(60)"
    )
    by_script(monkeypatch, {"a": stops, "b": "raise SystemExit('never')"})

    def interrupted(_futures):
        while not begun.exists():
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "as_completed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make([job(tmp_path, "a"), job(tmp_path, "b")], workers=1)
    assert told.exists()
    assert not (tmp_path / "b" / OUTPUT).exists()


@pytest.mark.slow
def test_early_stopping_evaluates_the_checkpoint_that_the_rule_chooses_on_the_rows_for_tuning(tmp_path, monkeypatch):
    """Three checkpoints; the chosen one is evaluated on the validation's rows, and is a finished run like others."""
    root = tmp_path / "data"
    sizes = DatasetSizes(
        train_questions=40, val_questions=20, train_clips=40, val_clips=12, train_text=20, val_text=9,
        train_documents=2, val_documents=2, tune_questions=22, tune_clips=13, tune_text=11, tune_documents=2,
    )  # fmt: skip
    write_dataset(root, sizes)
    monkeypatch.setattr("experiments.tuning.embedded_data_root", lambda _sizes: root)
    monkeypatch.setattr("safe_train.data.sources.embedded_data_root", lambda: root)  # else another root takes minutes
    chosen, rows = [], []

    def second(points):
        chosen.append([point.step for point in points])
        return points[1]

    def counted(rate, evaluations, step):
        rows.append([evaluation[part]["bypass"]["rows"] for evaluation in evaluations for part in ("vl", "text")])
        return point_of(rate, evaluations, step)

    monkeypatch.setattr("experiments.early_stopping.point_of", counted)
    monkeypatch.setattr("experiments.early_stopping.choose", second)
    settings = {
        "variant": "no_retention", "optimization.max_steps": "3", "checkpoint_every": "1", "checkpoint_keep": "9",
        "optimization.audio_batch_size": "4", "optimization.vl_batch_size": "4",
    }  # fmt: skip
    run = train_and_choose(settings, tmp_path / "out")
    assert chosen == [[1, 2, 3]]
    assert rows == [[22, 11]] * 3
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [run.name]
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-0000002"]
    values = read_summary(run).metrics
    assert values["evaluation"]["vl"]["bypass"]["rows"] == 20
    assert values["evaluation"]["text"]["bypass"]["rows"] == 9
    assert values["evaluation"]["audio"]["matched"]["rows"] == 12
    assert (values["early_stopping"]["chosen_step"], values["early_stopping"]["rows"]) == (2, "tune")
    assert [point["step"] for point in values["early_stopping"]["points"]] == [1, 2, 3]
    assert read_config(run).data.val_split == "val"
    tuning = train_and_choose(settings | {"data.val_split": "tune"}, tmp_path / "tuning")
    assert read_summary(tuning).metrics["evaluation"]["vl"]["bypass"]["rows"] == 22
    assert json.loads((tuning / "config.json").read_text())["data"]["val_split"] == "tune"
