"""Variants of a file and of installed packages: how they are found, refused, trained with, resumed and shown."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import fields, replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from safe_train import variants
from safe_train.cli import safe
from safe_train.config import build_config
from safe_train.configs.retention_variants import RETENTION_VARIANTS, RetentionVariantConfig
from safe_train.errors import InputError
from safe_train.huggingface import Retention
from safe_train.variants import find_variant, known_variants

FIELDS = {
    "description": "Distillation with five times the weight, and null-space updates.",
    "retention_loss_weight": 1.0, "distillation_weight": 1.0, "fisher_weight": 0.0, "enable_null_space": True,
}  # fmt: skip
STRONG = RetentionVariantConfig(name="own_retention", **FIELDS)
"""README's variant by another name: README's own may have been added to the registry."""
FILE = """\
own_retention:
  description: Distillation with five times the weight, and null-space updates.
  retention_loss_weight: 1
  distillation_weight: 1e0  # text in YAML, whose floats need a dot
  fisher_weight: 0.0
  enable_null_space: true
"""


def invoke(*arguments):
    return CliRunner().invoke(safe, [str(argument) for argument in arguments], catch_exceptions=False)


def refused(*arguments):
    """The one line with which bad input is refused."""
    result = invoke(*arguments)
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("error: "))
    assert result.exit_code == 2
    return line


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "variants.yaml"
    path.write_text(FILE)
    return path


# --- a file


def test_a_variant_of_a_file_is_what_its_fields_say(file):
    assert find_variant("own_retention", file) == STRONG
    assert known_variants(file) == {**RETENTION_VARIANTS, "own_retention": STRONG}
    assert build_config({"variants_file": str(file)}, {"variant": "own_retention"}).retention_variant() == STRONG


def test_json_is_yaml_too(tmp_path):
    (tmp_path / "v.json").write_text(json.dumps({"own_retention": FIELDS}))
    assert find_variant("own_retention", tmp_path / "v.json") == STRONG


def test_without_the_file_there_is_no_such_variant(file):
    with pytest.raises(InputError, match=r"variant: expected one of .*no_retention, .*, got 'own_retention'"):
        find_variant("own_retention")
    with pytest.raises(InputError, match="did you mean 'own_retention'"):
        find_variant("own_retentoin", file)


def described(**changes):
    return json.dumps({"mine": {key: value for key, value in (FIELDS | changes).items() if value is not None}})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "a readable YAML or JSON file"),
        ("[]", "expected a mapping of retention variants, got list"),
        (json.dumps({"full_retention": FIELDS}), "expected a new name, got that of a registered variant"),
        ("a/b: {}", "a name of letters, digits"),
        ("3: {}", "a name of letters, digits"),
        ("mine: 3", "mine: expected the fields"),
        (described(fisher=1), "mine: fisher: expected a field of a retention variant, got no such field; did you"),
        (described(name="other"), "mine: name: expected a field"),
        (described(description=None), "mine: description: expected this field, got none"),
        (described(fisher_weight="much"), "mine: fisher_weight: expected a valid number"),
        (described(fisher_weight=-1), "fisher_weight must be finite and at least 0, got -1"),
        (described(null_space_rank=0), "null_space_rank must be at least 1, got 0"),
        (described(null_space_rank=1.5), "mine: null_space_rank: expected a valid integer"),
    ],
)  # fmt: skip
def test_what_a_file_may_not_say_is_one_line(tmp_path, text, message):
    (tmp_path / "v.yaml").write_text(text)
    line = refused("train", "--variant", "mine", "--variants-file", tmp_path / "v.yaml")
    assert str(tmp_path / "v.yaml") in line
    assert message in line


def test_a_file_that_is_not_there_is_refused(tmp_path):
    assert "expected a readable YAML" in refused("train", "--variants-file", tmp_path / "no.yaml")
    assert "expected a readable YAML" in refused("variants", "--variants-file", tmp_path / "no.yaml")


def test_they_are_listed(file):
    listed = invoke("variants", "--variants-file", file).stdout
    assert f"own_retention\n  {STRONG.description}\n  mechanisms: KL (1), null space (rank 8" in listed
    assert all(f"{name}\n" in listed for name in RETENTION_VARIANTS)


def test_the_documented_file_and_package_are_this_variant(tmp_path):
    page = (Path(__file__).parents[1] / "docs" / "how-to" / "add_a_variant.md").read_text()
    page = page.replace("strong_retention", STRONG.name)  # which may stand in the registry, as README shows
    blocks = dict(reversed(re.findall(r"^```(yaml|toml|python)\n(.*?)^```", page, re.DOTALL | re.MULTILINE)))
    (tmp_path / "variants.yaml").write_text(blocks["yaml"])
    assert find_variant("own_retention", tmp_path / "variants.yaml") == STRONG
    names = {}
    exec(blocks["python"], names)
    assert names["STRONG_RETENTION"] == STRONG
    assert list(tomllib.loads(blocks["toml"])["project"]["entry-points"]) == [variants.ENTRY_POINTS]
    told = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    assert told == {field.name for field in fields(RetentionVariantConfig)} - {"name"}


# --- installed packages


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Makes a package that brings variants, as an installer would leave it on the path."""
    variants._installed.cache_clear()

    def make(package, entry_points, code="from configs.retention_variants import RetentionVariantConfig\n"):
        folder = tmp_path / package
        metadata = folder / f"{package}-1.0.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = [f"{name} = {package}:{value}" for name, value in entry_points.items()]
        (metadata / "entry_points.txt").write_text("\n".join(["[safe_train.retention_variants]", *lines, ""]))
        (folder / f"{package}.py").write_text(
            f"{code}STRONG = RetentionVariantConfig(**{strong_fields()!r})\nTHREE = 3\n"
        )
        monkeypatch.syspath_prepend(folder)
        return folder

    yield make
    variants._installed.cache_clear()
    for name in ("brings_one", "brings_another"):
        sys.modules.pop(name, None)


def strong_fields():
    return {"name": "own_retention", **FIELDS}


def test_a_package_brings_a_variant_that_is_imported_when_it_is_asked_for(install):
    install("brings_one", {"own_retention": "STRONG"})
    assert find_variant("full_retention") is RETENTION_VARIANTS["full_retention"]
    assert build_config({}, {}).variant == "full_retention"
    assert "brings_one" not in sys.modules
    assert find_variant("own_retention") == STRONG
    assert build_config({}, {"variant": "own_retention"}).retention_variant() == STRONG
    assert Retention([], variant="own_retention").resolved == STRONG
    assert "own_retention\n" in invoke("variants").stdout


@pytest.mark.parametrize(
    ("entry_points", "message"),
    [
        ({"full_retention": "STRONG"}, "expected a new name, got that of a registered variant; rename"),
        ({"mine": "STRONG"}, "expected a variant of name mine, got own_retention"),
        ({"mine": "THREE"}, "expected a RetentionVariantConfig, got int"),
        ({"mine": "ABSENT"}, "expected a variant that can be imported"),
    ],
)
def test_what_a_package_may_not_bring_is_one_line(install, entry_points, message):
    install("brings_one", entry_points)
    (name,) = entry_points
    line = refused("train", "--variant", name)
    assert line.startswith(f"error: retention variant {name} of brings_one: ")
    assert message in line


def test_two_packages_with_one_name_are_refused(install):
    install("brings_one", {"own_retention": "STRONG"})
    install("brings_another", {"own_retention": "STRONG"})
    with pytest.raises(InputError, match=r"expected a new name, got that of retention variant own_retention of brings"):
        find_variant("full_retention")


def test_a_file_may_not_name_a_package_s_variant(install, file):
    install("brings_one", {"own_retention": "STRONG"})
    with pytest.raises(
        InputError, match=r"variants\.yaml: own_retention: expected a new name, got that of .*brings_one"
    ):
        find_variant("full_retention", file)


# --- a run


@pytest.fixture(scope="module")
def trained(small_data, tmp_path_factory):
    """A finished run of two steps with a variant of a file, and the file."""
    root = tmp_path_factory.mktemp("runs")
    file = root / "variants.yaml"
    file.write_text(FILE)
    settings = (
        "evaluation.max_vl=8", "evaluation.max_audio=8", "optimization.audio_batch_size=2",
        "optimization.vl_batch_size=2", "retention.fisher_samples=4", "retention.null_space_min_samples=2",
        "evaluation.conditions=[silence]",
    )  # fmt: skip
    result = invoke(
        "train", "--variant", "own_retention", "--variants-file", file, "--data-root", small_data,
        "--output-root", root / "runs", "--max-steps", 2, *(word for s in settings for word in ("--set", s)),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    (run,) = (root / "runs").iterdir()
    return run, file


@pytest.fixture
def run(trained, tmp_path):
    """The run in a folder that the test may change; its file stays where it is."""
    return Path(shutil.copytree(trained[0], tmp_path / trained[0].name))


def test_the_run_records_what_the_variant_was(run):
    written = json.loads((run / "config.json").read_text())
    assert run.name.endswith("_own_retention")
    recorded = written["effective"]["retention_variant"]
    assert recorded == replace(STRONG, null_space_min_samples=2).to_dict()
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert "kl" in last
    assert "ewc" not in last


def test_it_is_resumed_while_the_file_says_the_same_and_refused_afterwards(run, trained):
    file = trained[1]
    assert invoke("train", "--resume", run).exit_code == 0
    try:
        file.write_text(FILE.replace("fisher_weight: 0.0", "fisher_weight: 0.5"))
        line = refused("train", "--resume", run)
        assert line.startswith(f"error: {file}: own_retention: expected what {run / 'config.json'} recorded")
        assert "fisher_weight 0.5 in place of 0.0" in line
        file.write_text(FILE.replace("Distillation", "Distilling"))  # what it does is the same
        assert invoke("train", "--resume", run).exit_code == 0
        file.unlink()
        assert "expected a readable YAML" in refused("train", "--resume", run)
    finally:
        file.write_text(FILE)


def test_a_registered_variant_that_was_edited_is_refused_too(run, monkeypatch):
    path = run / "config.json"
    described = json.loads(path.read_text()) | {"variants_file": None}
    path.write_text(json.dumps(described))
    edited = replace(STRONG, distillation_weight=2.0)
    registry = {**RETENTION_VARIANTS, "own_retention": edited}
    monkeypatch.setattr(variants.retention_variants, "RETENTION_VARIANTS", registry)
    assert "distillation_weight 2.0 in place of 1.0" in refused("train", "--resume", run)


def test_it_is_reported_and_exported_where_there_is_no_such_file(run, tmp_path):
    """As on another machine."""
    path = run / "config.json"
    path.write_text(path.read_text().replace("variants.yaml", "elsewhere.yaml"))
    reported = invoke("report", run, "--output", tmp_path / "report.html")
    assert reported.exit_code == 0, reported.output
    assert "own_retention" in (tmp_path / "report.html").read_text()
    exported = invoke("export", run, tmp_path / "adapter")
    assert exported.exit_code == 0, exported.output
    assert "own_retention" in (tmp_path / "adapter" / "README.md").read_text()


def test_two_variants_of_one_name_are_two_arms_of_a_report(run, tmp_path):
    other = Path(shutil.copytree(run, tmp_path / "other"))
    path = other / "config.json"
    described = json.loads(path.read_text())
    described["effective"]["retention_variant"]["distillation_weight"] = 0.25
    path.write_text(json.dumps(described))
    result = invoke("report", run, other, "--output", tmp_path / "report.html")
    assert result.exit_code == 0, result.output
    assert "own_retention (distillation_weight 0.25)" in (tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_it_is_evaluated_again_and_planned(run, trained):
    assert invoke("eval", run, "--max-vl", 4).exit_code == 0
    planned = invoke("train", "--variant", "own_retention", "--variants-file", trained[1], "--dry-run")
    assert planned.exit_code == 0, planned.output
    assert "own_retention" in planned.stdout


def test_importing_the_configuration_looks_up_no_package():
    code = "import sys, safe_train.config; sys.exit(safe_train.variants._installed.cache_info().currsize)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
