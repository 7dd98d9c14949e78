"""Runs report to the real TensorBoard, W&B (offline), trackio and MLflow (a folder), whose packages read it again."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.distributed.conftest import ends, start
from tests.tolerances import TRACKED
from tests.trackers.wandb_server import WandbServer

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
NAMES = ("tensorboard", "wandb", "trackio", "mlflow")
STOPPED_AFTER, KILLED_AFTER, STEPS = 2, 5, 6
KNOWN_TO_WANDB = {STOPPED_AFTER, KILLED_AFTER, STEPS}
SETTINGS = {
    "seed": 5, "log_every": 1, "checkpoint_every": 4,
    "tracking": {"trackers": NAMES, "project": "ears"},
    "optimization": {"max_steps": STEPS, "audio_batch_size": 4, "vl_batch_size": 4},
    "retention": {"fisher_samples": 8},
    "evaluation": {"max_vl": 20, "max_audio": 20, "max_text": 12, "eval_steps": 2},
}  # fmt: skip


def surroundings(packages, places):
    """Where the trackers keep what they record, without a network."""
    return os.environ | {
        "PYTHONPATH": f"{packages}{os.pathsep}{ROOT}", "WANDB_MODE": "offline", "TRACKIO_DIR": str(places / "trackio"),
        "MLFLOW_TRACKING_URI": f"file:{places / 'mlruns'}", "MLFLOW_ALLOW_FILE_STORE": "1", "NO_COLOR": "1",
    }  # fmt: skip


def python(*arguments, env):
    return subprocess.run(
        [sys.executable, *map(str, arguments)], env=env, cwd=ROOT, text=True, capture_output=True, timeout=280
    )


def read(name, folder, env):
    done = python(HERE / "read.py", name, folder, "ears", env=env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def resumed(packages, small_data, tmp_path_factory):
    """A run that was stopped, then killed one step after a checkpoint: its folder, and how it ended after all."""
    places = tmp_path_factory.mktemp("tracked")
    env = surroundings(packages, places)
    values = SETTINGS | {"data": {"root": str(small_data)}, "output_root": str(places / "runs")}
    (places / "config.json").write_text(json.dumps(values))
    stopped = python("-m", "tests.trackers.interrupted", places / "config.json", STOPPED_AFTER, env=env)
    assert stopped.returncode == 0, stopped.stderr
    (folder,) = (places / "runs").iterdir()
    assert read("mlflow", folder, env)["configuration"]["status"] == "KILLED"
    killed = python("-m", "tests.trackers.interrupted", folder, KILLED_AFTER, env=env)
    assert killed.returncode == -9, killed.stderr
    before = read("tensorboard", folder, env)["points"]["train/audio_loss"]
    assert [step for step, _ in before] == list(range(1, KILLED_AFTER + 1))  # the last is of a step that is lost
    done = python("-m", "safe_train", "--resume", folder, env=env)
    assert done.returncode == 0, done.stderr
    return folder, env, done


def written(folder):
    """The points of the run's own files, as trackers name them."""
    points = {}
    for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()):
        for name, value in line.items():
            if name != "step":
                points.setdefault(f"train/{name}", []).append([line["step"], value])
    evaluated = list(map(json.loads, (folder / "evaluations.jsonl").read_text().splitlines()))
    points["midway/vl/silence/kl"] = [[line["step"], line["vl"]["silence"]["kl"]] for line in evaluated]
    final = json.loads((folder / "metrics.json").read_text())["evaluation"]
    points["eval/vl/distractor/accuracy"] = [[STEPS, final["vl"]["distractor"]["accuracy"]["mean"]]]
    points["eval/audio/silence/gain"] = [[STEPS, final["audio_gain"]["silence"]["mean"]]]
    return points


@pytest.mark.parametrize("name", NAMES)
def test_what_is_recorded_is_what_the_run_has_written(resumed, name):
    folder, env, _ = resumed
    recorded = read(name, folder, env)
    assert recorded["runs"] == 1  # the resumed run continued the record
    expected = written(folder)
    assert len(expected["train/audio_loss"]) == STEPS
    for metric, points in expected.items():
        found = recorded["points"].get(metric, [])
        if name != "tensorboard":  # the others cannot take back what they were sent of a step that is lost
            assert [step for step, _ in found].count(KILLED_AFTER) <= 2
            if metric in ("train/seconds", "train/data_seconds"):  # measured from the start of each process
                found, points = ([p for p in some if p[0] != KILLED_AFTER] for some in (found, points))
            found = sorted(map(list, {tuple(point) for point in found}))  # of the same bits both times
        if name == "wandb":  # writes 32 KiB at once: what it had not written is lost by a kill
            assert metric.startswith("midway") or {step for step, _ in points} & KNOWN_TO_WANDB <= {s for s, _ in found}
            points = [point for point in points if point[0] in {step for step, _ in found}]
        assert [step for step, _ in found] == [step for step, _ in points], metric
        assert [value for _, value in found] == pytest.approx([value for _, value in points], **TRACKED[name]), metric
    assert str(recorded["configuration"]["optimization.max_steps"]) == str(STEPS)
    assert recorded["configuration"]["variant"] == "full_retention"
    assert recorded["configuration"].get("status", "FINISHED") == "FINISHED"


def test_what_they_print_is_told_beside_the_output(resumed):
    _, _, done = resumed
    assert "* Resumed existing run" in done.stderr  # trackio prints this
    table = (resumed[0] / "summary.txt").read_text()
    assert done.stdout.startswith(table)
    assert done.stdout.splitlines()[-1].startswith("run folder: ")  # also behind what they print when they end


def test_of_two_processes_one_reports(packages, small_data, tmp_path):
    env = surroundings(packages, tmp_path)
    options = (
        "--data-root", small_data, "--output-root", tmp_path / "runs", "--max-steps", 2, "--tracker", "tensorboard",
        "--set", "log_every=1", "--set", "evaluation.max_vl=8", "--set", "evaluation.max_audio=8",
        "--set", "evaluation.max_text=4", "--variant", "no_retention",
    )  # fmt: skip
    ended = ends(start(["-m", "safe_train", *options], **env))
    assert [process.code for process in ended] == [0, 0], ended
    (folder,) = (tmp_path / "runs").iterdir()
    assert len(list((folder / "tensorboard").glob("events.*"))) == 1
    assert [step for step, _ in read("tensorboard", folder, env)["points"]["train/audio_loss"]] == [1, 2]


def test_a_server_that_is_not_there_is_one_line(packages, small_data, tmp_path):
    env = surroundings(packages, tmp_path) | {
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    }
    options = ("--data-root", small_data, "--output-root", tmp_path / "runs", "--max-steps", 1, "--tracker", "mlflow")
    done = python("-m", "safe_train", *options, env=env)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert line.startswith("error: tracker mlflow: expected that it starts, got MlflowException")
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_trainer_reports_what_the_mechanisms_did(packages, tmp_path):
    env = surroundings(packages, tmp_path) | {"TENSORBOARD_LOGGING_DIR": str(tmp_path / "tensorboard")}
    done = python("-m", "tests.trackers.train", tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    logged = [line for line in json.loads((tmp_path / "log_history.json").read_text()) if "loss" in line]
    assert {"kl", "ewc", "null_space_removed"} <= logged[-1].keys()
    for name in ("tensorboard", "trackio"):
        points = read(name, tmp_path, env)["points"]
        for metric in ("loss", "kl", "ewc", "null_space_removed"):
            expected = [[line["step"], line[metric]] for line in logged if metric in line]
            found = points[f"train/{metric}"]
            if name == "tensorboard":  # the trainer gives trackio no steps
                assert [step for step, _ in found] == [step for step, _ in expected]
            assert [value for _, value in found] == pytest.approx([value for _, value in expected], **TRACKED[name])


@pytest.fixture
def server():
    server = WandbServer()
    yield server
    server.vanish()


def online(packages, places, server):
    key = {"WANDB_MODE": "online", "WANDB_BASE_URL": server.url, "WANDB_API_KEY": "0" * 40}
    return surroundings(packages, places) | key | {"WANDB_FINISH_TIMEOUT": "10"}


def only_wandb(places, data):
    """The settings of a short run that reports to W&B alone, as a file."""
    values = SETTINGS | {"data": {"root": str(data)}, "output_root": str(places / "runs")}
    values |= {"tracking": {"trackers": ["wandb"], "project": "ears"}, "variant": "no_retention"}
    (places / "config.json").write_text(json.dumps(values))
    return places / "config.json"


def test_a_wandb_server_gets_what_a_resumed_run_sends(packages, small_data, tmp_path, server):
    """Also the steps that it has had already: of a record that goes on, W&B counts further and takes no lower ones."""
    env, settings = online(packages, tmp_path, server), only_wandb(tmp_path, small_data)
    stopped = python("-m", "tests.trackers.interrupted", settings, STEPS, env=env)  # by then, within the evaluation
    assert stopped.returncode == 0, stopped.stderr
    assert server.exit_codes == [75]
    assert [row["step"] for row in server.rows() if "train/audio_loss" in row] == list(range(1, STEPS + 1))
    assert not any("eval/vl/silence/kl" in row for row in server.rows())
    (folder,) = (tmp_path / "runs").iterdir()
    done = python("-m", "safe_train", "--resume", folder, env=env)
    assert done.returncode == 0, done.stderr
    final = json.loads((folder / "metrics.json").read_text())["evaluation"]
    (row,) = [row for row in server.rows() if "eval/vl/silence/kl" in row]
    assert (row["step"], row["eval/vl/silence/kl"]) == (STEPS, final["vl"]["silence"]["kl"])
    assert server.exit_codes == [75, 0]


def test_a_wandb_server_that_vanishes_keeps_no_run_from_its_end(packages, small_data, tmp_path, server):
    env = online(packages, tmp_path, server)
    settings = ("--config", only_wandb(tmp_path, small_data), "--max-steps", 30)
    command = [sys.executable, "-m", "safe_train", *map(str, settings)]
    with subprocess.Popen(command, env=env, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        while not server.history and run.poll() is None:
            time.sleep(0.05)
        server.vanish()
        out, err = run.communicate(timeout=200)
    assert run.returncode == 0, err
    assert out.splitlines()[-1].startswith("run folder: ")
