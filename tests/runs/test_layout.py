"""The files of a run: that the package writes those that it names, and what it names stays as it is."""

from pathlib import Path

from safe_train.runs.layout import RunFolder

FILES = {
    "config": "config.json", "subsets": "subset_indices.json", "metrics_log": "metrics.jsonl",
    "evaluation_log": "evaluations.jsonl", "checkpoints": "checkpoints", "evaluations": "evaluation",
    "metrics": "metrics.json", "summary": "summary.txt", "picture": "audio_gain_vs_vl_change.png",
}  # fmt: skip
"""The documented layout (docs/start.md): scripts of users and older runs rely on these names."""


def test_names_are_those_of_the_documented_layout():
    run = RunFolder(Path("runs/one"))
    assert {name: str(getattr(run, name)) for name in FILES} == {
        name: f"runs/one/{file}" for name, file in FILES.items()
    }
    assert str(run.failed_step(12)) == "runs/one/non_finite/step-0000012"


def test_no_other_module_spells_them():
    """But for files of the same name in other folders: a model's ``config.json``."""
    package = Path(__file__).parents[2] / "safe_train"
    own = {"subset_indices.json", "metrics.jsonl", "evaluations.jsonl", "metrics.json", "summary.txt"}
    found = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        for name in own
        if f'"{name}"' in path.read_text(encoding="utf-8")
    }
    assert found == {"runs/layout.py"}
