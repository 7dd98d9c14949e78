"""The bypass of trained runs is compared on every validation example; on the embedded model here."""

import json
import sys

import pytest

from experiments.real import bypass
from safe_train.config import build_config
from safe_train.embedded.dataset import DatasetSizes, write_dataset
from safe_train.errors import InputError
from safe_train.model.safe_model import SafeModel
from safe_train.training.build import build_collator
from safe_train.training.callbacks import RunCallbacks
from safe_train.training.run import start_run

SIZES = DatasetSizes(
    train_questions=20, val_questions=30, train_clips=8, val_clips=6,
    train_text=10, val_text=12, train_documents=4, val_documents=5,
)  # fmt: skip
SHORT = {
    "variant": "no_retention", "optimization.max_steps": "2", "optimization.audio_batch_size": "4",
    "optimization.gate_warmup_ratio": "0", "optimization.lr_adapter": "0.5", "evaluation.max_vl": "3",
    "evaluation.max_text": "17", "evaluation.max_audio": "2", "evaluation.conditions": "[]",
}  # fmt: skip
EXAMPLES = {
    "VL, without audio": 30, "text-only questions, without audio": 12, "documents, without audio": 5,
    "text-only questions, gate shut": 12, "documents, gate shut": 5, "audio, gate shut": 6,
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("bypass")
    write_dataset(root / "data", SIZES)
    settings = SHORT | {"data.root": str(root / "data"), "output_root": str(root / "runs")}
    return [start_run(build_config({}, settings | {"seed": seed}), RunCallbacks()).folder for seed in ("1", "2")]


def test_every_example_of_the_validation_sets_is_compared_in_both_routes(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bypass", *map(str, runs), "--json", str(tmp_path / "found.json")])
    bypass.main()
    found = json.loads((tmp_path / "found.json").read_text())["runs"]
    assert [(one["examples"], one["equal"]) for one in found] == [(EXAMPLES, EXAMPLES)] * 2
    assert "no_retention 1: bit-equal: VL, without audio 30 of 30" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("gate", "route"), [(1e-3, "gate shut"), (None, "without audio")], ids=["a gate ajar", "audio that stays attached"]
)
def test_what_is_no_bypass_is_told(gate, route, runs, monkeypatch, capsys):
    own = SafeModel.last_hidden_state

    def leaky(model, inputs, features, prefix=None):
        if gate is not None and features is not None:
            model.gate = gate
        if gate is None and features is None:
            return own(model, inputs, silent(model, inputs), prefix)
        return own(model, inputs, features, prefix)

    def silent(model, inputs):
        return build_collator(model).features.get([None] * len(inputs["input_ids"]))

    monkeypatch.setattr(SafeModel, "last_hidden_state", leaky)
    monkeypatch.setattr(sys, "argv", ["bypass", str(runs[0])])
    with pytest.raises(SystemExit) as leaving:
        bypass.main()
    assert leaving.value.code == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("no_retention 1: DIFFERS")
    assert f"{route} 0 of " in line


def test_a_run_on_another_base_is_refused(runs, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    described = json.loads((runs[0] / "config.json").read_text())
    described["precision"] = "bf16"
    (other / "config.json").write_text(json.dumps(described))
    with pytest.raises(InputError, match="data and precision of the first run"):
        list(bypass.compare_all([runs[0], other]))
