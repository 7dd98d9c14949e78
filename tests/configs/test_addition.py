"""The README's addition to the registry, made in a copy of the checkout: one constant and one line are all it takes."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COPIED = ("configs", "safe_train", "safe_kernels", "tests", "pyproject.toml")


def read_addition():
    """The added lines of the README's diff, each with the line of the file that it stands before or after."""
    diff = re.search(r"```diff\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1].splitlines()
    first_kept = next(index for index, line in enumerate(diff) if not line.startswith("+"))
    constant = [line[1:] for line in diff[:first_kept]]
    kept = [line[1:] for line in diff if not line.startswith("+")]
    entry = [line[1:] for line in diff[first_kept:] if line.startswith("+")]
    return constant, kept, entry


@pytest.fixture
def copied(tmp_path):
    """A copy of the checkout with the addition in it."""
    unwanted = shutil.ignore_patterns("__pycache__", "weights", ".hypothesis")
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / name, symlinks=True, ignore=unwanted)
        else:
            shutil.copy(ROOT / name, tmp_path / name)
    constant, kept, entry = read_addition()
    registry = tmp_path / "configs" / "retention_variants.py"
    place = "\n".join(kept)
    text = registry.read_text()
    assert text.count(place) == 1
    registry.write_text(text.replace(place, "\n".join([*constant, "", *kept, *entry])))
    return tmp_path


def run(folder, *command):
    return subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True, check=False)


def test_it_is_one_constant_and_one_line():
    constant, _, entry = read_addition()
    assert constant[0].endswith(" = RetentionVariantConfig(")
    assert constant[-1] == ")"
    assert len(entry) == 1


def test_the_variant_is_listed_and_can_be_asked_for(copied):
    listed = run(copied, "-c", "from safe_train.cli import safe; safe()", "variants")
    assert "strong_retention\n  Distillation with five times the weight" in listed.stdout, listed.stderr
    code = """
from configs.retention_variants import get_variant_config
from safe_train.config import build_config
assert get_variant_config("strong_retention") is build_config({}, {"variant": "strong_retention"}).retention_variant()
"""
    done = run(copied, "-c", code)
    assert done.returncode == 0, done.stderr


def test_the_registry_s_own_tests_allow_it(copied):
    done = run(copied, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/configs/test_retention_variants.py")
    assert done.returncode == 0, done.stdout
