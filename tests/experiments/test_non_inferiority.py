"""The table of non-inferiority says what the runs' own tests say, by share of silence and seed."""

import json
import subprocess
import sys

import pytest

from experiments.ablation import CONDITIONS
from experiments.non_inferiority import figures, markdown, read_all, run_all
from tests.experiments.test_ablation import metrics, with_text, write


@pytest.fixture
def root(tmp_path):
    for share, seed in (("0", 2), ("0", 1), ("0.1", 1)):
        lost = (share, seed) == ("0", 2)
        test = {"margin": 0.005, "p_value": 0.01, "rows_needed": 765}
        test |= {"lower_limit": -0.009 if lost else -0.002, "established": not lost}
        values = metrics(seed, **dict.fromkeys(CONDITIONS, -0.006 if lost else 0.0))
        for name in CONDITIONS:
            values["evaluation"]["vl"][name]["non_inferiority"] = test
        write(tmp_path / share / str(seed) / "run", values)
    return tmp_path


def test_runs_are_found_by_share_and_seed(root):
    found = read_all(root)
    assert {share: [run.metrics["seed"] for run in runs] for share, runs in found.items()} == {"0": [1, 2], "0.1": [1]}


def test_a_loss_that_is_not_ruled_out_is_marked(root):
    by_seed = {run.metrics["seed"]: figures(run) for run in read_all(root)["0"]}
    good, bad = markdown(by_seed).splitlines()[2:]
    assert good.count("+0.00 (> -0.20)") == len(CONDITIONS)
    assert "*" not in good
    assert bad.count("-0.60 (> -0.90) *") == len(CONDITIONS)
    assert by_seed[2]["silence"]["interval_95"] == pytest.approx([-1.6, 0.4])


def test_text_only_questions_have_a_table_of_their_own_without_conditions_that_have_no_row(root):
    run = root / "0" / "1" / "run"
    values = with_text(json.loads((run / "metrics.json").read_text()), loud=-0.004)
    for name, result in values["evaluation"]["text"].items():
        if name != "bypass":
            result["non_inferiority"] = values["evaluation"]["vl"][name]["non_inferiority"]
    (run / "metrics.json").write_text(json.dumps(values))
    by_seed = {found.metrics["seed"]: figures(found, "text") for found in read_all(root)["0"]}
    assert by_seed[2] == {}
    names = [name for name in CONDITIONS if name != "contradictory"]
    assert {name: result["change"] for name, result in by_seed[1].items()} == dict.fromkeys(names, 0.0) | {"loud": -0.4}
    header, _, line = markdown({1: by_seed[1]}).splitlines()
    assert header == "| seed | silence | distractor | loud | noise | worst of 4 |"
    assert line.startswith("| 1 | +0.00 (> -0.20) | +0.00 (> -0.20) | -0.40 (> -0.20) | +0.00")


def test_each_seed_is_trained_with_the_share_and_the_questions_and_a_finished_one_is_left_alone(root, monkeypatch):
    commands = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: commands.append(command))
    monkeypatch.setattr("experiments.non_inferiority.embedded_data_root", lambda sizes: f"data-{sizes.val_questions}")
    run_all("0.1", [1, 7], 300, 300, root)
    (command,) = commands
    assert command[:3] == [sys.executable, "-m", "safe_train"]
    settings = dict(word.split("=", 1) for word in command if "=" in word)
    assert settings.pop("evaluation.conditions") == json.dumps(CONDITIONS)
    limits = {"evaluation.max_vl": "300", "evaluation.max_text": "300"}
    assert settings == {"data.root": "data-300", "data.silence_prob": "0.1"} | limits
    assert command[command.index("--seed") + 1] == "7"
    assert command[command.index("--output-root") + 1] == str(root / "0.1" / "7")


def test_more_questions_are_asked_under_the_contradictory_condition_alone(root, monkeypatch):
    commands = []
    monkeypatch.setattr(subprocess, "run", lambda command, **_: commands.append(command))
    monkeypatch.setattr("experiments.non_inferiority.embedded_data_root", lambda sizes: f"data-{sizes.val_questions}")
    run_all("0.1", [1], 300, 1200, root)
    (command,) = commands
    assert command[3:5] == ["eval", str(root / "0.1" / "1" / "run")]
    options = dict(zip(command[5::2], command[6::2], strict=True))
    assert options == {"--data-root": "data-1200", "--max-vl": "1200", "--conditions": "contradictory"}


def test_of_several_evaluations_the_one_with_most_rows_counts(root):
    run = root / "0.1" / "1" / "run"
    result = json.loads((run / "metrics.json").read_text())["evaluation"]["vl"]["contradictory"]
    for rows, change in ((result["rows"] + 1, -0.001), (result["rows"] - 1, -0.002)):
        folder = run / "evaluation" / f"{rows}"
        folder.mkdir(parents=True)
        more = {"contradictory": result | {"rows": rows, "difference": result["difference"] | {"mean": change}}}
        (folder / "results.json").write_text(json.dumps({"evaluation": {"vl": more}}))
    (found,) = (figures(run) for run in read_all(root)["0.1"])
    assert (found["contradictory"]["rows"], found["contradictory"]["change"]) == (result["rows"] + 1, -0.1)
    assert found["silence"]["change"] == 0.0
