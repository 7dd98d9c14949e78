"""Settings that have had another name or other values: both are read, wherever a setting is given."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from safe_train.config import (
    StageAConfig,
    build_config,
    current_name,
    current_settings,
    known_keys,
    read_config_file,
)
from safe_train.data.settings import DataSettings
from safe_train.errors import InputError
from safe_train.retention.settings import RetentionSettings
from safe_train.runs.checkpoint import MANIFEST, Checkpoint, require_settings
from safe_train.runs.layout import RunFolder, read_config
from safe_train.training.callbacks import RunCallbacks
from safe_train.training.run import resume_run, start_run

# The names of version 0.1.0 and what they are called now, with a value that is not the default.
EARLIER = [
    ("data.image_share", "data.image_prob", 0.125),
    ("data.loud_share", "data.loud_prob", 0.125),
    ("data.noise_share", "data.noise_prob", 0.125),
    ("data.silence_share", "data.silence_prob", 0.125),
    ("data.text_share", "data.text_ratio", 0.125),
    ("evaluation.every", "evaluation.eval_steps", 3),
    ("optimization.beta1", "optimization.adam_beta1", 0.125),
    ("optimization.beta2", "optimization.adam_beta2", 0.125),
    ("optimization.clip_norm", "optimization.max_grad_norm", 0.125),
    ("optimization.gate_warmup_share", "optimization.gate_warmup_ratio", 0.125),
    ("optimization.warmup_share", "optimization.warmup_ratio", 0.125),
    ("retention.fisher_at", "retention.fisher_start_ratio", 0.125),
    ("retention.null_space_projects", "retention.null_space_target", "update"),
]


def value_of(config: StageAConfig, dotted: str):
    section, key = dotted.split(".")
    return getattr(getattr(config, section), key)


@pytest.mark.parametrize(("earlier", "name", "value"), EARLIER)
def test_an_earlier_name_is_read_wherever_a_setting_is_given(earlier, name, value, tmp_path):
    section, key = earlier.split(".")
    path = tmp_path / "settings.yaml"
    path.write_text(f"{section}:\n  {key}: {value}\n")
    for config in (
        build_config({section: {key: value}}, {}),
        build_config({}, {earlier: str(value)}),
        build_config({}, {}, options={earlier: value}),
        build_config(read_config_file(path), {}),
    ):
        assert value_of(config, name) == value
        assert value_of(StageAConfig(), name) != value  # negative control
    assert current_name(earlier) == current_name(name) == name
    assert earlier not in known_keys()
    assert name in known_keys()


def test_every_earlier_name_is_in_the_list():
    sections = {
        name: field.annotation
        for name, field in StageAConfig.model_fields.items()
        if hasattr(field.annotation, "earlier_names")
    }
    found = {(f"{s}.{old}", f"{s}.{new}") for s, kind in sections.items() for old, new in kind.earlier_names.items()}
    assert found == {(earlier, name) for earlier, name, _ in EARLIER}
    assert all(name in known_keys() for _, name in found)


@pytest.mark.parametrize(("earlier", "value"), [("audio_gradient", "task_gradient"), ("audio_update", "task_update")])
def test_an_earlier_value_is_read(earlier, value):
    for given in ({"null_space_projects": earlier}, {"null_space_target": earlier}, {"null_space_target": value}):
        assert RetentionSettings(**given).null_space_target == value


def test_the_command_line_wins_over_the_file_by_either_name():
    assert build_config({"data": {"silence_share": 0.5}}, {"data.silence_prob": "0.25"}).data.silence_prob == 0.25
    assert build_config({"data": {"silence_prob": 0.5}}, {"data.silence_share": "0.25"}).data.silence_prob == 0.25


def test_both_names_at_once_are_refused():
    values = {"optimization": {"warmup_share": 0.5, "warmup_ratio": 0.25}}
    with pytest.raises(InputError, match="one of warmup_ratio and its earlier name warmup_share"):
        build_config(values, {})
    with pytest.raises(ValueError, match="one of silence_prob and its earlier name silence_share"):
        DataSettings(silence_share=0.5, silence_prob=0.5)


def test_an_older_runs_configuration_is_read(tmp_path):
    described = StageAConfig().model_dump(mode="json")
    for earlier, name, value in EARLIER:
        section, key = earlier.split(".")
        del described[section][name.split(".")[1]]
        described[section][key] = value
    RunFolder(tmp_path).config.write_text(json.dumps(described | {"effective": {}}))
    config = read_config(tmp_path)
    assert [value_of(config, name) for _, name, _ in EARLIER] == [value for *_, value in EARLIER]
    assert current_settings(described) == config.model_dump(mode="json")


def in_earlier_names(settings: dict) -> dict:
    """The settings of a configuration as version 0.1.0 wrote them."""
    earlier = json.loads(json.dumps(settings))
    for old, name, _ in EARLIER:
        section, key = old.split(".")
        earlier[section][key] = earlier[section].pop(name.split(".")[1])
    target = earlier["retention"]["null_space_projects"]
    earlier["retention"]["null_space_projects"] = target.replace("task_", "audio_")
    return earlier


def rewrite(path: Path, change) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def test_a_run_of_earlier_names_is_resumed_to_the_same_bits(small_data, tmp_path):
    settings = {
        "data.root": small_data, "output_root": tmp_path, "optimization.max_steps": 4, "checkpoint_every": 2,
        "optimization.audio_batch_size": 4, "optimization.vl_batch_size": 4, "checkpoint_keep": 9,
        "retention.fisher_samples": 4, "evaluation.max_vl": 2, "evaluation.max_audio": 2, "evaluation.max_text": 4,
        "evaluation.conditions": "[silence]",
    }  # fmt: skip
    run = start_run(build_config({}, {key: str(value) for key, value in settings.items()}), RunCallbacks()).folder
    older = tmp_path / "older"
    shutil.copytree(run, older)
    shutil.rmtree(older / "checkpoints" / "step-0000004")
    rewrite(older / "config.json", in_earlier_names)
    state = older / "checkpoints" / "step-0000002" / "state.json"
    rewrite(state, lambda stored: stored | {"settings": in_earlier_names(stored["settings"])})
    size, digest = state.stat().st_size, hashlib.sha256(state.read_bytes()).hexdigest()
    manifest = state.with_name(MANIFEST)
    rewrite(manifest, lambda m: {"files": m["files"] | {"state.json": {"bytes": size, "sha256": digest}}})
    assert "warmup_share" in (older / "config.json").read_text()
    resume_run(older, RunCallbacks())
    for name in ("adapter.safetensors", "optimizer.safetensors", "retention.safetensors"):
        one, other = (folder / "checkpoints" / "step-0000004" / name for folder in (run, older))
        assert one.read_bytes() == other.read_bytes()

    def changed(stored):
        stored["settings"]["optimization"]["warmup_share"] = 0.5
        return stored

    rewrite(state, changed)  # negative control: the value under the earlier name is compared
    with pytest.raises(InputError, match=r"optimization.warmup_ratio 0.05 in place of 0.5"):
        require_settings(Checkpoint(state.parent, 2), read_config(run), run)
