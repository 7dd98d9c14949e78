"""A loss that is not finite: the run stops, its last checkpoint stays, and the step can be seen again."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from safe_train.cli import safe
from safe_train.errors import InputError, NonFiniteLossError
from safe_train.io.files import json_text, write_text
from safe_train.runs.checkpoint import MANIFEST, latest_checkpoint, verify_files, write_state
from safe_train.runs.layout import RunFolder
from safe_train.training.failed_step import dump_failed_step
from safe_train.training.rerun_step import rerun_step


def invoke(*arguments):
    return CliRunner().invoke(safe, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def exploded(settings, tmp_path_factory):
    """A run whose learning rate is absurd, and how it ended."""
    root = tmp_path_factory.mktemp("runs")
    changed = settings | {
        "output_root": root, "checkpoint_every": 1, "optimization.lr_adapter": 1e30, "optimization.lr_projector": 1e30,
        "evaluation.max_vl": 4, "evaluation.max_audio": 4, "variant": "soft_retention",
    }  # fmt: skip
    result = invoke("train", *(word for key, value in changed.items() for word in ("--set", f"{key}={value}")))
    (run,) = root.iterdir()
    return run, result


@pytest.fixture
def kept(exploded, tmp_path):
    """The kept step, in a run folder that the test may change."""
    run = Path(shutil.copytree(exploded[0], tmp_path / "run"))
    (folder,) = (run / "non_finite").iterdir()
    return folder


def test_the_run_ends_with_one_line_that_says_how_to_see_it_again(exploded):
    run, result = exploded
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("error: "))
    assert result.exit_code == 1
    assert re.match(r"error: step \d+: expected finite values, got audio_loss (nan|inf)", line), line
    assert line.endswith(f"see it again with: safe rerun-step {next((run / 'non_finite').iterdir())}")


def test_the_last_checkpoint_is_whole_and_finite(exploded):
    run, _ = exploded
    checkpoint = latest_checkpoint(run)
    weights = load_file(checkpoint.folder / "adapter.safetensors")
    assert all(weight.isfinite().all() for weight in weights.values())
    assert not (run / "metrics.json").exists()


def test_the_step_is_kept_whole(kept, exploded, settings):
    verify_files(kept)
    names = {path.name for path in kept.iterdir()}
    assert {"audio-0.safetensors", "vl-0.safetensors", "rows.json", "found.json"} < names
    rows = json.loads((kept / "rows.json").read_text())
    assert [len(batch) for kind in ("audio", "vl") for batch in rows[kind]] == [4, 4]
    audio = load_file(kept / "audio-0.safetensors")
    assert audio["inputs/input_ids"].shape[0] == 4
    assert {"labels", "features/0/values", "features/0/mask"} <= set(audio)
    step = int(kept.name.removeprefix("step-"))
    assert latest_checkpoint(exploded[0]).step == step - 1
    assert all(Path(row["audio"]).is_file() for row in rows["audio"][0])


def test_replay_meets_it_again_without_the_data(kept):
    """Also when the data folder is gone: its place in the configuration leads nowhere."""
    config = json.loads((kept.parents[1] / "config.json").read_text())
    config["data"]["root"] = str(kept / "nowhere")
    (kept.parents[1] / "config.json").write_text(json.dumps(config))
    result = invoke("rerun-step", kept)
    assert result.exit_code == 0
    assert re.match(rf"step {int(kept.name[5:])}: audio_loss (nan|inf), ", result.stdout)


@pytest.mark.parametrize("buckets", [False, True])
def test_a_rerun_gives_the_values_of_the_step_itself(tmp_path, configure, prepare, buckets):
    """One that is finite, dumped all the same: losses and gradient norm are those of the step, to the last bit."""
    config = configure(optimization__gradient_accumulation_steps=2, model__lora_rank=2, data__length_buckets=buckets)
    stage = prepare(config)
    write_text(RunFolder(tmp_path).config, json_text(stage.described_configuration()))
    for _ in range(4):  # no mechanism calibrates before the fifth, so what is kept here is its state
        stage.train_step()
    dump_failed_step(stage, RunFolder(tmp_path))
    expected = stage.train_step()
    found = rerun_step(tmp_path / "non_finite" / "step-0000005")
    assert found.is_finite
    assert found.step == 5
    assert found.losses == {name: expected[name] for name in ("audio_loss", "retention_loss", "gradient_norm")}
    dumped = list((tmp_path / "non_finite" / "step-0000005").glob("*-[0-9]*.safetensors"))
    assert (len(dumped) > 4) == buckets


def test_negative_control_with_finite_weights_the_step_is_finite(kept, configure, prepare):
    """So what is met again comes from the state that was kept."""
    stage = prepare(configure(variant="soft_retention"))
    step = int(kept.name.removeprefix("step-"))
    for path in kept.glob("*.json"):
        if path.name in ("adapter_config.json", "state.json", MANIFEST):
            path.unlink()
    write_state(kept, step - 1, stage.model, stage.optimizer, stage.retention)
    result = invoke("rerun-step", kept)
    assert result.exit_code == 1
    assert "finite this time" in result.stderr


def test_a_kept_step_that_was_damaged_is_refused(kept):
    tensors = load_file(kept / "adapter.safetensors")
    save_file({name: torch.zeros_like(tensor) for name, tensor in tensors.items()}, kept / "adapter.safetensors")
    result = invoke("replay", kept)
    assert result.exit_code == 2
    assert "SHA-256" in result.stderr
    with pytest.raises(InputError, match="the dump of a failed step"):
        rerun_step(kept.parent)


@pytest.mark.parametrize(("variant", "due"), [("fisher_retention", 3), ("nullspace_retention", 4)])
def test_a_calibration_that_meets_what_is_not_finite_is_told_the_same_way(tmp_path, configure, prepare, variant, due):
    config = configure(variant=variant, checkpoint_every=8)
    stage = prepare(config)
    write_text(RunFolder(tmp_path).config, json_text(stage.described_configuration()))

    def spoil(step, _metrics):
        if step == due - 1:
            with torch.no_grad():
                stage.model.fusions[0].output.weight[0, 0] = float("nan")

    with pytest.raises(NonFiniteLossError, match=rf"step {due}, calibration: .*expected .*finite.*; see it again"):
        stage.train(tmp_path, on_step=spoil)
    found = rerun_step(tmp_path / "non_finite" / f"step-{due:07d}")
    assert not found.is_finite
    assert found.weights == ["fusions.0.output.weight"]


def test_weights_that_are_not_finite_are_never_written_over_a_good_checkpoint(tmp_path, configure, prepare):
    stage = prepare(configure(variant="no_retention", checkpoint_every=1, checkpoint_keep=1))

    def spoil():
        """Asked after each step and before its checkpoint."""
        if stage.step == 2:
            with torch.no_grad():
                next(iter(stage.model.trainable_parameters().values()))[0, 0] = float("inf")
        return False

    with pytest.raises(NonFiniteLossError, match="after step 2: expected finite weights, got 1 tensors with others"):
        stage.train(tmp_path, should_stop=spoil)
    assert latest_checkpoint(tmp_path).step == 1
