"""Figures of finished runs in a file: the same table as from the folders, and nothing mixed or made twice."""

import json
import sys
from dataclasses import replace

import pytest

from experiments import ablation, records
from experiments.ablation import jobs, read_all
from experiments.arms import LR_KEYS, arms, default_rate, folder_name
from experiments.records import RunKey, add_records, not_recorded, read_records, record
from experiments.tables import markdown, row
from safe_train.config import build_config
from safe_train.errors import InputError
from tests.experiments.test_ablation import metrics, with_text

REGIME, ARMS, SEEDS = "real", ("no_retention", "no_retention, gate 0.5", "full_retention"), (1, 2, 3)


def write_runs(root, *, seeds=SEEDS, names=ARMS, base="b" * 64):
    for (_, name, seed), job in wanted(root, seeds, names).items():
        run = job.folder / "20260101-000000_x"
        (run / "evaluation" / "base-1").mkdir(parents=True)
        as_trained = dict(job.settings) | dict.fromkeys(LR_KEYS, repr(default_rate(REGIME)))
        (run / "config.json").write_text(build_config({}, as_trained).model_dump_json())
        found = with_text(metrics(seed, silence=-0.01 * seed - 0.1 * (name == ARMS[0])), bits=0.1, silence=-0.2)
        (run / "metrics.json").write_text(json.dumps(found))
        (run / "evaluation" / "base-1" / "key.json").write_text(json.dumps({"base": {"sha256": base}}))
    return root


def wanted(root, seeds=SEEDS, names=ARMS):
    return jobs(REGIME, seeds, root, {name: arms(REGIME)[name] for name in names}, {})


def test_records_give_the_table_that_the_folders_give(tmp_path):
    root, kept = write_runs(tmp_path / "runs"), tmp_path / "kept.jsonl"
    assert add_records(kept, record(wanted(root))) == 9
    tables = [markdown({name: row(runs) for name, runs in read_all(where)[REGIME].items()}) for where in (root, kept)]
    assert tables[0] == tables[1]
    assert list(read_all(kept)[REGIME]) == ["no_retention", "full_retention", "no_retention, gate 0.5"]
    assert "0.000888889" in tables[1]


def test_a_file_grows_day_after_day_and_recorded_runs_are_not_made_again(tmp_path, monkeypatch):
    kept, made = tmp_path / "kept.jsonl", []
    add_records(kept, record(wanted(write_runs(tmp_path / "monday", seeds=(1,)))))
    assert add_records(kept, record(wanted(write_runs(tmp_path / "tuesday", seeds=(2,)), (1, 2)))) == 3
    assert add_records(kept, record(wanted(tmp_path / "tuesday", (2,)))) == 0
    assert [one.key for one in read_records(kept)] == sorted(
        RunKey(REGIME, arm, seed) for arm in ARMS for seed in (1, 2)
    )
    monkeypatch.setattr(ablation, "make", lambda open_jobs, _workers: made.extend(job.name for job in open_jobs))
    ablation.run_all(REGIME, SEEDS, tmp_path / "wednesday", list(ARMS), recorded=kept)
    assert made == [f"real, {name}, seed 3" for name in ARMS]


def test_a_run_of_other_settings_is_never_taken_for_a_recorded_one(tmp_path):
    kept = tmp_path / "kept.jsonl"
    add_records(kept, record(wanted(write_runs(tmp_path / "runs"))))
    changed = {
        key: replace(job, settings=dict(job.settings) | {"optimization.max_steps": "500"})
        for key, job in wanted(tmp_path / "runs").items()
    }
    with pytest.raises(
        InputError, match=r"the settings of real, no_retention, seed 1, got another optimization.max_steps"
    ):
        not_recorded(changed, kept)
    with pytest.raises(InputError, match=r"expected optimization.max_steps 500, got 300"):
        record(changed)


def test_other_figures_of_a_recorded_run_and_runs_of_another_base_are_refused(tmp_path):
    kept = tmp_path / "kept.jsonl"
    (first, *_) = found = record(wanted(write_runs(tmp_path / "runs")))
    add_records(kept, found)
    before = kept.read_bytes()
    with pytest.raises(InputError, match="the figures of real, no_retention, 1 as they are recorded, got others"):
        add_records(kept, [replace(first, metrics=dict(first.metrics) | {"seed": 1, "variant": "x"})])
    with pytest.raises(InputError, match="expected one base in real, got 2"):
        add_records(kept, record(wanted(write_runs(tmp_path / "other", seeds=(4,), base="c" * 64), (4,))))
    assert kept.read_bytes() == before
    kept.write_bytes(before + before.splitlines(keepends=True)[0])
    with pytest.raises(InputError, match="expected one record of a run, got two"):
        read_records(kept)
    kept.write_text('{"regime": "real"}\n')
    with pytest.raises(InputError, match=r"kept.jsonl:1: expected a run's record"):
        read_records(kept)


def test_the_commands_record_and_tabulate(tmp_path, monkeypatch, capsys):
    root, kept, table = write_runs(tmp_path / "runs"), tmp_path / "kept.jsonl", tmp_path / "table.json"
    monkeypatch.setattr(records, "find_machine", lambda: type("Machine", (), {"processor": "a Xeon"}))
    for words in (("record", root, "--regime", REGIME, "--into", kept), ("table", kept, "--json", table)):
        monkeypatch.setattr(sys, "argv", ["ablation", *map(str, words)])
        ablation.main()
    printed = capsys.readouterr().out
    assert "9 of 9 runs are new" in printed
    assert "real: every arm at the default learning rate" in printed
    assert json.loads(table.read_text())["machine"] == {"processors": ["a Xeon"]}
    monkeypatch.setattr(sys, "argv", ["ablation", "record", str(tmp_path / "none"), "--into", str(kept)])
    with pytest.raises(SystemExit):
        ablation.main()
    assert not (root / REGIME / folder_name("soft_retention")).exists()
