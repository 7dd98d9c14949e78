"""The kernels are a package of their own as well, which holds all of them and needs torch alone."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


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
