"""A full disk, a folder that cannot be written, a file that vanishes: one line, and a run that can go on."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from safe_train.cli import safe
from safe_train.errors import InputError
from safe_train.runs.checkpoint import latest_checkpoint

FULL = Path("/dev/full")  # takes nothing: every write fails as on a full disk
needs_full = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")


def weights_of(stage):
    return {name: p.detach().clone() for name, p in stage.model.trainable_parameters().items()}


@pytest.fixture(scope="module")
def straight(configure, prepare, tmp_path_factory):
    """Weights of an uninterrupted run."""
    stage = prepare(configure())
    stage.train(tmp_path_factory.mktemp("straight"))
    return weights_of(stage)


def fill_metrics(run):
    (run / "metrics.jsonl").rename(run / "kept.jsonl")
    (run / "metrics.jsonl").symlink_to(FULL)


def mend_metrics(run):
    (run / "metrics.jsonl").unlink()
    (run / "kept.jsonl").rename(run / "metrics.jsonl")


def break_checkpoints(run):
    (run / "checkpoints").rename(run / "kept")
    (run / "checkpoints").write_text("a file")


def mend_checkpoints(run):
    (run / "checkpoints").unlink()
    (run / "kept").rename(run / "checkpoints")


@pytest.mark.parametrize(
    ("spoil", "mend", "place", "words"),
    [
        pytest.param(
            fill_metrics, mend_metrics, "metrics.jsonl", "a file that can be written, got No space", marks=needs_full
        ),
        (break_checkpoints, mend_checkpoints, "checkpoints", "room for a checkpoint, got"),
    ],
    ids=["full disk", "no folder"],
)
def test_what_cannot_be_written_ends_the_run_with_one_line_and_it_can_go_on(
    tmp_path, configure, prepare, straight, spoil, mend, place, words
):
    stage = prepare(configure())
    with pytest.raises(InputError) as caught:
        stage.train(tmp_path, on_step=lambda step, _metrics: spoil(tmp_path) if step == 5 else None)
    assert str(caught.value).startswith(f"{tmp_path / place}: expected {words}")
    assert "\n" not in str(caught.value)
    mend(tmp_path)
    checkpoint = latest_checkpoint(tmp_path)
    assert checkpoint.step == 4
    resumed = prepare(configure())
    resumed.resume(checkpoint, tmp_path)
    resumed.train(tmp_path)
    assert all(torch.equal(value, straight[name]) for name, value in weights_of(resumed).items())


@needs_full
def test_a_disk_that_is_full_when_answers_are_written(tmp_path, settings):
    """The run goes on after room was made, and its evaluation with it."""
    changed = settings | {
        "output_root": tmp_path, "variant": "no_retention", "optimization.max_steps": 2,
        "evaluation.max_vl": 8, "evaluation.max_audio": 8, "evaluation.batch_size": 4,
    }  # fmt: skip
    words = [word for key, value in changed.items() for word in ("--set", f"{key}={value}")]
    assert CliRunner().invoke(safe, ["train", *words]).exit_code == 0
    (run,) = tmp_path.iterdir()
    expected = json.loads((run / "metrics.json").read_text())["evaluation"]
    (answers,) = run.glob("evaluation/*/vl.distractor.jsonl")
    answers.unlink()
    answers.symlink_to(FULL)
    (run / "metrics.json").unlink()
    result = CliRunner().invoke(safe, ["train", "--resume", str(run)])
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("error: "))
    assert result.exit_code == 2
    assert line.startswith(f"error: {answers}: expected a file that can be written, got ")
    answers.unlink()
    assert CliRunner().invoke(safe, ["train", "--resume", str(run)]).exit_code == 0
    found = json.loads((run / "metrics.json").read_text())["evaluation"]
    assert found | {"seconds": 0} == expected | {"seconds": 0}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_file_that_vanishes_in_the_middle_is_named(tmp_path, small_data, configure, prepare, num_workers):
    """Whichever thread reads it: an error in a worker is the run's, and nothing waits for it."""
    data = Path(shutil.copytree(small_data, tmp_path / "data"))
    config = configure(data__root=data, data__num_workers=num_workers, data__image_prob=1.0)
    stage = prepare(config)
    run = tmp_path / "run"

    def vanish(step, _metrics):
        if step == 5:
            for image in (data / "vqa" / "train2014").glob("*.png"):
                image.unlink()

    with pytest.raises(InputError, match=r"\.png: expected an image, got no such file; ") as caught:
        stage.train(run, on_step=vanish)
    assert "\n" not in str(caught.value)
    assert latest_checkpoint(run).step == 4
