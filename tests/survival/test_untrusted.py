"""What comes from outside is data: nothing is unpickled, and no code from a model's folder is run."""

import io
import json
import pickle
import shutil
import sys

import pytest
import torch
from click.testing import CliRunner

from safe_train.cli import safe
from safe_train.embedded import weights
from safe_train.errors import InputError
from safe_train.model.audio.encoder import load_audio_encoder
from safe_train.model.loading import load_base

FOLDERS = {"base": weights.base_folder, "audio encoder": weights.audio_encoder_folder}
LOADERS = {"base": load_base, "audio encoder": load_audio_encoder}


class Witness:
    """Hears of every class or function that an unpickler looks up; Python has no way to stop listening."""

    def __init__(self):
        self.listens, self.heard = False, []
        sys.addaudithook(self._hear)

    def _hear(self, event, arguments):
        if self.listens and event == "pickle.find_class":
            self.heard.append(arguments)

    def __enter__(self):
        self.listens = True
        return self

    def __exit__(self, *_):
        self.listens = False


@pytest.fixture(scope="module")
def witness():
    return Witness()


def never(*_arguments, **_options):
    raise AssertionError("torch.load was called")


def test_training_resuming_evaluating_and_asking_unpickle_nothing(settings, tmp_path, witness, monkeypatch):
    changed = settings | {
        "output_root": tmp_path, "optimization.max_steps": 4, "evaluation.max_vl": 4, "evaluation.max_audio": 4,
        "evaluation.eval_steps": 2, "data.cache_root": tmp_path / "cache", "retention.teacher_cache": "true",
    }  # fmt: skip
    words = [word for key, value in changed.items() for word in ("--set", f"{key}={value}")]
    monkeypatch.setattr(torch, "load", never)

    def invoke(*arguments):
        result = CliRunner().invoke(safe, list(map(str, arguments)), catch_exceptions=False)
        assert result.exit_code == 0, result.output

    with witness:
        invoke("train", *words)
        (run,) = tmp_path.glob("*_full_retention")
        (run / "metrics.json").unlink()
        invoke("train", "--resume", run)
        invoke("eval", run, "--max-vl", 3, "--max-audio", 3)
        invoke("ask", run, "what do you hear?")
        invoke("report", run)
    assert witness.heard == []


def test_negative_control_unpickling_is_heard(witness):
    """torch.load has an unpickler of its own, which is why it is watched by name."""
    with witness:
        pickle.loads(pickle.dumps(Witness))
    assert witness.heard == [(Witness.__module__, "Witness")]
    witness.heard.clear()


class Trap:
    """Unpickled, it makes a folder."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        import os

        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("decoy", [False, True], ids=["alone", "beside other safetensors"])
@pytest.mark.parametrize("kind", FOLDERS)
def test_pickled_weights_are_not_read(tmp_path, kind, decoy):
    folder, sprung = tmp_path / "model", tmp_path / "sprung"
    shutil.copytree(FOLDERS[kind](), folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(sprung)))
    if decoy:
        original = next(FOLDERS[kind]().glob("*.safetensors"))
        shutil.copy(original, folder / "other.safetensors")
    with pytest.raises(InputError, match="safetensors") as caught:
        LOADERS[kind](str(folder))
    assert "\n" not in str(caught.value)
    assert not sprung.exists()
    pickle.loads((folder / "pytorch_model.bin").read_bytes())  # negative control: the trap is one
    assert sprung.is_dir()


CODE = """
from pathlib import Path
from transformers import {base}
Path({sprung!r}).touch()
class Evil({base}):
    model_type = {model_type!r}
"""


@pytest.mark.parametrize("known", [True, False], ids=["known type", "unknown type"])
@pytest.mark.parametrize("kind", FOLDERS)
def test_code_in_a_model_folder_is_not_run(tmp_path, monkeypatch, kind, known):
    """Not even if whoever sits at the terminal, or what is piped into the command, says yes."""
    folder, sprung = tmp_path / "model", tmp_path / "sprung"
    shutil.copytree(FOLDERS[kind](), folder)
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = config["model_type"] if known else "evil"
    names = ("AutoConfig", "AutoModel", "AutoModelForImageTextToText", "AutoProcessor", "AutoFeatureExtractor")
    config["auto_map"] = {name: "evil.Evil" for name in names}
    (folder / "config.json").write_text(json.dumps(config))
    for path in folder.glob("*processor_config.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": config["auto_map"]}))
    code = CODE.format(base="PretrainedConfig", sprung=str(sprung), model_type=config["model_type"])
    (folder / "evil.py").write_text(code)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 10))
    if known:
        LOADERS[kind](str(folder))  # by the class that transformers has for the type
    else:
        with pytest.raises(InputError) as caught:
            LOADERS[kind](str(folder))
        assert "\n" not in str(caught.value)
    assert not sprung.exists()
    exec(compile(code, "evil", "exec"), {})  # negative control: the code would have left a trace
    assert sprung.exists()
