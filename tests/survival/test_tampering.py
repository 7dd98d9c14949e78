"""A run goes on with its own settings, its own checkpoints and tensors that training can have made, and alone."""

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from safe_train.cli import safe
from safe_train.config import StageAConfig, build_config, known_keys
from safe_train.errors import InputError
from safe_train.io.files import json_text
from safe_train.io.fingerprints import file_sha256
from safe_train.runs.checkpoint import MANIFEST, Checkpoint, latest_checkpoint, require_settings
from safe_train.runs.lock import locked

PLACE = {"output_root", "label"}
"""What a checkpoint does not hold: where the run lies. One of another place has the same bytes."""

FREE = {
    "variants_file", "device", "checkpoint_every", "checkpoint_keep", "log_every", "parallel.shard_base",
    "data.num_workers", "data.cache_root", "data.cache_gib", "data.val_split", "data.val_audio_source",
    "data.val_vl_source", "data.val_text_source", "model.gradient_checkpointing",
    "tracking.trackers", "tracking.project", "data.val_vl_split", "data.prefetch_factor",
}  # fmt: skip
"""What a run may go on with another of, beside the settings of its evaluation."""


@pytest.fixture(scope="module")
def made(tmp_path_factory, configure, prepare):
    """A run with a checkpoint of step 2."""
    run, config = tmp_path_factory.mktemp("run"), configure()
    stage = prepare(config)
    stage.train(run, should_stop=lambda: stage.step == 2)
    (run / "config.json").write_text(json_text(stage.described_configuration()))
    return run


@pytest.fixture
def run(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "run"))


def edited(values, key):
    """The settings with another value of one of them, whether it makes sense or not."""
    *sections, last = key.split(".")
    changed = json.loads(json.dumps(values))
    target = changed
    for section in sections:
        target = target[section]
    value = target[last]
    if isinstance(value, bool):
        target[last] = not value
    else:
        target[last] = value + 1 if isinstance(value, (int, float)) else "another"
    return changed


def test_a_checkpoint_does_not_say_where_its_run_lies(run):
    state = json.loads((latest_checkpoint(run).folder / "state.json").read_text())
    assert set(state["settings"]) == set(StageAConfig.model_fields) - PLACE


@pytest.mark.parametrize("key", sorted(set(known_keys()) - PLACE))
def test_an_edited_setting_is_refused_or_told(run, caplog, key):
    """Every one of them."""
    folder = latest_checkpoint(run)
    stored = json.loads((folder.folder / "state.json").read_text())["settings"]
    (folder.folder / "state.json").write_text(json.dumps({"step": 2, "gate": 1, "settings": edited(stored, key)}))
    now = StageAConfig.model_validate(stored)
    if key in FREE or key.startswith("evaluation."):
        require_settings(folder, now, "config.json")
        (record,) = caplog.records
        assert record.getMessage().startswith(f"config.json was edited: {key} ")
    else:
        with pytest.raises(InputError, match=rf"config.json: expected the settings of step-0000002, got {key} "):
            require_settings(folder, now, "config.json")


def test_the_same_settings_are_taken_in_silence(run, caplog, configure):
    require_settings(latest_checkpoint(run), configure(), "config.json")
    assert not caplog.records


def test_a_checkpoint_of_an_earlier_version_does_not_say_and_is_taken(run, configure):
    folder = latest_checkpoint(run).folder
    (folder / "state.json").write_text('{"step": 2, "gate": 1.0}')
    require_settings(Checkpoint(folder, 2), configure(variant="no_retention"), "config.json")


@pytest.mark.parametrize("command", ["train", "eval"])
@pytest.mark.parametrize(
    ("section", "key", "value"),
    [("model", "audio_level_db", -10.0), ("model", "fusion_heads", 2)],
)
def test_what_shapes_do_not_show_is_compared_too(run, command, section, key, value):
    """The tensors fit all the same."""
    path = run / "config.json"
    values = json.loads(path.read_text())
    assert values[section][key] != value
    values[section][key] = value
    path.write_text(json.dumps(values))
    words = ["train", "--resume", str(run)] if command == "train" else ["eval", str(run)]
    result = CliRunner().invoke(safe, words)
    assert result.exit_code == 2
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert key in line


def rewrite(folder, name, change):
    """Changes a file's tensors, and the manifest so that the checksum is right."""
    tensors = load_file(folder / name)
    change(tensors)
    save_file(tensors, folder / name)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][name] = {"bytes": (folder / name).stat().st_size, "sha256": file_sha256(folder / name)}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def first(tensors, kind):
    return next(name for name in sorted(tensors) if name.startswith(kind))


def put(tensors, kind, change):
    name = first(tensors, kind)
    tensors[name] = change(tensors[name]).contiguous()


FORGED = {
    "moments of another shape": ("optimizer", lambda t: put(t, "exp_avg/", lambda v: v[:1])),
    "moments of another type": ("optimizer", lambda t: put(t, "exp_avg/", lambda v: v.double())),
    "no moment": ("optimizer", lambda t: t.pop(first(t, "exp_avg_sq/"))),
    "no moments at all": ("optimizer", lambda t: t.clear()),
    "a parameter that is none": ("optimizer", lambda t: t.update({"exp_avg/x": torch.zeros(1)})),
    "a name without a kind": ("optimizer", lambda t: t.update({"x": torch.zeros(1)})),
    "NaN": ("optimizer", lambda t: put(t, "exp_avg/", lambda v: v * float("nan"))),
    "a negative square": ("optimizer", lambda t: put(t, "exp_avg_sq/", lambda v: v - 1)),
    "another step": ("optimizer", lambda t: put(t, "step/", lambda v: v + 5)),
    "no random numbers": ("retention", lambda t: t.pop("torch_rng")),
    "short random numbers": ("retention", lambda t: put(t, "torch_rng", lambda v: v[:10])),
    "random numbers of another type": ("retention", lambda t: put(t, "torch_rng", lambda v: v.float())),
    "infinite retention": ("retention", lambda t: put(t, "null space/energy", lambda v: v + float("inf"))),
    "no retention state": ("retention", lambda t: [t.pop(name) for name in list(t) if name != "torch_rng"]),
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_tensors_with_right_checksums_are_one_line(run, configure, prepare, name):
    kind, change = FORGED[name]
    checkpoint = latest_checkpoint(run)
    rewrite(checkpoint.folder, f"{kind}.safetensors", change)
    assert latest_checkpoint(run) == checkpoint
    with pytest.raises(InputError, match="expected a checkpoint of this configuration, got ") as caught:
        prepare(configure()).resume(checkpoint, run)
    assert "\n" not in str(caught.value)


HOLD = """
import sys
from pathlib import Path
from safe_train.runs.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("words", [["train", "--resume"], ["eval"]], ids=["resume", "eval"])
def test_a_run_that_another_process_works_on_is_left_alone(run, words):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, run / "config.json"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        result = CliRunner().invoke(safe, [*words, str(run)])
        other.communicate("")
    assert result.exit_code == 2
    assert f"error: {run}: expected a run that no other process works on, got one that another" in result.stderr
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    with locked(run / "config.json"):
        pass  # it ended with its process


def test_without_locks_a_run_goes_on_and_it_is_told(run, monkeypatch, caplog):
    def no_locks(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with locked(run / "config.json"):
        pass
    assert "No locks available" in caplog.text


def test_a_run_whose_folder_is_removed_ends_with_one_line_and_is_not_made_again(tmp_path, configure, prepare):
    stage, run = prepare(configure(variant="no_retention", log_every=8)), tmp_path / "run"
    with pytest.raises(
        InputError, match=r"expected room for a checkpoint, got .*No such file.*; .*start the run again"
    ):
        stage.train(run, on_step=lambda step, _metrics: shutil.rmtree(run) if step == 1 else None)
    assert not run.exists()


def test_a_command_whose_run_is_removed_ends_with_one_line(tmp_path, settings, monkeypatch):
    """Also before the first checkpoint, when what is left of a run is removed."""
    import safe_train.training.run as run_module

    describe = run_module.write_description

    def describe_and_remove(stage_a, rows, notes, folder):
        describe(stage_a, rows, notes, folder)
        shutil.rmtree(folder)

    monkeypatch.setattr(run_module, "write_description", describe_and_remove)
    words = [
        word for key, value in (settings | {"output_root": tmp_path}).items() for word in ("--set", f"{key}={value}")
    ]
    result = CliRunner().invoke(safe, ["train", *words], catch_exceptions=False)
    assert result.exit_code == 2
    assert "config.json: expected the configuration of a run" in result.stderr


def test_a_disk_that_is_full_before_the_first_checkpoint_tells_to_start_again(
    tmp_path, configure, prepare, monkeypatch
):
    """A run without a checkpoint cannot be resumed."""

    def full(*_):
        raise OSError(28, "No space left on device")

    stage = prepare(configure(variant="no_retention", checkpoint_every=2))
    monkeypatch.setattr("safe_train.runs.checkpoint.save_tensors", full)
    with pytest.raises(InputError, match="make room, then start the run again"):
        stage.train(tmp_path)
    monkeypatch.undo()
    stage.train(tmp_path, should_stop=lambda: stage.step == 4)
    monkeypatch.setattr("safe_train.runs.checkpoint.save_tensors", full)
    with pytest.raises(InputError, match=f"make room, then resume with: safe-train --resume {tmp_path}"):
        stage.train(tmp_path)


@pytest.mark.parametrize("place", ["link", "link/deeper"])
def test_an_output_root_that_leads_nowhere_is_one_line(tmp_path, settings, place):
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    result = CliRunner().invoke(safe, ["train", *words, "--output-root", str(tmp_path / place)])
    assert result.exit_code == 2
    assert f"{tmp_path / 'link'}: expected a folder that can be written, got a link to" in result.stderr


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077, 0o027])
def test_every_file_has_the_permissions_that_the_umask_gives(tmp_path, configure, prepare, umask):
    stage = prepare(configure(variant="no_retention"))
    previous = os.umask(umask)
    try:
        stage.train(tmp_path / "run", should_stop=lambda: stage.step == 2)
    finally:
        os.umask(previous)
    for path in (tmp_path / "run").rglob("*"):
        expected = (0o777 if path.is_dir() else 0o666) & ~umask
        assert stat.S_IMODE(path.stat().st_mode) == expected, path


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan", "1e300", "1" + "0" * 400])
@pytest.mark.parametrize("key", ["data.cache_gib", "optimization.lr_adapter", "retention.temperature"])
def test_a_number_that_is_none_is_refused(key, value):
    if (key, value) in {("optimization.lr_adapter", "1e300"), ("retention.temperature", "1e300")}:
        return  # large, and a number
    with pytest.raises(InputError, match=key):
        build_config({}, {key: value})


def test_a_seed_that_no_generator_takes_is_refused():
    assert build_config({}, {"seed": str(2**63 - 1)}).seed == 2**63 - 1
    with pytest.raises(InputError, match="seed"):
        build_config({}, {"seed": str(2**63)})
