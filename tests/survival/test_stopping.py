"""Asked to stop, a run does so after the step or batch that it is at, and loses nothing."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from safe_train.cli.errors import one_line_errors
from safe_train.config import build_config
from safe_train.errors import InputError, StoppedError
from safe_train.runs.checkpoint import latest_checkpoint, write_state
from safe_train.training.callbacks import RunCallbacks
from safe_train.training.run import evaluate_run, resume_run, start_run

ROOT = Path(__file__).parents[2]
SIGNALS = {signal.SIGINT: 130, signal.SIGHUP: 75}


class Asked:
    """Says stop at the k-th time that it is asked."""

    def __init__(self, k):
        self.left = k

    def __call__(self):
        self.left -= 1
        return self.left < 1


@pytest.fixture(scope="module")
def small(settings):
    return settings | {
        "variant": "no_retention", "optimization.max_steps": "2", "evaluation.max_vl": "12",
        "evaluation.max_text": "4", "evaluation.max_audio": "6", "evaluation.batch_size": "2",
        "evaluation.conditions": "[silence]",
    }  # fmt: skip


@pytest.fixture(scope="module")
def finished(small, tmp_path_factory):
    root = tmp_path_factory.mktemp("finished")
    return start_run(build_config({}, small | {"output_root": str(root)}), RunCallbacks()).folder


def evaluation_of(run):
    return json.loads((run / "metrics.json").read_text())["evaluation"] | {"seconds": 0}


@pytest.mark.parametrize("k", [1, 2, 5, 9])
def test_before_the_first_step_there_is_nothing_to_write(small, tmp_path, k):
    """Two batches of text and six of VL examples are answered by the base."""
    config = build_config({}, small | {"output_root": str(tmp_path)})
    with pytest.raises(StoppedError, match="stopped before the first step; nothing was written"):
        start_run(config, RunCallbacks(should_stop=Asked(k)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("model.audio_encoders", "[/no/such/encoder]", "/no/such/encoder"),
        ("model.audio_features", "[grid, grid]", "model.audio_features"),
        ("model.fusion_layers", "99", "model.fusion_layers"),
        ("model.fusion_heads", "7", "model.fusion_heads"),
        ("evaluation.max_audio", "1", "distractors"),
        ("evaluation.conditions", "[silense]", "silense"),
    ],
)
def test_what_is_not_there_is_told_before_the_base_answers(small, tmp_path, name, value, words):
    told = []
    config = build_config({}, small | {"output_root": str(tmp_path), name: value})
    with pytest.raises(InputError, match=words):
        start_run(config, RunCallbacks(stage=told.append))
    assert told == ["loading"]


@pytest.mark.parametrize("failing", [1, 2])
def test_a_disk_that_is_full_leaves_a_run_with_a_checkpoint_and_no_other(small, tmp_path, monkeypatch, failing):
    """Of two checkpoints the first or the second cannot be written."""
    written = []

    def full(folder, step, *arguments):
        if len(written) == failing - 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(step)
        write_state(folder, step, *arguments)

    monkeypatch.setattr("safe_train.runs.checkpoint.write_state", full)
    with pytest.raises(InputError, match="expected room for a checkpoint"):
        start_run(build_config({}, small | {"output_root": str(tmp_path), "checkpoint_every": "1"}), RunCallbacks())
    assert [latest_checkpoint(run).step for run in tmp_path.iterdir()] == [1][: failing - 1]


def test_stopped_at_any_batch_of_its_evaluation_a_run_goes_on_to_the_same_figures(small, tmp_path, finished):
    """A new process after every few batches, from the first step on."""
    run = start_run(
        build_config({}, small | {"output_root": str(tmp_path)}), RunCallbacks(should_stop=Asked(12))
    ).folder
    starts = 0
    while not (run / "metrics.json").exists():
        starts += 1
        asked = Asked(7)
        try:
            resume_run(run, RunCallbacks(should_stop=asked))
        except StoppedError as error:
            assert "the same command goes on" in str(error)  # noqa: PT017
        assert starts < 20
    assert starts > 2
    assert evaluation_of(run) == evaluation_of(finished)


def test_an_evaluation_that_is_stopped_keeps_its_answers(finished, tmp_path):
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    shutil.rmtree(run / "evaluation")
    stops = 0
    while True:
        try:
            evaluation = evaluate_run(run, {}, RunCallbacks(should_stop=Asked(9)))
            break
        except StoppedError:
            stops += 1
    assert stops > 1
    assert evaluation.to_dict() | {"seconds": 0} == evaluation_of(finished)


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [(KeyboardInterrupt(), 130, "error: interrupted"), (StoppedError("stopped"), 75, "stopped")],
    ids=["at once", "asked"],
)
def test_a_command_that_is_interrupted_says_so_by_its_exit_code(capsys, error, code, words):
    """Also in the middle of imports, before anything listens."""

    @one_line_errors
    def command():
        raise error

    with pytest.raises(SystemExit) as caught:
        command()
    assert caught.value.code == code
    assert capsys.readouterr().err.strip() == words


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.slow
def test_a_run_whose_reader_has_left_writes_its_checkpoint(small, tmp_path, number):
    """`safe-train 2>&1 | tee log`: Ctrl-C ends tee, too, and then there is nobody to read what the run says."""
    values = small | {"output_root": tmp_path, "optimization.max_steps": "5000", "log_every": "1"}
    words = [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
    read, write = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-m", "safe_train", *words], cwd=ROOT, stdout=write, stderr=write,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    ) as process:  # fmt: skip
        os.close(write)
        try:
            while not list(tmp_path.glob("*/metrics.jsonl")):
                assert process.poll() is None, os.read(read, 100_000)
                time.sleep(0.02)
            os.close(read)
            process.send_signal(number)
            assert process.wait(timeout=120) == SIGNALS[number]
        finally:
            process.kill()
    (run,) = tmp_path.iterdir()
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [path.name for path in (run / "checkpoints").iterdir()][-1:] == [f"step-{steps[-1]:07d}"]
