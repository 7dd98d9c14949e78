"""Checksums, falling back to an older checkpoint, and a crash at any moment of writing one."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from safe_train.errors import InputError
from safe_train.runs.checkpoint import (
    MANIFEST,
    latest_checkpoint,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
    verify_files,
)

ROOT = Path(__file__).parents[2]
FILES = ["adapter.safetensors", "adapter_config.json", "optimizer.safetensors", "retention.safetensors", "state.json"]


def weights_of(stage):
    return {name: p.detach().clone() for name, p in stage.model.trainable_parameters().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def flip(path, at=-1):
    """Flips one bit; of the last byte, which in safetensors belongs to a number."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.fixture(scope="module")
def made(tmp_path_factory, configure, prepare):
    """A run that ended after step 6 of 8, with the checkpoints of steps 4 and 6, and its training."""
    run, stage = tmp_path_factory.mktemp("run"), prepare(configure())
    stage.train(run, should_stop=lambda: stage.step == 6)
    return run, stage


@pytest.fixture
def trained(made, tmp_path):
    """The same, in a folder that the test may change."""
    run, stage = made
    return Path(shutil.copytree(run, tmp_path / "run")), stage


def test_the_manifest_has_size_and_sha_256_of_every_file(trained):
    """As ``sha256sum`` gives it."""
    folder = latest_checkpoint(trained[0]).folder
    files = json.loads((folder / MANIFEST).read_text())["files"]
    assert sorted(files) == sorted(path.name for path in folder.iterdir() if path.name != MANIFEST) == FILES
    printed = subprocess.run(["sha256sum", *FILES], cwd=folder, capture_output=True, text=True, check=True).stdout
    assert {name: files[name]["sha256"] for name in FILES} == {
        line.split()[1]: line.split()[0] for line in printed.splitlines()
    }
    assert all(files[name]["bytes"] == (folder / name).stat().st_size for name in FILES)


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_damaged_file_is_one_warning_and_the_older_checkpoint_is_taken(trained, caplog, name, damage):
    run, _ = trained
    newest = list_checkpoints(run / "checkpoints")[-1].folder
    path = newest / name
    if damage == "flipped":
        flip(path, at=len(path.read_bytes()) // 2)
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        path.unlink()
    if (name, damage) == (MANIFEST, "cut"):  # of the line break at its end nothing depends
        path.write_bytes(path.read_bytes()[:-2])
    assert latest_checkpoint(run).step == 4
    (record,) = caplog.records
    message = record.getMessage()
    assert str(newest) in message
    assert "expected" in message
    assert "got" in message
    if damage == "flipped" and name != MANIFEST:
        assert message.startswith(f"{path}: expected {path.stat().st_size} bytes with SHA-256 ")


def test_negative_control_without_checksums_a_flipped_bit_is_loaded(trained, configure, prepare):
    run, stage = trained
    newest = list_checkpoints(run / "checkpoints")[-1]
    flip(newest.folder / "adapter.safetensors")
    other = prepare(configure())
    load_checkpoint(newest, other.model, other.optimizer, other.retention)  # the file is whole safetensors
    assert not same(weights_of(other), weights_of(stage))
    with pytest.raises(InputError, match="SHA-256"):
        verify_files(newest.folder)


def test_a_run_goes_on_from_the_older_checkpoint_to_the_same_bits(trained, tmp_path, configure, prepare):
    """The damaged one is set aside: it counts no more, neither as the newest nor as one of those that are kept."""
    run, _ = trained
    flip(run / "checkpoints" / "step-0000006" / "optimizer.safetensors")
    resumed = prepare(configure())
    resumed.resume(latest_checkpoint(run), run)
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"step-0000004", "set-aside-step-0000006"}
    assert [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3, 4]
    resumed.train(run)
    straight = prepare(configure())
    straight.train(tmp_path / "straight")
    assert same(weights_of(resumed), weights_of(straight))
    assert [found.step for found in list_checkpoints(run / "checkpoints")] == [6, 8]


def test_with_no_checkpoint_that_is_whole_there_is_one_line(trained):
    run, _ = trained
    for checkpoint in list_checkpoints(run / "checkpoints"):
        flip(checkpoint.folder / "adapter.safetensors")
    with pytest.raises(InputError, match="expected a checkpoint that is whole, got damaged ones alone") as caught:
        latest_checkpoint(run)
    assert "\n" not in str(caught.value)


def test_a_run_that_ended_before_its_first_checkpoint_is_to_be_started_again(tmp_path):
    with pytest.raises(InputError, match="start it again: it ended before its first checkpoint"):
        latest_checkpoint(tmp_path)


def test_a_checkpoint_under_another_step_s_name_is_refused(trained, configure, prepare):
    """Its files are whole, and would be taken for those of step 7."""
    run, _ = trained
    (run / "checkpoints" / "step-0000006").rename(run / "checkpoints" / "step-0000007")
    with pytest.raises(InputError, match="the state of step 6"):
        prepare(configure()).resume(latest_checkpoint(run), run)


@pytest.mark.parametrize(("keep", "steps"), [(1, [8]), (2, [6, 8]), (3, [4, 6, 8])])
def test_the_newest_checkpoints_are_kept(tmp_path, configure, prepare, keep, steps):
    prepare(configure(variant="no_retention", checkpoint_keep=keep)).train(tmp_path)
    assert [found.step for found in list_checkpoints(tmp_path / "checkpoints")] == steps


def test_what_a_crash_left_is_ignored_and_removed_with_the_next_checkpoint(trained):
    run, stage = trained
    root = run / "checkpoints"
    shutil.copytree(root / "step-0000006", root / ".step-0000009.partial")
    (root / ".step-0000009.partial" / "state.json").unlink()
    (root / "step-of-somebody").mkdir()
    assert [found.step for found in list_checkpoints(root)] == [4, 6]
    save_checkpoint(root, 7, stage.model, stage.optimizer, stage.retention)
    assert {path.name for path in root.iterdir()} == {"step-0000006", "step-0000007", "step-of-somebody"}


def test_a_replacement_that_was_cut_off_leaves_the_checkpoint_that_was_there(trained):
    run, _ = trained
    root = run / "checkpoints"
    (root / "step-0000006").rename(root / ".step-0000006.replaced")
    newest = latest_checkpoint(run)
    assert (newest.step, newest.folder.name) == (6, ".step-0000006.replaced")


def test_a_line_of_metrics_that_was_cut_off_is_written_again(trained, tmp_path, configure, prepare):
    run, _ = trained
    whole = (run / "metrics.jsonl").read_text()
    for cut in ('{"step": 7, "audio_l', '{"step": 7}'):
        (run / "metrics.jsonl").write_text(whole + cut)
        resumed = prepare(configure())
        resumed.resume(latest_checkpoint(run), run)
        assert (run / "metrics.jsonl").read_text() == whole


@pytest.fixture(scope="module")
def crashed(settings, tmp_path_factory):
    """For each case, what was found after a kill at each operation: step, whether it was whole, names afterwards."""
    folder = tmp_path_factory.mktemp("crash")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.survival.crash", folder, json.dumps(settings)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "found.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "steps", "left"),
    [
        ("first", [None, 4], ["step-0000004"]),
        ("next", [3, 4], ["step-0000003", "step-0000004"]),
        ("replaced", [3], ["step-0000003"]),
    ],
)
def test_a_kill_at_any_operation_leaves_a_whole_checkpoint(crashed, case, steps, left):
    """The older one before the rename, the newer one after it, and nothing of the crash after the next checkpoint."""
    moments = crashed[case]
    assert len(moments) > 20
    assert all(whole for _, whole, _ in moments)
    found = [step for step, _, _ in moments]
    assert [step for index, step in enumerate(found) if index == 0 or step != found[index - 1]] == steps
    assert all(names == left for _, _, names in moments)


def test_a_run_that_is_not_there_is_told(tmp_path):
    with pytest.raises(InputError, match="expected a run folder, got no such folder"):
        latest_checkpoint(tmp_path / "none")
