"""The two packages: the whole, which lives beside other projects, and the kernels, which need torch alone."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
TOP_LEVEL = {"safe_kernels", "safe_train", f"safe_audio-{VERSION}.dist-info"}
OTHERS = ("configs", "experiments", "containers")
"""What is in the checkout, and what other projects call their own packages too."""

UNWANTED = shutil.ignore_patterns("__pycache__", "build", "*.egg-info", "*.sif", "*.manifest", "runs_*", "data_pack")
PIP = ("-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir")


def copy_sources(folder):
    """Copies what a wheel is built from, and what must not get into it."""
    folder.mkdir()
    for name in ("safe_kernels", "safe_train", *OTHERS):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=UNWANTED)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


def build_wheel(sources, folder):
    subprocess.run([sys.executable, *PIP, folder, sources], check=True)
    (wheel,) = folder.glob("safe_audio-*.whl")
    return wheel


def top_level(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name.partition("/")[0] for name in archive.namelist()}


def contents(wheel):
    """Digest of each file by its path in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {entry.filename: entry.CRC for entry in archive.infolist() if not entry.is_dir()}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    return copy_sources(tmp_path_factory.mktemp("whole") / "sources")


@pytest.fixture(scope="module")
def wheel(sources, tmp_path_factory):
    return build_wheel(sources, tmp_path_factory.mktemp("wheels"))


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory):
    """A folder into which the wheel was unpacked."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture
def hostile(tmp_path):
    """The folder of another project, none of whose packages may be imported."""
    for package in OTHERS:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(f"raise RuntimeError('{package} of another project')\n")
    (tmp_path / "configs" / "retention_variants.py").write_text("RETENTION_VARIANTS = {}\n")
    return tmp_path


def run(site, folder, *command):
    """Runs Python in the other project's folder, with the packages of the unpacked wheel."""
    environment = os.environ | {"PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, *map(str, command)], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def safe(*arguments):
    return "-c", "from safe_train.cli import safe; safe(prog_name='safe')", *arguments


def test_the_wheel_has_two_packages_and_no_other(wheel):
    assert top_level(wheel) == TOP_LEVEL


def test_the_earlier_list_of_packages_is_caught(sources, tmp_path):
    """Negative control."""
    copy = Path(shutil.copytree(sources, tmp_path / "copy", symlinks=True, ignore=shutil.ignore_patterns("build")))
    project = copy / "pyproject.toml"
    earlier = 'include = ["safe_kernels*", "safe_train*", "configs*", "experiments*", "containers*"]'
    text, count = re.subn(r"^include = \[\"safe_kernels\".*$", earlier, project.read_text(), flags=re.MULTILINE)
    assert count == 1
    project.write_text(text)
    assert top_level(build_wheel(copy, tmp_path / "wheels")) == TOP_LEVEL | set(OTHERS)


def test_the_wheel_holds_every_file_of_safe_train_and_the_registries_as_files(wheel, site):
    held = {name.removeprefix("safe_train/") for name in contents(wheel) if name.startswith("safe_train/")}
    own = {
        Path(folder, name).relative_to(ROOT / "safe_train").as_posix()
        for folder, _, names in os.walk(ROOT / "safe_train", followlinks=True)
        for name in names
        if "__pycache__" not in folder
    }
    assert held == own
    assert {"py.typed", "configs/retention_variants.py", "report/page.js", "report/style.css"} <= held
    assert "embedded/weights/base/model.safetensors" in held
    for path in (ROOT / "configs").glob("*.py"):
        installed = site / "safe_train" / "configs" / path.name
        assert not installed.is_symlink()
        assert installed.read_bytes() == path.read_bytes()


def test_a_wheel_of_the_source_distribution_is_the_same(wheel, sources, tmp_path):
    code = "import sys, setuptools.build_meta; setuptools.build_meta.build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, tmp_path], cwd=sources, check=True, capture_output=True)
    (archive,) = tmp_path.glob("safe_audio-*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path, filter="data")
    assert contents(build_wheel(tmp_path / f"safe_audio-{VERSION}", tmp_path / "wheels")) == contents(wheel)


def test_the_wheel_is_as_large_as_its_weights_and_a_mebibyte(wheel):
    """Weights hardly compress; what comes to a mebibyte beside them is no code and does not belong into the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        weights = sum(entry.compress_size for entry in archive.infolist() if entry.filename.endswith(".safetensors"))
    size = wheel.stat().st_size
    print(f"{wheel.name}: {size / 2**20:.2f} MiB, of which weights {weights / 2**20:.2f} MiB")
    assert weights < size < weights + 2**20


def test_git_ignores_no_module():
    """A package called like an ignored folder would be missing in every clone, and in its wheel."""
    command = [
        "git",
        "ls-files",
        "--others",
        "--ignored",
        "--exclude-standard",
        "--",
        "safe_train",
        "safe_kernels",
        *OTHERS,
    ]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    assert [name for name in listed.stdout.splitlines() if name.endswith(".py")] == []


def test_commands_work_in_the_folder_of_another_project(site, hostile):
    told = run(site, hostile, "-m", "safe_train", "--help")
    assert told.returncode == 0, told.stderr
    assert "--variant" in told.stdout
    listed = run(site, hostile, *safe("variants"))
    assert listed.returncode == 0, listed.stderr
    assert "full_retention\n" in listed.stdout


def test_a_run_works_in_the_folder_of_another_project(site, hostile, small_data):
    settings = (
        "evaluation.max_vl=4", "evaluation.max_audio=4", "optimization.audio_batch_size=2",
        "optimization.vl_batch_size=2", "evaluation.conditions=[]",
    )  # fmt: skip
    done = run(
        site, hostile, "-m", "safe_train", "--variant", "no_retention", "--max-steps", 1, "--data-root", small_data,
        *(word for setting in settings for word in ("--set", setting)),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(list(hostile.glob("runs/*/metrics.json"))) == 1


@pytest.mark.slow
def test_a_trainer_works_in_the_folder_of_another_project(site, hostile):
    code = """
import sys
from pathlib import Path
import safe_train.huggingface
assert safe_train.__file__.startswith(sys.argv[1]), safe_train.__file__
from tests.finetuning.tiny_text import SETTINGS, retentive, rows, text_model
retention = safe_train.huggingface.Retention(rows(32, 2), settings=SETTINGS, rows_per_step=4)
trainer = retentive(Path("out"), text_model(adapter=False), retention, max_steps=2)
trainer.train()
assert trainer.state.global_step == 2
assert not {"configs", "experiments", "containers"} & set(sys.modules)
"""
    done = run(site, hostile, "-c", code, site)
    assert done.returncode == 0, done.stderr


def test_containers_ask_for_a_checkout_and_import_no_other_package(site, hostile):
    refused = run(site, hostile, *safe("container", "build"))
    assert refused.returncode == 2
    (line,) = refused.stderr.splitlines()
    assert line.startswith("error: safe container: expected a checkout")


def test_an_import_of_the_other_project_s_package_is_caught(site, hostile, tmp_path):
    """Negative control: a module that asks for `configs` by the checkout's name."""
    changed = Path(shutil.copytree(site, tmp_path / "changed"))
    module = changed / "safe_train" / "cli" / "variants.py"
    module.write_text(module.read_text().replace("from safe_train.configs.", "from configs."))
    done = run(changed, hostile, "-m", "safe_train", "--help")
    assert done.returncode == 1
    assert "RuntimeError: configs of another project" in done.stderr


# --- the kernels alone


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder into which a wheel of a copy of the sources was unpacked."""
    folder = tmp_path_factory.mktemp("kernels")
    unwanted = shutil.ignore_patterns("__pycache__", "build", "*.egg-info")
    shutil.copytree(ROOT / "safe_kernels", folder / "sources", ignore=unwanted)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", folder / "wheels", folder / "sources"], check=True)
    (wheel,) = (folder / "wheels").glob("safe_kernels-*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def test_the_package_of_the_kernels_holds_every_module(installed):
    found, wanted = (
        {path.relative_to(root) for path in (root / "safe_kernels").rglob("*.py")} for root in (installed, ROOT)
    )
    assert found == wanted
    assert (installed / "safe_kernels/py.typed").exists()


def test_it_works_away_from_the_checkout(installed, tmp_path):
    code = """
import sys, torch, safe_kernels
assert safe_kernels.__file__.startswith(sys.argv[1]), safe_kernels.__file__
logits = torch.tensor([[1.0, 2.0]])
assert float(safe_kernels.kl_divergence(logits, logits)) == 0.0
tensor, basis = torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0], [0.0]])
safe_kernels.project_null_space_([tensor], [basis])
assert tensor.tolist() == [[0.0, 4.0]]
assert not {"safe_train", "configs", "transformers"} & set(sys.modules)
"""
    environment = {"PYTHONPATH": str(installed), "SAFE_KERNELS_BACKEND": "torch", "PATH": "/usr/bin:/bin"}
    subprocess.run([sys.executable, "-c", code, str(installed)], check=True, cwd=tmp_path, env=environment)


def test_version_and_requirements_are_those_of_the_whole():
    whole, kernels = (
        tomllib.loads(path.read_text())["project"]
        for path in (ROOT / "pyproject.toml", ROOT / "safe_kernels/pyproject.toml")
    )
    for key in ("version", "requires-python", "license", "authors"):
        assert kernels[key] == whole[key]
    assert set(kernels["dependencies"]) < set(whole["dependencies"])
